"""Profiles, heat maps, costs, published values and provenance, from records."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nowag_exp.published import Published
from nowag_exp.records.record import RunRecord
from nowag_exp.records.wide import Section, sections
from nowag_exp.report.beside import beside
from nowag_exp.report.costs import MOST_LINES as MOST_BARS
from nowag_exp.report.costs import costs
from nowag_exp.report.heatmap import heat_maps
from nowag_exp.report.profile import MOST_LINES, profile
from nowag_exp.report.provenance import origins, warnings

Make = Callable[..., RunRecord]


def test_a_profile_has_the_errors_of_each_linear_by_block(vary: Make, tmp_path: Path) -> None:
    records = [vary("a", "dense", 5.0), vary("b", "wanda", 9.0)]
    (section,) = sections(records, tmp_path)
    found = profile(section)
    assert found is not None
    (line,) = found.lines
    assert found.linears == ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"]
    assert line.errors["mlp.down_proj"] == pytest.approx({0: 0.1, 1: 0.2, 2: 0.3})
    (section,) = sections(records[:1], tmp_path)
    assert profile(section) is None


def test_a_profile_of_many_rows_keeps_the_best_of_each_method(vary: Make, tmp_path: Path) -> None:
    of_wanda = [vary(f"w{n}", "wanda", 9.0 + n, sparsity=n / 100) for n in range(1, 11)]
    (section,) = sections([*of_wanda, vary("m", "magnitude", 99.0)], tmp_path)
    found = profile(section)
    assert found is not None
    assert len(found.lines) == MOST_LINES
    assert "magnitude 50%" in [line.name for line in found.lines], "the worst of all, but the best of its method"
    assert "wanda 1%" in [line.name for line in found.lines]
    assert "wanda 10%" not in [line.name for line in found.lines]
    assert found.left_out == "Left out: 3 of 11 rows; the best of each method is drawn first."


def test_a_heat_map_holds_each_model_against_its_own_dense(of_models: list[Section]) -> None:
    perplexity, accuracy = heat_maps(of_models)
    assert perplexity.models == [section.model for section in of_models]
    cells = dict(zip(perplexity.lines, perplexity.cells, strict=True))
    hostile, llama = cells["nowag_p 2:4"]
    assert hostile is not None
    assert llama is not None
    assert (llama.text, hostile.text) == ("12.00", "19.00")
    assert (llama.loss, hostile.loss) == pytest.approx((math.log(12 / 5), math.log(19 / 12)))
    assert [cell.loss for cell in dict(zip(accuracy.lines, accuracy.cells, strict=True))["rtn 0%"] if cell] == (
        pytest.approx([10, 10])
    )


def test_one_model_makes_no_heat_map_and_a_model_without_dense_no_loss(vary: Make, tmp_path: Path) -> None:
    records = [vary("a", "dense", 5.0), vary("b", "wanda", 9.0), vary("c", "wanda", 9.0, model="other")]
    assert heat_maps(sections(records[:2], tmp_path)) == []
    ((cells,),) = [found.cells for found in heat_maps(sections(records, tmp_path))][:1]
    assert [cell and cell.loss is None for cell in cells] == [False, True]


def test_costs_are_means_over_seeds_and_peaks_are_highest(vary: Make, tmp_path: Path) -> None:
    one, two = vary("a", "wanda", 9.0), vary("b", "wanda", 9.5, seed=1)
    slower = {**two.costs.stages, "compression": replace(two.costs.stages["compression"], seconds=5.0)}
    (section,) = sections([one, replace(two, costs=replace(two.costs, stages=slower))], tmp_path)
    (line,) = costs(section).lines
    assert line.seconds == {"calibration": 2.0, "compression": 4.0, "measurement": 4.0, "load and save": 0.5}
    assert (line.gigabytes, line.gpu_gigabytes, line.reused) == (2.0, 1.0, ["calibration"])


def test_a_stage_that_no_part_names_is_not_lost(vary: Make, tmp_path: Path) -> None:
    made = vary("a", "wanda", 9.0)
    stages = {**made.costs.stages, "novelty": made.costs.stages["compression"]}
    (section,) = sections([replace(made, costs=replace(made.costs, stages=stages))], tmp_path)
    (line,) = costs(section).lines
    assert sum(line.seconds.values()) == pytest.approx(sum(cost.seconds for cost in stages.values()))


def test_all_rows_have_costs_though_a_figure_has_no_room(vary: Make, tmp_path: Path) -> None:
    records = [vary(f"w{n}", "wanda", 9.0 + n, sparsity=n / 100) for n in range(1, MOST_BARS + 3)]
    found = costs(sections(records, tmp_path)[0])
    assert (len(found.lines), len(found.drawn)) == (MOST_BARS + 2, MOST_BARS)
    assert found.left_out == "Left out: the 2 fastest rows; the table has them."


def test_published_values_stand_beside_measured_ones_with_what_differs(vary: Make, tmp_path: Path) -> None:
    row = Published(
        paper="A paper", table="Table 1", model="llama2_7b", method="wanda", finetuned="no", bits=16.0,
        sparsity_pattern="2:4", context_length=4096, calibration="c4 128x4096", metric="perplexity", task="wikitext2",
        value=12.5, rounding=0.05, source="read there", file="a.csv", line=2,
    )  # fmt: skip
    made = vary("a", "wanda", 12.0, pattern="2:4", model="llama2_7b")
    made = replace(made, metrics=[replace(made.metrics[0], protocol="wikitext2@512"), *made.metrics[1:]])
    others = [vary("b", "nowag_p", 12.0, pattern="2:4", model="llama2_7b"), vary("c", "wanda", 12.0, model="other")]
    (line,) = beside(sections([made, *others], tmp_path), [row])
    assert (line.model, line.name, line.metric) == ("llama2_7b", "wanda 2:4", "perplexity wikitext2@512")
    assert (line.ours, line.published, line.difference) == ("12.00 ± 0.25", "12.50", "-0.50 ± 0.25")
    assert line.source == "A paper, Table 1"
    assert any("calibration" in words for words in line.differences)


def test_origins_are_counted_and_a_table_of_several_is_warned_of(of_models: list[Section]) -> None:
    most, other = origins(of_models)
    assert (most.package, other.package, other.n_records) == ("0", "9", 1)
    assert other.commit == "abc with uncommitted changes"
    hostile, llama = of_models
    assert warnings(llama) == []
    found = warnings(hostile)
    assert f"{hostile.model}: its records differ in nowag_exp: 0 (9), 9 (1)." in found
    assert f"{hostile.model}: 1 of 10 records are of code with uncommitted changes." in found
