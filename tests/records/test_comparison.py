"""``nowag-exp compare``: which differences of two records are real."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from nowag_exp.cli import main
from nowag_exp.errors import RequestError
from nowag_exp.evaluation import Metric
from nowag_exp.records.comparison import compare_records, find_record, render_comparison
from nowag_exp.records.items import items_path, save_items
from nowag_exp.records.record import RunRecord, save_record

Make = Callable[..., RunRecord]
A = [3.0, 3.5, 2.9, 3.2]
B = [2.9, 3.4, 2.81, 3.1]


def saved(results: Path, record: RunRecord) -> tuple[Path, RunRecord]:
    save_record(results, record)
    return results, record


def test_what_differs_is_said_with_its_test(make_record: Make, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    quiz = [Metric("acc", "quiz/easy", 0.5, 0.1, "f00", 20, None, {})]
    for name, method, losses, right in (("aaaa", "wanda", A, 10), ("abbb", "nowag_p", B, 11)):
        made = make_record(name, method, losses)
        items = pd.DataFrame({"suite": "quiz", "task": "easy", "acc": [1] * right + [0] * (20 - right)})
        metrics = [*made.metrics, replace(quiz[0], value=right / 20)]
        saved(tmp_path, replace(made, metrics=metrics, items_sha256=save_items(tmp_path, name, items)))
    assert main(["compare", "aa", "ab", f"paths.results={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "A: llama wanda 2:4, dense activations, wiki_sample 8 x 512, seed 0 (aaaa)" in out
    (perplexity,) = [line for line in out.splitlines() if line.startswith("perplexity")]
    (accuracy,) = [line for line in out.splitlines() if line.startswith("acc")]
    assert "-0.0975 ± 0.0025" in perplexity
    assert "paired t" in perplexity
    assert perplexity.rstrip().endswith("B is better")
    assert "McNemar" in accuracy
    assert accuracy.rstrip().endswith("not shown")
    assert "the settings: not shown, one seed each" in out


def seeded(results: Path, make: Make, method: str, losses: list[float], shifts: list[float]) -> list[RunRecord]:
    """Saved records of one setting, a seed each, whose losses lie higher by a shift."""
    records = [
        make(f"{method}{seed}", method, [loss + shift for loss in losses], seed=seed)
        for seed, shift in enumerate(shifts)
    ]
    for record in records:
        save_record(results, record)
    return records


def test_two_seeds_of_one_setting_are_said_to_be_that(make_record: Make, tmp_path: Path) -> None:
    a, b = seeded(tmp_path, make_record, "wanda", A, [0.0, 0.1])
    found = compare_records((tmp_path, a), (tmp_path, b))
    assert found.runs[0].is_shown, "0.1 higher on every window: another model"
    assert found.settings == []
    assert "one setting" in found.untested
    text = render_comparison(a, b, found)
    assert "these two runs" in text
    assert "the settings: not shown" in text


def test_settings_are_compared_over_all_seeds_recorded_beside_the_two(make_record: Make, tmp_path: Path) -> None:
    gap, shifts_a, shifts_b = -0.1, [0.0, 0.02, 0.04], [0.0, 0.01, 0.05]
    a = seeded(tmp_path, make_record, "wanda", A, shifts_a)
    b = seeded(tmp_path, make_record, "nowag_p", [x + gap + 0.001 * i for i, x in enumerate(A)], shifts_b)
    found = compare_records((tmp_path, a[0]), (tmp_path, b[1]))
    (line,) = found.settings
    assert line.found is not None
    # By hand: gaps -0.1 + {0, 1, 2, 3} thousandths, and the seeds' means 0.02 on both sides. Over 4 windows e² =
    # (5 / 3) 1e-6 / 4; seeds scatter with variances 4e-4 and 7e-4, over 3 each.
    assert line.found.value == pytest.approx(-0.0985)
    assert line.found.standard_error == pytest.approx((5e-6 / 12 + 11e-4 / 3) ** 0.5)
    assert line.is_shown
    assert found.seeds == ("0, 1, 2", "0, 1, 2")
    assert "B is better" in render_comparison(a[0], b[1], found).split("the settings, over all")[1]


def test_a_lead_of_two_runs_that_other_seeds_do_not_bear_out_is_none_of_settings(
    make_record: Make, tmp_path: Path
) -> None:
    a = seeded(tmp_path, make_record, "wanda", A, [0.0, 0.3, -0.3])
    b = seeded(tmp_path, make_record, "nowag_p", A, [-0.1, 0.3, -0.2])
    found = compare_records((tmp_path, a[0]), (tmp_path, b[0]))
    assert found.runs[0].is_shown
    (line,) = found.settings
    assert not line.is_shown
    assert line.smallest is not None
    assert line.smallest > 0.5, "what scatters by 0.3 shows nothing below"
    assert "not shown" in render_comparison(a[0], b[0], found).split("the settings, over all")[1]
    assert found.summary.startswith(
        "these two runs: 1 of 1 metrics differ; the settings, over seeds: no difference shown"
    )


def test_seeds_that_share_their_calibration_are_no_independent_draws(make_record: Make, tmp_path: Path) -> None:
    def with_method_seed(record: RunRecord, seed: int) -> RunRecord:
        method = {**record.identity["method"], "seed": seed}
        return replace(
            record, fingerprint=f"{record.fingerprint}{seed}", identity={**record.identity, "method": method}
        )

    a = [with_method_seed(make_record("a", "wanda", A), seed) for seed in (0, 1, 2)]
    b = [with_method_seed(make_record("b", "nowag_vq", B), seed) for seed in (0, 1, 2)]
    for record in (*a, *b):
        save_record(tmp_path, record)
    found = compare_records((tmp_path, a[0]), (tmp_path, b[0]))
    assert found.settings == []
    assert found.untested == "one seed each"


def test_a_metric_with_fewer_seeds_than_the_others_is_left_out_of_the_settings_alone(
    make_record: Make, tmp_path: Path
) -> None:
    a = seeded(tmp_path, make_record, "wanda", A, [0.0, 0.02])
    b = seeded(tmp_path, make_record, "nowag_p", B, [0.0, 0.01])
    a[0], b[0] = (
        replace(record, metrics=[replace(record.metrics[0], name="kl"), *record.metrics]) for record in (a[0], b[0])
    )
    found = compare_records((tmp_path, a[0]), (tmp_path, b[0]))
    assert [line.a.name for line in found.runs] == ["kl", "perplexity"]
    assert [line.a.name for line in found.settings] == ["perplexity"]
    assert found.seeds == ("0, 1", "0, 1")
    assert any(line.startswith("kl ") and "one seed each" in line for line in found.left_out)


def test_what_draws_nothing_is_a_setting_by_itself(make_record: Make, tmp_path: Path) -> None:
    a, b = make_record("a", "rtn", A), make_record("b", "magnitude", B)
    a, b = (replace(record, identity={**record.identity, "calibration": None}) for record in (a, b))
    found = compare_records((tmp_path, a), (tmp_path, b))
    assert found.untested == ""
    assert "nothing is drawn at random" in render_comparison(a, b, found)
    seeds = seeded(tmp_path, make_record, "wanda", B, [0.0, 0.01])
    against = compare_records((tmp_path, a), (tmp_path, seeds[0]))
    assert against.untested == ""
    assert against.seeds == ("", "0, 1")


def test_metrics_on_different_tokens_are_not_compared(make_record: Make, tmp_path: Path) -> None:
    a, b = make_record("a", "wanda", A), make_record("b", "nowag_p", B, token_hash="other")
    with pytest.raises(RequestError, match=r"nothing to compare: perplexity .*: measured on different tokens"):
        compare_records(saved(tmp_path, a), saved(tmp_path, b))


def test_what_only_one_record_has_is_said(make_record: Make, tmp_path: Path) -> None:
    a, b = make_record("a", "wanda", A), make_record("b", "nowag_p", B)
    a = replace(a, metrics=[*a.metrics, replace(a.metrics[0], name="kl")])
    b = replace(b, metrics=[*b.metrics, replace(b.metrics[0], name="top1_agreement")])
    found = compare_records((tmp_path, a), (tmp_path, b))
    assert [line.a.name for line in found.runs] == ["perplexity"]
    assert found.left_out == ["kl wiki_sample@512: only A has it", "top1_agreement wiki_sample@512: only B has it"]


def test_the_noise_floor_is_no_property_of_a_model_to_compare(make_record: Make, tmp_path: Path) -> None:
    a, b = make_record("a", "dense", A), make_record("b", "dense", B)
    a, b = (replace(r, metrics=[*r.metrics, replace(r.metrics[0], name="noise_floor_kl")]) for r in (a, b))
    found = compare_records((tmp_path, a), (tmp_path, b))
    assert [line.a.name for line in found.runs] == ["perplexity"]
    assert found.left_out == []


def test_p_values_are_adjusted_for_the_number_of_lines(make_record: Make, tmp_path: Path) -> None:
    a, b = make_record("a", "wanda", A), make_record("b", "nowag_p", [x + 0.1 * (i - 1) for i, x in enumerate(A)])
    alone = compare_records((tmp_path, a), (tmp_path, b)).runs
    twice = [replace(r, metrics=[r.metrics[0], replace(r.metrics[0], protocol="other@1")]) for r in (a, b)]
    both = compare_records((tmp_path, twice[0]), (tmp_path, twice[1])).runs
    assert alone[0].p_value is not None
    assert [line.p_value for line in both] == [pytest.approx(2 * alone[0].p_value)] * 2


def test_a_record_is_found_by_file_or_by_the_first_digits_of_its_fingerprint(make_record: Make, tmp_path: Path) -> None:
    for name in ("abc1", "abd2"):
        saved(tmp_path, make_record(name, "wanda", A))
    assert find_record(tmp_path, "abc")[1].fingerprint == "abc1"
    elsewhere = find_record(Path("nowhere"), str(tmp_path / "runs" / "abd2.json"))
    assert (elsewhere[0], elsewhere[1].fingerprint) == (tmp_path, "abd2")
    with pytest.raises(RequestError, match=r"ab: 2 records of .* begin with it; give a fingerprint"):
        find_record(tmp_path, "ab")
    with pytest.raises(RequestError, match=r"x: no record in .*runs; give a fingerprint"):
        find_record(tmp_path, "x")
    for silly in ("", "*", "/", "../runs/abc1"):
        with pytest.raises(RequestError, match="no record in"):
            find_record(tmp_path, silly)
    with pytest.raises(RequestError, match=r"x\.json: no such file; give a record's file"):
        find_record(tmp_path, "x.json")


def test_the_items_of_a_record_are_beside_it_wherever_its_name_is_typed(
    make_record: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiz = [Metric("acc", "quiz/easy", 0.5, 0.1, "f00", 4, None, {})]
    for name, right in (("aaaa", [1, 1, 0, 0]), ("bbbb", [1, 0, 0, 1])):
        items = pd.DataFrame({"suite": "quiz", "task": "easy", "acc": right})
        made = make_record(name, "wanda", A, metrics=quiz)
        save_record(tmp_path / "results", replace(made, items_sha256=save_items(tmp_path / "results", name, items)))
    linked = tmp_path / "link.json"
    linked.symlink_to(tmp_path / "results" / "runs" / "aaaa.json")
    monkeypatch.chdir(tmp_path / "results" / "runs")
    for a in ("aaaa.json", "./aaaa.json", "../runs/aaaa.json", "../../link.json"):
        assert main(["compare", a, "bbbb.json"]) == 0
        assert "acc quiz/easy" in capsys.readouterr().out


def test_items_that_are_missing_or_changed_are_named(make_record: Make, tmp_path: Path) -> None:
    quiz = [Metric("acc", "quiz/easy", 0.5, 0.1, "f00", 2, None, {})]
    items = pd.DataFrame({"suite": "quiz", "task": "easy", "acc": [1, 0]})
    sha256 = save_items(tmp_path, "aaaa", items)
    made = replace(make_record("aaaa", "wanda", A, metrics=quiz), items_sha256=sha256)
    items_path(tmp_path, "aaaa").write_bytes(b"other")
    with pytest.raises(RequestError, match=r"aaaa\.items\.parquet: is not what its record was written with; remove"):
        compare_records((tmp_path, made), (tmp_path, made))
    items_path(tmp_path, "aaaa").unlink()
    with pytest.raises(RequestError, match=r"aaaa\.items\.parquet: cannot be read .*remove aaaa\.json beside it"):
        compare_records((tmp_path, made), (tmp_path, made))
