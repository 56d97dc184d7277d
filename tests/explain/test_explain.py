"""``nowag-exp explain``: what differs between two records, and what each setting alone changes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nowag_exp.calibration import CompressedLinear
from nowag_exp.cli import main
from nowag_exp.compose import compose
from nowag_exp.config import build_experiment
from nowag_exp.errors import RequestError
from nowag_exp.evaluation import Metric
from nowag_exp.execution import run_all
from nowag_exp.experiment import Workbench
from nowag_exp.explain import explain, plan_attribution
from nowag_exp.explain.factors import factors
from nowag_exp.ledger import Irregularity
from nowag_exp.progress import Reporter
from nowag_exp.records.record import RunRecord, load_records

RESULTS = Path("results")


@pytest.fixture
def make(workplace: Path, tiny_run: list[str]) -> Callable[..., RunRecord]:
    """Run one experiment in ``results``."""

    def _make(*overrides: str) -> RunRecord:
        experiment = build_experiment(compose([*tiny_run, *overrides]))
        (outcome,) = run_all([experiment], Workbench(), Reporter())
        assert outcome.record, outcome.failure
        return outcome.record

    return _make


@pytest.fixture
def explained(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command prints about two records."""

    def _explained(a: RunRecord, b: RunRecord, *options: str) -> str:
        capsys.readouterr()
        assert main(["explain", a.fingerprint, b.fingerprint, *options]) == 0
        return capsys.readouterr().out

    return _explained


@pytest.fixture
def doctored(
    make: Callable[..., RunRecord], workplace: Path, rewrite_record: Callable[[Path, dict[str, Any]], None]
) -> Callable[..., Path]:
    """Write a record again in another folder, changed by a function of its JSON."""

    def _doctored(record: RunRecord, change: Callable[[dict[str, Any]], object]) -> Path:
        content = json.loads((RESULTS / "runs" / f"{record.fingerprint}.json").read_text())
        change(content)
        path = workplace / "other" / "runs" / f"{record.fingerprint}.json"
        rewrite_record(path, content)
        return path

    return _doctored


def losses(record: RunRecord) -> np.ndarray:
    return np.array(next(metric.values for metric in record.metrics if metric.name == "perplexity"))


def attributed(a: RunRecord, b: RunRecord):
    planned = plan_attribution((RESULTS, a), (RESULTS, b), RESULTS, Workbench())
    assert planned is not None
    return planned, planned.run(Workbench(), Reporter())


def conclusion(text: str) -> str:
    assert text.splitlines()[-1].startswith("conclusion: ")
    return text.splitlines()[-1].removeprefix("conclusion: ")


def test_one_setting_that_differs_is_the_whole_gap(make, explained) -> None:
    a, b = make("method=wanda", "method.pattern=2:4"), make("method=wanda")
    before = load_records(RESULTS)
    text = explained(a, b, "--attribute")
    assert conclusion(text).startswith("different settings: method.pattern (2:4, unstructured); ")
    assert "3 experiments, 3 recorded already, 0 to run" in text
    gap = losses(b) - losses(a)
    assert f"{gap.mean():+.4g} ± {gap.std(ddof=1) / 2:.2g}" in text
    assert not any(line.startswith("interaction") for line in text.splitlines())
    assert load_records(RESULTS) == before


def test_two_seeds_of_one_method_are_never_called_settings_that_differ(make, explained) -> None:
    a, b = make("method=wanda"), make("method=wanda", "seed=1")
    text = explained(a, b)
    assert conclusion(text).startswith("the same settings with other seeds: calibration.seed (0, 1); ")
    assert "the settings: not shown, A and B are of one setting" in conclusion(text)


