import copy
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
from nowag_exp.evaluation import Perplexity, WindowScores, last_states, noise_floor, perplexity, score_windows
from nowag_exp.models import CausalLM


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(250, (5, 24), generator=torch.Generator().manual_seed(0))


def nothing() -> None:
    pass


def scored(model: CausalLM, ids: torch.Tensor, batch_size: int) -> WindowScores:
    return score_windows(model, ids, last_states(model, ids.split(batch_size)), None, nothing)


def plain_loop(model: CausalLM, ids: torch.Tensor) -> list[float]:
    """The ten lines everybody writes: transformers' own loss, window by window."""
    losses = []
    for window in ids:
        with torch.no_grad():
            losses.append(model.module(window[None], labels=window[None]).loss.item())
    return losses


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_window_losses_equal_the_plain_transformers_loop(model: CausalLM, ids: torch.Tensor, batch_size: int) -> None:
    losses = scored(model, ids, batch_size).losses
    assert losses.tolist() == pytest.approx(plain_loop(model, ids), rel=1e-5)


def test_a_window_taken_in_slices_gives_the_same(
    model: CausalLM, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scored(model, ids, 5).losses
    monkeypatch.setattr(sys.modules["nowag_exp.evaluation.windows"], "LOGITS_AT_ONCE", 7 * 258)
    assert scored(model, ids, 5).losses.tolist() == pytest.approx(whole.tolist(), rel=1e-6)


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(model: CausalLM, ids: torch.Tensor) -> None:
    model.module.lm_head.weight.data.zero_()
    value, error = perplexity(scored(model, ids, 5).losses)
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
    with pytest.raises(NowagError, match=r"5 of 5 windows have NaN or infinite loss; model\.norm\.weight: 1 of 64 "):
        scored(model, ids, 5)


def test_all_windows_of_a_random_draw_are_refused(workplace: Path) -> None:
    node = compose(["evaluation=c4_windows", "model=tiny", "evaluation.c4_windows.n_windows=null"])["evaluation"]
    with pytest.raises(
        Exception, match=r"evaluation\.c4_windows\.n_windows: null \(all windows\) needs sampling=sequential"
    ):
        build(node["c4_windows"], "evaluation.c4_windows", Perplexity)


def slow_scores(dense: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> tuple[float, float, int]:
    """Loss, divergence and agreement of each token by their definitions, in float64, summed."""
    p, q = dense.double().softmax(dim=1), logits.double().softmax(dim=1)
    loss = sum(-math.log(q[t, target]) for t, target in enumerate(targets.tolist()))
    kl = float((p * (p.log() - q.log())).nan_to_num(0).sum())
    return loss, kl, sum(int(p[t].argmax() == q[t].argmax()) for t in range(len(p)))


@given(seed=st.integers(0, 999), scale=st.sampled_from([0.1, 10.0, 1000.0]))
def test_the_loss_in_place_equals_torchs_own_also_for_large_logits(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(7, 30, generator=generator)
    targets = torch.randint(30, (7,), generator=generator)
    expected = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    ours = sys.modules["nowag_exp.evaluation.windows"].token_losses(logits.clone(), targets)
    assert ours.tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-4)


@given(seed=st.integers(0, 999), scale=st.sampled_from([0.1, 3.0, 30.0]), apart=st.sampled_from([0.0, 0.01, 1.0]))
def test_the_scores_in_place_equal_their_definitions(seed: int, scale: float, apart: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    dense = scale * torch.randn(7, 30, generator=generator)
    logits = dense + apart * torch.randn(7, 30, generator=generator)
    targets = torch.randint(30, (7,), generator=generator)
    score = sys.modules["nowag_exp.evaluation.windows"]._score
    loss, kl, agreement = slow_scores(dense, logits, targets)
    both = score(logits.clone(), dense.clone(), targets)
    assert both.tolist() == pytest.approx([loss, kl, agreement], rel=1e-5, abs=3e-5)
    assert score(logits.clone(), None, targets).tolist() == pytest.approx([loss, 0, 0], rel=1e-5, abs=3e-5)


def test_one_token_worked_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2; q's first of two equal logits is its choice, as p's.
    score = sys.modules["nowag_exp.evaluation.windows"]._score
    dense, logits = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[5.0, 5.0]])
    loss, kl, agreement = score(logits, dense, torch.tensor([1])).tolist()
    assert loss == pytest.approx(math.log(2))
    assert kl == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)
    assert agreement == 1


def test_the_divergence_of_whole_windows_equals_that_of_transformers_logits(model: CausalLM, ids: torch.Tensor) -> None:
    with torch.no_grad():
        dense_logits, dense = model.module(ids).logits, list(last_states(model, ids.split(2)))
        model.replace_weight("model.layers.0.mlp.up_proj", torch.zeros(192, 64))
        logits = model.module(ids).logits
    scores = score_windows(model, ids, last_states(model, ids.split(3)), dense, nothing)
    assert scores.kl is not None
    assert scores.agreement is not None
    for window in range(5):
        _, kl, agreement = slow_scores(dense_logits[window, :-1], logits[window, :-1], ids[window, 1:])
        assert float(scores.kl[window]) == pytest.approx(kl / 23, rel=1e-4, abs=3e-7)
        assert float(scores.agreement[window]) == pytest.approx(agreement / 23)
    assert scores.losses.tolist() == pytest.approx(scored(model, ids, 5).losses.tolist(), rel=1e-6)
    itself = score_windows(
        model, ids, last_states(model, ids.split(5)), list(last_states(model, ids.split(5))), nothing
    )
    assert itself.kl is not None
    assert itself.kl.abs().max() < 1e-6


def test_the_noise_floor_is_the_divergence_of_a_bfloat16_copy_from_a_float32_one(
    model: CausalLM, ids: torch.Tensor
) -> None:
    model.module.lm_head.weight.data.mul_(100)  # Sharp predictions, as a trained model's.
    floor = noise_floor(model, ids, 2, nothing)
    assert floor.kl is not None
    assert floor.agreement is not None
    with torch.no_grad():
        exact = model.module(ids).logits
        rounded = copy.deepcopy(model.module).to(torch.bfloat16)
        # As transformers loads it: the frequencies of the positions stay in float32.
        rounded.model.rotary_emb = copy.deepcopy(model.module.model.rotary_emb)
        rounded = rounded(ids).logits
    for window in range(5):
        _, kl, agreement = slow_scores(exact[window, :-1], rounded[window, :-1].float(), ids[window, 1:])
        assert float(floor.kl[window]) == pytest.approx(kl / 23, rel=1e-3)
        assert float(floor.agreement[window]) == pytest.approx(agreement / 23)
    assert 1e-4 < float(floor.kl.mean()) < 0.1
    assert model.dtype == torch.float32
