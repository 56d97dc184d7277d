"""``nowag-exp reproduce`` from end to end, on a fabricated paper about the tiny model."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from nowag_exp.cli import main
from nowag_exp.evaluation import Metric
from nowag_exp.published import Counterpart, Published, load_published
from nowag_exp.records.pairing import Measured
from nowag_exp.reproduce.verdict import DENSE, ONE_DRAW, tolerance

from ..conftest import PROSE
from .conftest import write_rows

Cli = Callable[..., tuple[int, str, str]]

PAPER = {"paper": "Wanda (arXiv 2306.11695)", "table": "Table 1", "model": "tiny", "context_length": "64"}
DENSE_ROW = {**PAPER, "method": "dense", "sparsity_pattern": "none", "calibration": ""}
WANDA_ROW = {**PAPER, "method": "wanda", "calibration": "c4 8x64"}
MAGNITUDE_ROW = {**PAPER, "method": "magnitude", "calibration": ""}
TINY = ["model=tiny", "data_dir=data", "model.dtype=float32"]


@pytest.fixture
def cli(workplace: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the command in this process, with a forecast that only counts."""
    planning = ModuleType("nowag_exp.planning")
    planning.forecast = lambda experiments, results: (len(experiments), results)  # type: ignore[attr-defined]
    planning.render_forecast = "forecast of {0[0]} experiments in {0[1]}".format  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nowag_exp.planning", planning)
    monkeypatch.setitem(_papers(), PAPER["paper"], _papers_dtype("float32"))
    _write_data(workplace / "data")

    def _cli(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(list(arguments))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        return code, *capfd.readouterr()

    return _cli


def _papers() -> dict:
    from nowag_exp.published.papers import PAPERS

    return PAPERS


def _papers_dtype(dtype: str):
    """The tiny model is float32, which the paper then used as well."""
    from dataclasses import replace

    return replace(_papers()[PAPER["paper"]], dtype=dtype)


def _write_data(folder: Path) -> None:
    """Local copies of wikitext2 and C4, in the hub's layout."""
    texts = {
        "Salesforce/wikitext/wikitext-2-raw-v1/test-00000-of-00001.jsonl": [PROSE[::-1]] * 3,
        "allenai/c4/en/c4-train.00000-of-01024.jsonl": [PROSE * 2, PROSE[50:] * 2],
        "allenai/c4/en/c4-validation.00000-of-00008.jsonl": [PROSE[10:] * 2, PROSE[90:] * 2],
    }
    for name, documents in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


@pytest.fixture
def publish(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make these rows the published numbers, and the first ``n`` of them the table ``mine``."""

    def _publish(*rows: dict[str, str], n: int = 100) -> None:
        folder = workplace / "published"
        monkeypatch.setattr("nowag_exp.published.rows.folder", lambda name: folder)
        write_rows(folder / "mine.csv", *rows[:n])
        write_rows(folder / "others.csv", *rows[n:])
        (folder / "tables").mkdir(exist_ok=True)
        (folder / "tables" / "mine.yaml").write_text(
            "# A table of the tests\nrows:\n  - file: mine.csv\nnotes: [read this]\n"
        )
        (folder / "tables" / "empty.yaml").write_text("# Nothing was found\nrows: []\nnotes: [look there]\n")

    return _publish


def run_alone(cli: Cli, *overrides: str) -> float:
    """The perplexity that plain ``run`` gives, in a results folder of its own."""
    folder = f"alone{len(list(Path().glob('alone*')))}"
    code, _, err = cli("run", *TINY, *overrides, f"paths.results={folder}")
    assert code == 0, err
    (record,) = Path(folder, "runs").glob("*.json")
    (value,) = [
        metric["value"] for metric in json.loads(record.read_text())["metrics"] if metric["name"] == "perplexity"
    ]
    return float(value)


def dense(cli: Cli, context: int = 64) -> float:
    return run_alone(cli, "method=dense", "evaluation=wikitext2", f"evaluation.wikitext2.context_length={context}")


WANDA = ["method=wanda", "method.pattern=2:4", "calibration=c4", "calibration.n_sequences=8", "evaluation=wikitext2"]
REPRODUCE = ["reproduce", "mine", "data_dir=data", "paths.results=out"]


def line_of(out: str, *beginning: str) -> list[str]:
    """The cells of the row of the verdicts that begins with these."""
    (found,) = [line.split() for line in out.splitlines() if line.split()[: len(beginning)] == list(beginning)]
    return found


def test_a_table_is_planned_run_and_found_to_agree(cli: Cli, publish: Callable[..., None]) -> None:
    values = {"dense": dense(cli), "wanda": run_alone(cli, *WANDA)}
    publish(
        {**DENSE_ROW, "value": f"{values['dense']:.2f}"},
        {**WANDA_ROW, "value": f"{values['wanda']:.2f}"},
        {**WANDA_ROW, "sparsity_pattern": "3:128", "value": "7.00"},
        {**PAPER, "method": "quip_sharp", "value": "7.00"},
    )
    code, out, err = cli(*REPRODUCE, "--plan")
    assert code == 0, err
    assert "mine: A table of the tests\nnote: read this\n4 published values, 3 of them measured by 3 experiments" in out
    assert "not run, 1 value: quip_sharp is not implemented" in out
    assert "forecast of 3 experiments in out" in out
    assert not list(Path("out").glob("runs/*"))

    code, out, err = cli(*REPRODUCE, "method=dense,wanda", "sparsity_pattern=none,2:4")
    assert code == 0, err
    for method in ("dense", "wanda"):
        cells = line_of(out, "tiny", method)
        assert cells[-1] == "agrees"
        assert f"{values[method]:.4g}" in cells
    assert "2 agrees" in out
    assert len(list(Path("out/runs").glob("*.json"))) == 2

    code, out, err = cli(*REPRODUCE, "method=dense,wanda", "sparsity_pattern=none,2:4")
    assert code == 0, err
    assert out.count("recorded; published:") == 2
    assert "2 agrees" in out


def test_a_gap_is_told_with_the_trap_that_the_published_values_show(cli: Cli, publish: Callable[..., None]) -> None:
    value = dense(cli)
    publish(
        {**DENSE_ROW, "value": f"{1.1 * value:.2f}"},
        {**DENSE_ROW, "context_length": "32", "value": f"{value:.2f}", "table": "Table 9"},
        {**WANDA_ROW, "value": f"{value:.2f}"},
        n=1,
    )
    code, out, err = cli(*REPRODUCE)
    assert code == 1, err
    assert line_of(out, "tiny", "dense")[-2:] == ["GAP", "[1]"]
    assert (
        f"[1] ours agrees with the dense value of wikitext2, context 32 ({float(f'{value:.2f}'):g}; "
        "Wanda (arXiv 2306.11695), Table 9): check evaluation.wikitext2.context_length" in out
    )
    assert out.rstrip().endswith("1 GAP")


@pytest.mark.parametrize(("row", "limit"), [(DENSE_ROW, DENSE), (WANDA_ROW, ONE_DRAW)])
def test_the_limit_of_agreement_is_the_stated_one(
    cli: Cli, publish: Callable[..., None], row: dict[str, str], limit: float
) -> None:
    overrides = ["method=dense", "evaluation=wikitext2"] if row is DENSE_ROW else WANDA
    value = run_alone(cli, *overrides)
    for factor, code in ((1 - 0.9 * limit, 0), (1 + 0.9 * limit, 0), (1 - 1.2 * limit, 1), (1 + 1.2 * limit, 1)):
        publish({**row, "value": f"{factor * value:.6f}"})
        assert cli(*REPRODUCE)[0] == code, factor


def test_protocols_that_differ_are_said_and_not_compared(cli: Cli, publish: Callable[..., None]) -> None:
    publish(
        {**WANDA_ROW, "calibration": "", "value": "1.00"},
        {**DENSE_ROW, "paper": "Someone", "dataset_or_task": "c4", "value": "1.00"},
    )
    code, out, err = cli(*REPRODUCE)
    assert code == 0, err
    assert line_of(out, "tiny", "wanda")[-3:] == ["not", "compared", "[1]"]
    assert "[1] not stated by the source: calibration set; not stated by the source: number of" in out
    assert "[2] not stated by the source: which C4 windows" in out
    assert "2 not compared" in out
    assert "+" not in line_of(out, "tiny", "dense")[-4], "no difference is shown"


def test_seeds_give_a_spread_and_what_draws_nothing_is_run_once(cli: Cli, publish: Callable[..., None]) -> None:
    publish({**DENSE_ROW, "value": "250.00"}, {**WANDA_ROW, "value": "250.00"})
    _, out, err = cli(*REPRODUCE, "seeds=[0,1,2]")
    assert "forecast of 4 experiments" in out, err
    ours, _, spread, _ = line_of(out, "tiny", "wanda")[5:9]
    assert 0 < float(spread) < 0.05 * float(ours)
    assert len(list(Path("out/runs").glob("*.json"))) == 4


def test_the_limit_with_seeds_is_the_prediction_interval_of_one_more_draw(row: Callable[..., Published]) -> None:
    """Worked by hand: values 10, 11, 12 have s = 1; t(0.975, 2) = 4.3027; 4.3027 · √(4/3) = 4.9683."""

    def measured(*values: float) -> Measured:
        metrics = [Metric("perplexity", "wikitext2@4096", value, 0.1, "f00", 4, None, {}) for value in values]
        return Measured(Path(), [None] * len(values), metrics)  # type: ignore[list-item]

    published = Counterpart(row(value="11.00"), ())
    assert tolerance(published, measured(10.0, 11.0, 12.0)) == pytest.approx(0.005 + 0.022 + 4.9683, abs=1e-4)
    assert tolerance(published, measured(10.0, 12.0)) == pytest.approx(0.005 + 0.22), (
        "two seeds say little about a spread"
    )
    assert tolerance(published, measured(10.0)) == pytest.approx(0.005 + 0.22)
    magnitude = Counterpart(row(value="11.00", method="magnitude", calibration=""), ())
    assert tolerance(magnitude, measured(11.0)) == pytest.approx(0.005 + 0.11)


def test_a_failed_job_is_named_and_the_others_are_compared(
    cli: Cli, publish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nowag_exp.methods import Wanda

    publish({**DENSE_ROW, "value": f"{dense(cli):.2f}"}, {**WANDA_ROW, "value": "1.00"})
    monkeypatch.setattr(Wanda, "score", lambda *args: 1 / 0)
    code, out, _ = cli(*REPRODUCE)
    assert code == 1
    assert line_of(out, "tiny", "dense")[-1] == "agrees"
    assert line_of(out, "tiny", "wanda")[-3:] == ["not", "run", "[1]"]
    assert re.search(r"\[1\] model\.layers\.0\..*: ZeroDivisionError: division by zero \(traceback in out/logs/", out)


def test_our_own_table_is_kept_and_a_perturbed_method_is_a_gap(
    cli: Cli, publish: Callable[..., None], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nowag_exp.methods import Magnitude

    own = {"paper": "nowag_exp", "value": "1", "source": "unknown"}
    publish()
    kept = write_rows(
        workplace / "own.csv",
        {**DENSE_ROW, **own},
        *({**MAGNITUDE_ROW, **own, "metric": m} for m in ("perplexity", "kl")),
    )
    (workplace / "published" / "tables" / "mine.yaml").write_text("# Ours\nrows: [{file: ../own.csv}]\nnotes: []\n")
    code, out, err = cli(*REPRODUCE, "--keep")
    assert code == 0, err
    assert f"wrote {kept}" in out
    text = kept.read_text()
    assert "own run of 20" in text
    assert text.count("torch 2.") == 3
    assert cli(*REPRODUCE)[0] == 0
    code, out, _ = cli(*REPRODUCE, "paths.results=again")
    assert code == 0, out

    score = Magnitude.score
    monkeypatch.setattr(Magnitude, "score", lambda self, weight, seen: (score(self, weight, seen) * 8).round())
    code, out, _ = cli(*REPRODUCE, "paths.results=perturbed")
    assert code == 1
    assert line_of(out, "tiny", "dense")[-1] == "agrees"
    assert "numerics changed between own run of 20" in out
    assert "GAP" in out


def test_a_table_without_numbers_says_so(cli: Cli, publish: Callable[..., None]) -> None:
    publish()
    code, out, err = cli("reproduce", "empty")
    assert (code, err) == (0, "")
    assert out == (
        "empty: Nothing was found\nnote: look there\nno published value was found, so there is nothing to reproduce\n"
    )


def test_without_a_name_the_tables_are_listed(cli: Cli) -> None:
    code, out, _ = cli("reproduce")
    assert code == 0
    names = [line.split()[0] for line in out.splitlines()]
    assert {"nowag_pruning", "nowag_vq", "dense", "embedded"} <= set(names)


def test_without_the_model_the_plan_says_what_it_would_take(cli: Cli) -> None:
    code, out, err = cli("reproduce", "nowag_pruning", "model=llama2_7b", "sparsity_pattern=2:4", "paths.results=out")
    assert code == 0, err
    assert "forecast of 3 experiments in out" in out
    assert "nowag-exp run model=llama2_7b calibration=redpajama" in out
    assert "not run here, 3 experiments: " in out
    assert "nothing was run: this machine has not got what the table needs" in out
    assert not list(Path("out/runs").glob("*.json"))


def test_without_the_hub_a_zero_shot_table_still_says_what_it_needs(cli: Cli) -> None:
    code, out, err = cli("reproduce", "nowag_zero_shot", "model=llama2_7b", "paths.results=out")
    assert code == 0, err
    assert "evaluation=paper_zero_shot" in out
    assert "not run here, 1 experiment: " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "nowag_prunning"], "error: table nowag_prunning: no such table; there are: armor_2_4, dense,"),
        (["reproduce", "dense", "model=llama9"], "error: table dense: model: no row has llama9; there are: llama2_13b"),
        (["reproduce", "dense", "method.sparsity=0.5"], "error: method.sparsity=0.5: chooses no rows, and the table"),
        (["reproduce", "dense", "modle=llama2_7b"], "error: modle=llama2_7b: chooses no rows"),
        (["reproduce", "dense", "llama2_7b"], "error: llama2_7b: is not KEY=VALUE"),
        (["reproduce", "dense", "seeds=3"], "error: seeds=3: must be a list of integers, such as seeds=[0,1,2]"),
        (["reproduce", "dense", "executor=nope"], "error: executor=nope: no such option"),
        (
            ["reproduce", "dense", "runtime.device=gpu"],
            "error: runtime.device: input should be 'auto', 'cpu' or 'cuda'",
        ),
        (
            ["reproduce", "embedded", "seeds=[1]"],
            "error: seeds=[1]: the values of embedded are of seed 0; leave seeds out",
        ),
        (["reproduce", "dense", "--keep"], "error: --keep: writes all values of a table of our own"),
    ],
)
def test_a_wrong_request_exits_with_two(cli: Cli, arguments: list[str], message: str) -> None:
    code, _, err = cli(*arguments)
    assert code == 2
    (line,) = err.strip().splitlines()
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: []\n", "must have the keys rows and notes, and no other"),
        ("rows: [x]\nnotes: []\n", r"rows\[0\]: must name a CSV as file"),
        (
            "rows: [{file: mine.csv, modell: tiny}]\nnotes: []\n",
            r"rows\[0\]: modell: cannot be selected by; there are:",
        ),
        (
            "rows: [{file: mine.csv, model: tinny}]\nnotes: []\n",
            r"no row has tinny; there are: tiny; did you mean tiny\?",
        ),
        ("rows: [\n", "is not YAML"),
        ("rows: [{file: none.csv}]\nnotes: []\n", "none.csv: cannot be read as CSV"),
    ],
)
def test_a_table_file_that_is_wrong_says_where(
    cli: Cli, publish: Callable[..., None], workplace: Path, text: str, message: str
) -> None:
    publish({**DENSE_ROW})
    (workplace / "published" / "tables" / "mine.yaml").write_text(f"# Mine\n{text}")
    code, _, err = cli("reproduce", "mine")
    assert code == 2
    assert re.search(message, err), err


def test_the_tolerances_are_what_published_runs_themselves_differ_by() -> None:
    """Wanda's Table 3 is one run of what Table 17 averages over five seeds; dense values are printed by many."""
    rows = [row for row in load_published() if row.metric == "perplexity" and row.finetuned == "no"]
    wanda = [row for row in rows if row.paper == PAPER["paper"]]
    once = {(row.model, row.method, row.sparsity_pattern): row for row in wanda if row.table == "Table 3"}
    means = [row for row in wanda if row.table.startswith("Table 17") and row.method in ("wanda", "sparsegpt")]
    apart = [abs(once[row.model, row.method, row.sparsity_pattern].value / row.value - 1) for row in means]
    assert len(apart) == 24
    assert sum(difference <= ONE_DRAW for difference in apart) == 23

    dense: dict[tuple[str, int | None, str], list] = {}
    for row in rows:
        if row.method == "dense" and row.model.startswith(("llama2", "llama3")) and row.task == "wikitext2":
            dense.setdefault((row.model, row.context_length, row.task), []).append(row)
    for same in dense.values():
        finest = min(same, key=lambda row: row.rounding)
        for row in same:
            assert abs(row.value - finest.value) <= row.rounding + finest.rounding + DENSE * finest.value