def test_effects_are_the_differences_of_independent_runs_and_the_interaction_is_the_rest(make, explained) -> None:
    a = make("method=wanda", "method.pattern=2:4")
    b = make("method=wanda", "seed=1", "method.propagate=dense")
    planned, (gap, *_) = attributed(a, b)
    assert [factor.name for factor in planned.factors] == ["seed", "method.pattern", "method.propagate"]
    assert planned.factors[0].describe() == "seed (0, 1) with calibration.seed"
    assert planned.describe().splitlines()[0] == "5 experiments, 2 recorded already, 3 to run"
    alone = [
        losses(make("method=wanda", "method.pattern=2:4", "seed=1", "paths.results=apart")),
        losses(make("method=wanda", "paths.results=apart")),
        losses(make("method=wanda", "method.pattern=2:4", "method.propagate=dense", "paths.results=apart")),
    ]
    for effect, values in zip(gap.effects, alone, strict=True):
        expected = values - losses(a)
        assert effect.found is not None
        assert effect.found.value == pytest.approx(expected.mean(), rel=1e-12)
        assert effect.found.standard_error == pytest.approx(expected.std(ddof=1) / 2, rel=1e-12)
    total = losses(b) - losses(a)
    rest = total - sum(values - losses(a) for values in alone)
    assert gap.total is not None
    assert gap.total.value == pytest.approx(total.mean(), rel=1e-12)
    assert gap.interaction is not None
    assert gap.interaction.value == pytest.approx(rest.mean(), rel=1e-9)
    assert gap.interaction.standard_error == pytest.approx(rest.std(ddof=1) / 2, rel=1e-9)
    text = explained(a, b, "--attribute")
    assert "5 experiments, 5 recorded already, 0 to run" in text
    assert f"{100 * np.expm1(total.mean()):+.3g}%" in text


def test_a_conclusion_does_not_give_tokens_as_the_reason_when_it_is_another(make_record, tmp_path: Path) -> None:
    quiz = [Metric("acc", "quiz/easy", 0.5, 0.1, "f00", 2, None, {})]
    a, b = (make_record(name, name, [1.0], metrics=quiz) for name in ("wanda", "magnitude"))
    found = explain((tmp_path, a), (tmp_path, b))
    assert "wanda.items.parquet: cannot be read" in " ".join(found.left_out)
    assert "tokens" not in found.conclusion
    assert "no metric could be tested" in found.conclusion


def config(*overrides: str) -> dict[str, Any]:
    return compose(["model=tiny", *overrides])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # Sparsity follows from the pattern on both sides, so it is no factor of its own ...
        (["method.pattern=2:4"], ["method.pattern=1:4"], {"method.pattern": ["pattern", "sparsity"]}),
        # ... unless it was set on one of them.
        (
            ["method.pattern=2:4"],
            ["method.pattern=unstructured", "method.sparsity=0.7"],
            {"method.pattern": ["pattern"], "method.sparsity": ["sparsity"]},
        ),
        (["seed=0"], ["seed=1"], {"seed": ["seed"], "calibration.seed": None}),
        (["model.context_length=64"], ["model.context_length=32"], {"model.context_length": ["context_length"]}),
        # Of two classes, what both have is a factor of its own; what only one has goes with the class.
        (
            ["method=wanda"],
            ["method=nowag_p"],
            {"method": ["_target_", "name", "normalise"], "method.propagate": ["propagate"]},
        ),
        (
            ["method=wanda", "method.pattern=1:4"],
            ["method=nowag_p", "method.pattern=2:4"],
            {"method.pattern": ["pattern", "sparsity"], "method.propagate": ["propagate"]},
        ),
        (
            ["method=kmeans_vq", "seed=1"],
            ["method=nowag_vq", "method.d=4"],
            {"method": ["_target_", "name", "weighted", "normalise"], "method.d": ["d"], "seed": ["seed"]},
        ),
        # One follows the model's group size, the other is a constant.
        (["method=gptq"], ["method=sparsegpt"], {"method.bits": ["bits"], "method.group_size": ["group_size"]}),
        (["method=wanda"], ["method=nowag_vq"], {"method": None, "method.propagate": ["propagate"]}),
        (["calibration=wiki_sample"], ["calibration=c4"], {"calibration text": None}),
        (["model.init_seed=0"], ["model.init_seed=1"], {"model weights": ["init_seed"]}),
    ],
)
def test_keys_that_only_follow_another_go_with_it(a: list[str], b: list[str], expected: dict[str, Any]) -> None:
    first, second = config(*a), config(*b)
    found = {factor.name: factor for factor in factors(first, second)}
    for name, keys in expected.items():
        if name == "calibration.seed":
            assert name not in found
        elif keys is not None:
            own = {change.key.rpartition(".")[2] for change in found[name].changes if change.key != "calibration.seed"}
            assert own - ({"seed"} if keys != ["seed"] else set()) == set(keys), name
    # All factors together turn the one config into the other, but for the evaluation.
    changed = first
    for factor in found.values():
        changed = factor.apply(changed)
    assert {**changed, "evaluation": None} == {**second, "evaluation": None}


