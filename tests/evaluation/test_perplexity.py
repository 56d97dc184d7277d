import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.errors import NowagError
from nowag_exp.evaluation import Evaluation, perplexity, window_losses
from nowag_exp.models import CausalLM


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(250, (5, 24), generator=torch.Generator().manual_seed(0))


def nothing() -> None:
    pass


def plain_loop(model: CausalLM, ids: torch.Tensor) -> list[float]:
    """The ten lines everybody writes: transformers' own loss, window by window."""
    losses = []
    for window in ids:
        with torch.no_grad():
            losses.append(model.module(window[None], labels=window[None]).loss.item())
    return losses


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_window_losses_equal_the_plain_transformers_loop(model: CausalLM, ids: torch.Tensor, batch_size: int) -> None:
    losses = window_losses(model, ids, batch_size, nothing)
    assert losses.tolist() == pytest.approx(plain_loop(model, ids), rel=1e-5)


def test_a_window_taken_in_slices_gives_the_same(
    model: CausalLM, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = window_losses(model, ids, 5, nothing)
    monkeypatch.setattr(sys.modules["nowag_exp.evaluation.perplexity"], "LOGITS_AT_ONCE", 7 * 258)
    assert window_losses(model, ids, 5, nothing).tolist() == pytest.approx(whole.tolist(), rel=1e-6)


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(model: CausalLM, ids: torch.Tensor) -> None:
    model.module.lm_head.weight.data.zero_()
    value, error = perplexity(window_losses(model, ids, 5, nothing))
    assert value == pytest.approx(258, rel=1e-5)
    assert error == pytest.approx(0, abs=1e-3)


def test_two_windows_worked_by_hand() -> None:
    # Losses ln 4 and ln 16: mean ln 8, sample deviation ln 4 / √2, so the error is 8 · (ln 4 / √2) / √2 = 4 ln 4.
    value, error = perplexity(torch.tensor([math.log(4), math.log(16)], dtype=torch.float64))
    assert value == pytest.approx(8)
    assert error == pytest.approx(4 * math.log(4))


def test_one_window_has_no_error() -> None:
    assert perplexity(torch.tensor([0.0], dtype=torch.float64)) == (1.0, None)


@given(st.lists(st.floats(0, 5), min_size=2, max_size=20))
def test_repeating_the_windows_keeps_the_value_and_shrinks_the_error(losses: list[float]) -> None:
    once = perplexity(torch.tensor(losses, dtype=torch.float64))
    often = perplexity(torch.tensor(losses * 4, dtype=torch.float64))
    assert often[0] == pytest.approx(once[0])
    assert often[1] is not None
    assert once[1] is not None
    assert often[1] <= 0.71 * once[1] + 1e-12


def test_a_loss_that_is_not_finite_raises(model: CausalLM, ids: torch.Tensor) -> None:
    model.module.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NowagError, match="5 of 5 windows have NaN or infinite loss"):
        window_losses(model, ids, 5, nothing)


def test_all_windows_of_a_random_draw_are_refused(workplace: Path) -> None:
    node = compose(["evaluation=c4_windows", "model=tiny", "evaluation.n_windows=null"])["evaluation"]
    with pytest.raises(Exception, match=r"evaluation\.n_windows: null \(all windows\) needs sampling=sequential"):
        build(node, "evaluation", Evaluation)


@given(seed=st.integers(0, 999), scale=st.sampled_from([0.1, 10.0, 1000.0]))
def test_the_loss_in_place_equals_torchs_own_also_for_large_logits(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(7, 30, generator=generator)
    targets = torch.randint(30, (7,), generator=generator)
    expected = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    ours = sys.modules["nowag_exp.evaluation.perplexity"].token_losses(logits.clone(), targets)
    assert ours.tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-4)
