"""SmolLM2-135M and the packaged Wikipedia articles: the numbers mean something here."""

import math

import pytest
import torch

from nowag_exp.compose import compose
from nowag_exp.config import Experiment, build_experiment
from nowag_exp.evaluation import last_states, perplexity, score_windows
from nowag_exp.execution import run_all
from nowag_exp.experiment import Workbench, check
from nowag_exp.models import Batch, CausalLM
from nowag_exp.progress import Reporter

pytestmark = pytest.mark.real_model

SHORT = ["evaluation.wiki_sample.n_windows=4", "evaluation.wiki_sample.context_length=256", "calibration.n_sequences=4"]


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench()


def make(*overrides: str) -> Experiment:
    return build_experiment(compose([*SHORT, *overrides]))


@pytest.fixture(scope="module")
def model(bench: Workbench) -> CausalLM:
    return bench.model(make(), torch.device("cpu"), Reporter())


def test_dense_perplexity_equals_ten_lines_of_transformers(model: CausalLM, bench: Workbench) -> None:
    from transformers import AutoModelForCausalLM

    experiment = make()
    windows = bench.tokens(experiment, "evaluation.wiki_sample").ids
    plain = AutoModelForCausalLM.from_pretrained(experiment.model.folder(), dtype=torch.float32)
    plain.eval()
    losses = []
    for window in windows:
        with torch.no_grad():
            losses.append(plain(window[None], labels=window[None]).loss.item())
    expected = math.exp(sum(losses) / len(losses))

    ours, _ = perplexity(score_windows(model, windows, last_states(model, windows.split(2)), None, lambda: None).losses)
    assert ours == pytest.approx(expected, rel=1e-4)
    assert 10 < ours < 40, "a language model of this size on Wikipedia"


def test_blocks_run_one_by_one_give_the_whole_model(model: CausalLM) -> None:
    ids = torch.randint(49152, (1, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        hidden = model.embed(ids)
        for index in range(model.n_blocks):
            hidden = model.run_block(index, hidden)
        assert torch.equal(model.module.model.norm(hidden), next(model.last_hidden([Batch(ids)])))


def test_the_order_of_methods_at_half_sparsity_is_sane(bench: Workbench, tmp_path) -> None:
    results = f"paths.results={tmp_path}"
    jobs = [make(results, f"method={method}") for method in ("dense", "magnitude", "wanda", "nowag_p")]
    for job in jobs:
        check(job, bench)
    outcomes = run_all(jobs, bench, Reporter())
    dense, magnitude, wanda, nowag_p = (outcome.record.metrics[0].value for outcome in outcomes)
    # Measured on these few tokens: see the README for the full table. Magnitude is worse by a factor, not by noise.
    assert dense < min(wanda, nowag_p)
    assert 2 * max(wanda, nowag_p) < magnitude
    for outcome in outcomes[1:]:
        assert outcome.record.compression.sparsity == pytest.approx(0.5, abs=1e-6)
        assert outcome.record.compression.n_weights == 106_168_320
        assert len(outcome.record.compression.linears) == 210


def test_digits_are_single_tokens_as_in_smollm2s_own_tokenizer(bench: Workbench) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make().model.folder())
    # The split before a digit keeps the line breaks together, which GPT-2's pre-tokenizer does not.
    assert tokenizer.tokenize("a\n\n1984") == ["a", "ĊĊ", "1", "9", "8", "4"]


def test_a_damaged_model_in_the_cache_is_not_used(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from pathlib import Path

    from nowag_exp.models import PackagedModel

    source = make().model
    assert isinstance(source, PackagedModel)
    folder = source.folder()
    monkeypatch.setenv("NOWAG_EXP_CACHE", str(tmp_path))
    copy = Path(shutil.copytree(folder, tmp_path / "models" / folder.name))
    assert source.folder() == copy
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")

    def convert(self: PackagedModel, target: Path) -> dict[str, str]:
        shutil.copytree(folder, target, dirs_exist_ok=True)
        return {}

    monkeypatch.setattr(PackagedModel, "_convert", convert)
    assert source.folder() == copy
    assert (copy / "config.json").read_text() == (folder / "config.json").read_text()