def test_a_seed_that_was_set_apart_is_a_factor_of_its_own() -> None:
    found = factors(config("method=nowag_vq"), config("method=nowag_vq", "seed=1", "method.seed=5"))
    assert {factor.name: [change.key for change in factor.changes] for factor in found} == {
        "seed": ["calibration.seed", "seed"],
        "method.seed": ["method.seed"],
    }


def test_a_class_and_the_settings_that_both_classes_have_are_tried_apart(make) -> None:
    a, b = make("method=wanda"), make("method=nowag_p")
    assert [record.config["method"]["propagate"] for record in (a, b)] == ["compressed", "dense"]
    planned, (gap, *_) = attributed(a, b)
    assert [factor.name for factor in planned.factors] == ["method", "method.propagate"]
    assert [factor.describe() for factor in planned.factors] == [
        "method (wanda, nowag_p)",
        "method.propagate (compressed, dense)",
    ]
    alone = [
        losses(make("method=nowag_p", "method.propagate=compressed", "paths.results=apart")),
        losses(make("method=wanda", "method.propagate=dense", "paths.results=apart")),
    ]
    for effect, values in zip(gap.effects, alone, strict=True):
        assert effect.found is not None
        assert effect.found.value == pytest.approx((values - losses(a)).mean(), rel=1e-12)
    rest = losses(b) + losses(a) - sum(alone)
    assert gap.interaction is not None
    assert gap.interaction.value == pytest.approx(rest.mean(), rel=1e-9)


def test_a_setting_that_means_nothing_in_the_other_class_is_impossible(make) -> None:
    a = make("method=gptq", "method.group_size=null")
    b = make("method=nowag_vq", "method.d=2", "method.bits=1.5")
    planned = plan_attribution((RESULTS, a), (RESULTS, b), RESULTS, Workbench())
    assert planned is not None
    jobs = {job.name: job for job in planned.jobs}
    assert jobs["method.bits (4, 1.5)"].experiment is None
    assert "method.bits" in jobs["method.bits (4, 1.5)"].problem
    assert jobs["method (gptq, nowag_vq)"].experiment is not None, "256 codewords of 2 fit"
    (gap, *_) = planned.run(Workbench(), Reporter())
    effects = {effect.factor.name: effect for effect in gap.effects}
    assert effects["method.bits"].value is None
    assert effects["method.propagate"].value is not None
    assert not gap.is_complete


def test_other_metrics_are_attributed_if_the_runs_differ_in_them(make) -> None:
    a, b = make("method=wanda", "method.pattern=2:4"), make("method=wanda")
    effect_of = {metric.name: np.array(metric.values) for metric in b.metrics}
    assert set(effect_of) == {"perplexity", "kl", "top1_agreement"}

    def with_values(record: RunRecord, kl: list[float], agreement: list[float]) -> RunRecord:
        values = {"kl": kl, "top1_agreement": agreement}
        return replace(
            record,
            metrics=[
                replace(metric, values=values[metric.name], value=float(np.mean(values[metric.name])))
                if metric.name in values
                else metric
                for metric in record.metrics
            ],
        )

    # Differences of 1 by a standard deviation of 0.01, and of 0 on the mean.
    first = with_values(a, [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5])
    second = with_values(b, [1.1, 1.21, 1.29, 1.4], [0.4, 0.6, 0.4, 0.6])
    _, gaps = attributed(first, second)
    assert [gap.metric for gap in gaps] == ["perplexity", "kl"]
    kl = gaps[1]
    assert kl.total is not None
    assert kl.total.value == pytest.approx(1.0)
    assert kl.total.standard_error == pytest.approx(np.sqrt(0.0002 / 3) / 2)
    assert kl.effects[0].found is not None
    assert kl.effects[0].found.value == pytest.approx(effect_of["kl"].mean() - 0.25)
    # Without a real difference it is left out.
    _, gaps = attributed(first, with_values(b, [0.2, 0.1, 0.4, 0.3], [0.4, 0.6, 0.4, 0.6]))
    assert [gap.metric for gap in gaps] == ["perplexity"]


