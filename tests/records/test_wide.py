"""Tables to read: what shares a row, a column and a mark."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from nowag_exp.evaluation import Metric
from nowag_exp.ledger import Irregularity
from nowag_exp.records.items import save_items
from nowag_exp.records.record import RunRecord
from nowag_exp.records.wide import render

Make = Callable[..., RunRecord]
BASE = [30.0, 31.0, 29.0, 30.5, 29.5, 30.2]
BETTER = [x - 1 + 0.01 * i for i, x in enumerate(BASE)]
"""Lower on every window: surely better."""
MIXED = [x + (1 if i % 2 else -1.1) for i, x in enumerate(BASE)]
"""Lower on average, but not surely."""


def marked(records: list[RunRecord], results: Path, mark: str = "*") -> list[str]:
    """Methods of the rows with a mark: ``*`` for settings, ``°`` for these models only."""
    return [line.split()[0] for line in render(records, "text", results).splitlines() if line.endswith(f" {mark}")]


def drawing_nothing(record: RunRecord) -> RunRecord:
    """The same of a method that needs no seed."""
    return replace(record, identity={**record.identity, "calibration": None})


def test_a_better_row_of_a_single_seed_is_marked_as_a_model_and_not_as_a_setting(
    make_record: Make, tmp_path: Path
) -> None:
    rows = [make_record("a", "dense", [1.0] * 6), make_record("b", "wanda", BASE), make_record("c", "nowag_p", BETTER)]
    assert marked(rows, tmp_path) == []
    assert marked(rows, tmp_path, "°") == ["nowag_p"]
    assert "29.06 ± 0.25 °" in render(rows, "md", tmp_path)
    assert r"29.06 ± 0.25 \textdegree{}" in render(rows, "tex", tmp_path)


def test_a_better_row_that_draws_nothing_is_marked_as_a_setting(make_record: Make, tmp_path: Path) -> None:
    rows = [drawing_nothing(make_record("b", "rtn", BASE)), drawing_nothing(make_record("c", "magnitude", BETTER))]
    assert marked(rows, tmp_path) == ["magnitude"]
    assert "**29.06 ± 0.25**" in render(rows, "md", tmp_path)


def test_over_three_seeds_a_clear_lead_is_one_of_settings(make_record: Make, tmp_path: Path) -> None:
    rows = [
        make_record(f"{method}{seed}", method, [x + seed / 20 for x in losses], seed=seed)
        for method, losses in (("wanda", BASE), ("nowag_p", BETTER))
        for seed in (0, 1, 2)
    ]
    assert marked(rows, tmp_path) == ["nowag_p"]
    assert marked(rows[:4], tmp_path) == [], "three seeds against one tell nothing of the second setting"
    assert marked(rows[:4], tmp_path, "°") == ["nowag_p"]


def test_the_better_of_two_is_not_marked_if_its_lead_could_be_chance(make_record: Make, tmp_path: Path) -> None:
    rows = [make_record("b", "wanda", BASE), make_record("c", "nowag_p", MIXED)]
    assert sum(MIXED) < sum(BASE)
    assert marked(rows, tmp_path) == marked(rows, tmp_path, "°") == []


def test_a_single_window_marks_nothing(make_record: Make, tmp_path: Path) -> None:
    rows = [make_record("b", "wanda", [30.0]), make_record("c", "nowag_p", [10.0])]
    assert marked(rows, tmp_path) == marked(rows, tmp_path, "°") == []


def test_a_row_must_beat_those_of_comparable_size_alone(make_record: Make, tmp_path: Path) -> None:
    worst, best = [x + 5 for x in BASE], [x - 5 - 0.1 * i for i, x in enumerate(BASE)]
    rows = [
        make_record("a", "vq", BASE, bits=2.0),
        make_record("b", "kmeans", [x + 0.1 * i for i, x in enumerate(worst)], bits=2.19),
        make_record("c", "gptq", best, bits=4.0),
        make_record("d", "rtn", BETTER, bits=4.4),
        make_record("e", "wanda", [x + 1 for x in best], bits=9.0),
        make_record("f", "magnitude", worst, bits=9.9),
        make_record("g", "alone", [x - 20 for x in BASE], bits=6.0),
    ]
    assert sorted(marked(rows, tmp_path, "°")) == ["gptq", "vq", "wanda"], "wanda, though a smaller row is better"
    assert "within 10%" in render(rows, "text", tmp_path)


def test_seeds_share_a_row_with_their_mean_and_spread(make_record: Make, tmp_path: Path) -> None:
    rows = [make_record(f"w{seed}", "wanda", [x + seed for x in BASE], seed=seed) for seed in (0, 1, 2)]
    text = render(rows, "text", tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("wanda")]
    # Means 30.03, 31.03 and 32.03.
    assert "31.03 ± 0.25 (s 1.00)" in line
    assert "seed 0,1,2" in text


def test_a_lead_that_the_seeds_do_not_bear_out_is_not_marked(make_record: Make, tmp_path: Path) -> None:
    steady = [make_record(f"w{seed}", "wanda", BASE, seed=seed) for seed in (0, 1, 2)]
    lucky = [
        make_record(f"n{seed}", "nowag_p", [x + shift for x in BETTER], seed=seed)
        for seed, shift in enumerate([-3.0, 0.0, 3.0])
    ]
    assert marked([steady[0], lucky[1]], tmp_path, "°") == ["nowag_p"]
    both = [*steady, *lucky]
    assert marked(both, tmp_path) == marked(both, tmp_path, "°") == []


def test_values_on_different_tokens_share_a_column_only_when_told_to_and_are_marked(
    make_record: Make, tmp_path: Path
) -> None:
    rows = [make_record("a", "dense", BASE), make_record("b", "wanda", BASE), make_record("c", "nowag_p", BETTER)]
    rows[2] = replace(rows[2], metrics=[replace(rows[2].metrics[0], token_hash="0123456789")])
    text = render(rows, "text", tmp_path)
    assert "perplexity wiki_sample@512 #f00" in text
    assert "perplexity wiki_sample@512 #01234567" in text
    mixed = render(rows, "text", tmp_path, allow_mixed=True)
    assert "#" not in mixed.split("bits:")[0]
    assert "29.06 ± 0.25 †" in mixed
    assert mixed.count("†") == 2
    assert "†: measured on other tokens" in mixed
    assert " *\n" not in mixed, "values on different tokens are never held against each other"


def test_models_have_sections_of_their_own(make_record: Make, tmp_path: Path) -> None:
    rows = [make_record("a", "wanda", BASE), make_record("b", "wanda", [x / 6 for x in BASE], model="big")]
    big, llama = render(rows, "text", tmp_path).split("llama\n")
    assert big.startswith("big\n")
    assert "5.01 ± 0.25" in big
    assert "30.03 ± 0.25" in llama


def test_the_calibration_that_all_share_is_a_line_and_otherwise_columns(make_record: Make, tmp_path: Path) -> None:
    rows = [make_record("a", "dense", BASE), make_record("b", "wanda", BASE)]
    text = render(rows, "text", tmp_path)
    assert "calibration, where a method uses one: wiki_sample, 8 x 512 tokens, seed 0" in text
    assert "sequences" not in text
    other = replace(rows[1], fingerprint="c", labels=replace(rows[1].labels, n_sequences=16))
    identity = {**rows[1].identity, "calibration": {**rows[1].identity["calibration"], "n_sequences": 16}}
    text = render([*rows, replace(other, identity=identity)], "text", tmp_path)
    assert "sequences" in text
    assert "where a method uses one" not in text


def test_irregularities_are_shown_when_there_are_any(make_record: Make, tmp_path: Path) -> None:
    rows = [make_record("a", "dense", BASE), make_record("b", "wanda", BASE)]
    assert "irregularities" not in render(rows, "text", tmp_path)
    rows[1] = replace(rows[1], irregularities=[Irregularity("dead_columns", "x", "y", 2)] * 2)
    assert "dead_columns:4" in render(rows, "text", tmp_path)


def test_the_noise_floor_is_a_line_below_the_table(make_record: Make, tmp_path: Path) -> None:
    values = [0.001, 0.002]
    floor = [
        Metric("perplexity", "t@8", 3.0, 0.1, "f00", 2, [1.0, 1.1], {}),
        Metric("noise_floor_kl", "t@8", 0.0015, 0.0005, "f01", 2, values, {}),
        Metric("noise_floor_top1_agreement", "t@8", 0.985, 0.005, "f01", 2, values, {}),
    ]
    text = render([make_record("a", "dense", BASE, metrics=floor)], "text", tmp_path)
    assert "noise floor of t@8, the dense model in bfloat16 against float32: KL 0.00150 ± 0.00050, top-1 % 98.5" in text
    assert "98.5 ± 0.5 (2 windows)" in text
    assert "noise_floor" not in text


def scored(fingerprint: str, method: str, outcomes: dict[str, list[int]], make: Make, results: Path) -> RunRecord:
    """With a suite of tasks whose items were answered right (1) or wrong (0)."""
    items = [
        {"suite": "quiz", "task": task, "item": i, "acc": right, "flips": i % 2}
        for task, found in outcomes.items()
        for i, right in enumerate(found)
    ]
    metrics = [
        Metric("acc", f"quiz/{task}", sum(found) / len(found), 0.1, "f00", len(found), None, {})
        for task, found in outcomes.items()
    ]
    mean = sum(metric.value for metric in metrics) / len(metrics)
    metrics.append(Metric("acc", "quiz/mean", mean, 0.05, "f00", len(items), None, {}))
    metrics.append(Metric("flips", "quiz", 0.125, 0.05, "f00", len(items), None, {"lost": 3, "won": 2}))
    made = make(fingerprint, method, BASE, metrics=metrics)
    return replace(made, items_sha256=save_items(results, fingerprint, pd.DataFrame(items)))


def test_a_suite_has_a_block_of_its_own_and_winners_by_its_items(make_record: Make, tmp_path: Path) -> None:
    good = scored("a", "wanda", {"easy": [1] * 18 + [0] * 2, "hard": [1, 0] * 10}, make_record, tmp_path)
    poor = scored("b", "magnitude", {"easy": [1] * 4 + [0] * 16, "hard": [0, 1] * 10}, make_record, tmp_path)
    text = render([good, poor], "text", tmp_path)
    assert text.startswith("llama quiz\n")
    headings, _, first, second = text.splitlines()[1:5]
    assert headings.split("  ")[-1].strip() == "flips %"
    assert [word for word in ("easy %", "hard %", "mean %") if word in headings] == ["easy %", "hard %", "mean %"]
    row = {line.split()[0]: line for line in (first, second)}
    assert "90.0 ± 10.0 °" in row["wanda"]
    assert "20.0 ± 10.0" in row["magnitude"]
    assert row["wanda"].count("°") == 2, "easy and the mean, not the task on which both are equal"
    assert "°" not in row["magnitude"]
    assert "12.5 ± 5.0 (-3 +2)" in row["wanda"]


@pytest.mark.parametrize("form", ["tex", "md"])
def test_names_are_escaped_and_the_best_is_bold(make_record: Make, tmp_path: Path, form: str) -> None:
    rows = [drawing_nothing(make_record(*row)) for row in (("b", "wanda|x", BASE), ("c", "nowag_p", BETTER))]
    text = render(rows, form, tmp_path)  # type: ignore[arg-type]
    if form == "tex":
        assert r"nowag\_p" in text
        assert r"\textbf{29.06 ± 0.25}" in text
        assert r"50.0\%" in text
        assert r"perplexity wiki\_sample@512" in text
        assert r"\toprule" in text
    else:
        assert r"wanda\|x" in text
        assert "**29.06 ± 0.25**" in text


def test_whatever_latex_takes_for_a_command_is_escaped(make_record: Make, tmp_path: Path) -> None:
    text = render([make_record("b", r"a\b~c^d<e>f|g{h}", BASE)], "tex", tmp_path)
    assert r"a\textbackslash{}b\~{}c\^{}d\textless{}e\textgreater{}f\textbar{}g\{h\}" in text
    assert r"p \textless{} 0.05" in text


def test_one_setting_measured_in_two_sets_is_one_row_and_keeps_its_mark(make_record: Make, tmp_path: Path) -> None:
    rows = [make_record("b", "wanda", BASE), make_record("c", "nowag_p", BETTER)]
    kl = Metric("kl", "wiki_sample@512", 0.5, 0.1, "f00", 6, [x / 60 for x in BETTER], {})
    again = make_record("d", "nowag_p", BETTER)
    more = replace(again, metrics=[*again.metrics, kl], identity={**again.identity, "evaluation": {"fidelity": True}})
    text = render([*rows, more], "text", tmp_path)
    assert "29.06 ± 0.25 °" in text
    assert len([line for line in text.splitlines() if line.startswith("nowag_p")]) == 1
    assert "0.500 ± 0.100" in text


def test_irregularities_of_one_compression_are_counted_once(make_record: Make, tmp_path: Path) -> None:
    row = replace(make_record("b", "wanda", BASE), irregularities=[Irregularity("dead_columns", "x", "y", 2)])
    again = replace(row, fingerprint="c", identity={**row.identity, "evaluation": {"other": 1}})
    assert "dead_columns:2" in render([row, again], "text", tmp_path)


def test_a_seed_of_the_method_is_told_from_that_of_the_calibration(make_record: Make, tmp_path: Path) -> None:
    rows = []
    for seed, method_seed in ((0, 0), (0, 1), (1, 1)):
        made = make_record(f"{seed}{method_seed}", "nowag_vq", BASE, seed=seed)
        method = {**made.identity["method"], "seed": method_seed}
        rows.append(replace(made, identity={**made.identity, "method": method}))
    text = render(rows, "text", tmp_path)
    assert len([line for line in text.splitlines() if line.startswith("nowag_vq")]) == 1
    assert "seed 0,0/1,1" in text
    assert "seed=" not in text


def test_latex_says_what_it_was_calibrated_on_and_what_bold_means(make_record: Make, tmp_path: Path) -> None:
    tex = render([make_record("b", "wanda", BASE), make_record("c", "nowag_p", BETTER)], "tex", tmp_path)
    assert r"where a method uses one: wiki\_sample, 8 x 512 tokens, seed 0" in tex
    assert "bold: better than every other compressed row of comparable size" in tex
    assert r"10\^{}6 bytes" in tex


def test_irregularities_are_shown_where_only_suites_were_measured(make_record: Make, tmp_path: Path) -> None:
    made = scored("a", "wanda", {"easy": [1, 0]}, make_record, tmp_path)
    made = replace(made, irregularities=[Irregularity("truncated_items", "quiz/easy", "y", 3)])
    assert "truncated_items:3" in render([made], "text", tmp_path)