def test_settings_that_only_one_method_has_are_said_to_be_that(make, explained) -> None:
    text = explained(make("method=wanda"), make("method=sparsegpt", "method.bits=null"))
    (line,) = (line for line in text.splitlines() if line.startswith("only one method has these: "))
    for entry in ("method.bits (-, null)", "method.dampening (-, 0.01)", "method.on_failure (-, raise)"):
        assert line.count(entry) == 1
    assert "change no number by themselves" not in text
    # NoWag-P's normalisation is the paper's, which its fingerprint leaves out.
    text = explained(make("method=wanda"), make("method=nowag_p"))
    assert "only one method has these: method.normalise (-, both)\n" in text
    assert "method.propagate (compressed, dense)" in conclusion(text)


def test_the_noise_floor_follows_from_dense(make, explained) -> None:
    dense, wanda = make("method=dense"), make("method=wanda")
    text = explained(dense, wanda)
    assert "noise_floor_windows" not in text
    expected = "different settings: method.class (Dense, Wanda), calibration (not used, used); "
    assert conclusion(text).startswith(expected)
    # Set otherwise for the two, it still changes none of the numbers that both have.
    apart = make("method=wanda", "evaluation.noise_floor_windows=3", "paths.results=apart")
    found = explain((RESULTS, dense), (Path("apart"), apart))
    assert found.conclusion.startswith(expected)
    assert [change.key for change in found.no_number] == ["evaluation.noise_floor_windows", "paths.results"]
    # Of two dense models it is a setting.
    text = explained(dense, make("method=dense", "evaluation.noise_floor_windows=3"))
    assert conclusion(text).startswith("different settings: evaluation.noise_floor_windows (")


def test_a_combination_that_is_impossible_is_said_and_the_others_go_on(make, explained) -> None:
    a = make("method=nowag_p", "method.pattern=2:4")
    b = make("method=nowag_p", "method.sparsity=0.7", "seed=1")
    text = explained(a, b, "--attribute")
    assert "method.sparsity (0.5, 0.7): impossible, method.sparsity: " in text
    assert "the rest: interaction and what could not be run" in text
    assert text.count("recorded (") + text.count(": to run") == 4


def test_a_factor_that_a_does_not_depend_on_is_said_to_be_one(make, explained) -> None:
    a, b = make("method=magnitude"), make("method=wanda", "seed=1")
    text = explained(a, b, "--attribute")
    assert "A does not depend on it" in text
    assert any(line.startswith("interaction") for line in text.splitlines()), "B may depend on it"
    assert ["calibration", "not", "used", "used"] in [line.split() for line in text.splitlines()]
    assert "method.class (Magnitude, Wanda)" in conclusion(text)


def test_other_calibration_text_is_named_by_its_path_and_its_hash(make, explained, workplace: Path) -> None:
    (workplace / "other.txt").write_text((workplace / "cal.txt").read_text() + "More of it, and then an end. " * 40)
    a, b = make("method=wanda"), make("method=wanda", "calibration.path=other.txt")
    text = explained(a, b, "--attribute")
    assert conclusion(text).startswith("different settings: calibration.path (cal.txt, other.txt)")
    assert "calibration.files.0.sha256" in text
    assert "calibration tokens" in text
    assert "calibration text (cal.txt, other.txt): recorded" in text


def test_the_same_path_with_other_content_is_different_data(make, explained, workplace: Path) -> None:
    a = make("method=wanda")
    (workplace / "cal.txt").write_text((workplace / "cal.txt").read_text()[::-1])
    b = make("method=wanda")
    text = explained(a, b, "--attribute")
    assert conclusion(text).startswith("the same settings on different data: calibration.files.0.sha256 (")
    assert "perplexity files:eval.txt@64: today's code on this machine gives B's number" in text
    assert "A's experiment has another fingerprint today" in text


def test_a_record_against_itself_is_said_to_be_one(make, explained, capsys) -> None:
    a = make("method=wanda")
    expected = f"A and B are one record, {a.fingerprint}: there is nothing to explain"
    text = explained(a, a, "--attribute")
    assert conclusion(text) == expected
    assert "running A's experiment again" not in text
    assert main(["explain", a.fingerprint, str(Path.cwd() / "results" / "runs" / f"{a.fingerprint}.json")]) == 0
    assert conclusion(capsys.readouterr().out) == expected


def test_equal_records_of_two_folders_are_identical(make, doctored, capsys) -> None:
    a = make("method=wanda")
    assert main(["explain", a.fingerprint, str(doctored(a, lambda content: None))]) == 0
    assert conclusion(capsys.readouterr().out) == "identical: the same inputs gave the same numbers"


def test_keys_that_change_no_number_have_a_line_of_their_own(make, doctored, capsys) -> None:
    a = make("method=wanda")

    def elsewhere(content: dict[str, Any]) -> None:
        content["config"]["runtime"]["batch_tokens"] = 64
        content["config"]["paths"]["results"] = "other"

    path = doctored(a, elsewhere)
    assert main(["explain", a.fingerprint, str(path)]) == 0
    text = capsys.readouterr().out
    assert "differ, but change no number by themselves: runtime.batch_tokens, paths.results" in text
    assert conclusion(text) == "identical: the same inputs gave the same numbers"


def test_equal_settings_with_other_numbers_are_numerics_and_a_rerun_tells_whose_are_todays(
    make, doctored, capsys
) -> None:
    a = make("method=wanda")

    def elsewhere(content: dict[str, Any]) -> None:
        content["provenance"]["libraries"]["torch"] = "2.9.9"
        content["provenance"]["threads"] = 77
        metric = next(metric for metric in content["metrics"] if metric["name"] == "perplexity")
        metric["values"] = [value + 1e-4 for value in metric["values"]]
        metric["value"] = float(np.exp(np.mean(metric["values"])))

    path = doctored(a, elsewhere)
    assert main(["explain", a.fingerprint, str(path), "--attribute"]) == 0
    text = capsys.readouterr().out
    versions = a.provenance["libraries"]["torch"]
    assert conclusion(text) == (
        f"numerics: the same inputs gave other numbers; what differs is libraries.torch ({versions}, 2.9.9), "
        f"threads ({a.provenance['threads']}, 77)"
    )
    assert "gives A's number" in text
    assert "at most 0 from A and 0.0001 from B on one window or item, where A and B are 0.0001 apart" in text
    assert f"so B is attributed to what it was made with; then and today: libraries.torch (2.9.9, {versions})" in text
    assert len(load_records(RESULTS)) == 1, "the rerun leaves nothing behind"


def test_numbers_that_differ_for_no_recorded_reason_are_called_that(make, doctored, capsys) -> None:
    a = make("method=wanda")
    path = doctored(a, lambda content: content["metrics"][0].update(value=1.0))
    assert main(["explain", a.fingerprint, str(path)]) == 0
    assert "nothing that is recorded of versions and machine differs" in conclusion(capsys.readouterr().out)


def test_another_version_of_our_code_is_named(make, doctored, capsys) -> None:
    a = make("method=wanda")
    path = doctored(a, lambda content: content["identity"]["method"].update(version=0))
    assert main(["explain", a.fingerprint, str(path)]) == 0
    expected = f"the same settings in different versions of our code: method.version ({a.identity['method']['version']}"
    assert conclusion(capsys.readouterr().out).startswith(expected)


def test_the_evaluation_is_a_factor_if_no_metric_is_on_the_same_tokens(make) -> None:
    a = make("method=wanda")
    b = make("method=wanda", "method.pattern=2:4", "evaluation.files.n_windows=3")
    measured_as_b = make("method=wanda", "evaluation.files.n_windows=3")
    planned, (gap, *_) = attributed(a, b)
    assert planned.measured_otherwise
    assert gap.a == a.metrics[0].value
    assert gap.otherwise is not None
    assert gap.otherwise.value == measured_as_b.metrics[0].value
    assert gap.total is not None
    assert gap.total.value == pytest.approx((losses(b) - losses(measured_as_b)).mean(), rel=1e-12)


def test_records_on_other_tokens_are_not_compared(make, doctored, capsys) -> None:
    a = make("method=wanda", "model.init_seed=1")

    def other_tokens(content: dict[str, Any]) -> None:
        content["identity"]["model"]["init_seed"] = 2
        for metric in content["metrics"]:
            metric["token_hash"] = "0" * 64

    path = doctored(a, other_tokens)
    assert main(["explain", a.fingerprint, str(path)]) == 0
    text = capsys.readouterr().out
    assert "perplexity files:eval.txt@64: measured on different tokens, so not comparable" in text
    assert conclusion(text).startswith("different settings: model.init_seed (1, 2); no metric could be tested, for")
    assert main(["explain", a.fingerprint, str(path), "--attribute"]) == 2
    assert "(their tokenizers differ), so their values per token do not compare" in capsys.readouterr().err


def test_records_of_different_models_on_the_same_tokens_are_compared(make, explained) -> None:
    a, b = make("method=wanda"), make("method=wanda", "model.init_seed=1")
    text = explained(a, b, "--attribute")
    assert "A and B are of different models or dtypes" in text
    assert "with model weights: model.init_seed (0, 1)" in text


def test_the_ledger_and_the_linears_are_compared(make) -> None:
    def linears(*errors: float) -> list[CompressedLinear]:
        return [CompressedLinear(f"l{i}", (10, 10), 50, "sparse", 875, error) for i, error in enumerate(errors)]

    made = make("method=wanda")
    a = replace(
        made,
        irregularities=[Irregularity("dead_columns", "x", "3 inputs are always 0", 3)],
        compression=replace(made.compression, linears=linears(0.1, 0.2, 0.3)),
    )
    b = replace(
        made,
        irregularities=[
            Irregularity("dead_columns", "x", "4 inputs are always 0", 4),
            Irregularity("tied_scores", "y", "in 1 row", 1),
        ],
        compression=replace(made.compression, linears=linears(0.1, 0.5, 0.31)),
    )
    found = explain((RESULTS, a), (RESULTS, b))
    assert [(entry.kind, entry.only_a, entry.only_b) for entry in found.ledger] == [
        ("dead_columns", [], []),
        ("tied_scores", [], ["y"]),
    ]
    assert [(change.key, change.a, change.b) for change in found.ledger[0].counts] == [("x", 3, 4)]
    assert [change.key for change in found.linears] == ["l1", "l2"]


def test_wrong_names_are_errors(make, capsys) -> None:
    a = make("method=wanda")
    assert main(["explain", a.fingerprint, "nope"]) == 2
    assert "nope: no record in results/runs; give a fingerprint" in capsys.readouterr().err
    assert main(["explain", a.fingerprint, "nope.json"]) == 2
    assert "nope.json: no such file" in capsys.readouterr().err
    assert main(["explain", a.fingerprint, a.fingerprint, "method=wanda"]) == 2
    assert "this verb takes no override but paths.results=DIR" in capsys.readouterr().err


def test_what_cannot_be_run_here_is_said(make, doctored) -> None:
    a = make("method=wanda")
    b = make("method=wanda", "method.pattern=2:4")
    Path("cal.txt").unlink()
    planned = plan_attribution((RESULTS, a), (RESULTS, b), RESULTS, Workbench())
    assert planned is not None
    with pytest.raises(RequestError, match=r"A cannot be had here, .*calibration\.path=cal\.txt: no such file"):
        planned.run(Workbench(), Reporter())
