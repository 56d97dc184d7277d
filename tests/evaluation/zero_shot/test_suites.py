import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nowag_exp.config import build
from nowag_exp.errors import ConfigError, RequestError
from nowag_exp.evaluation.zero_shot import StockZeroShot, ZeroShot, tasks
from nowag_exp.evaluation.zero_shot.rows import read_rows, split_files
from nowag_exp.evaluation.zero_shot.tasks import STOCK, StockTask

Suite = Callable[..., ZeroShot]
Write = Callable[[Path, list[dict[str, Any]]], None]
EASY = "allenai/ai2_arc/ARC-Easy"


def test_the_suites_are_those_of_the_papers(suite: Suite) -> None:
    paper, wanda, full = (suite(f"{name}_zero_shot") for name in ("paper", "wanda", "full"))
    assert paper.tasks == ("winogrande", "piqa", "rte", "arc_easy", "arc_challenge")
    assert wanda.tasks == ("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
    assert set(full.tasks) == {*paper.tasks, *wanda.tasks} == set(STOCK)
    assert {s.bos for s in (paper, wanda, full)} == {"none"}
    assert (paper.metrics, wanda.metrics, full.metrics) == (("acc",), ("acc",), ("acc", "acc_norm"))
    assert {s.n_fewshot for s in (paper, wanda, full)} == {0}
    assert {s.limit for s in (paper, wanda, full)} == {None}


@pytest.mark.parametrize("task", sorted(STOCK))
def test_the_table_names_the_files_that_lm_eval_itself_finds_by_name(task: str) -> None:
    import yaml

    class Plain(yaml.SafeLoader):
        pass

    Plain.add_multi_constructor("!", lambda loader, suffix, node: None)
    assert yaml.load(STOCK[task].path.read_text(encoding="utf-8"), Plain)["task"] == task


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, r"full_zero_shot\.tasks: must name at least one, and each of them once; got \[\]"),
        ({"tasks": ["rte", "rte"]}, r"full_zero_shot\.tasks: must name at least one, and each of them once"),
        (
            {"tasks": ["arc_eazy"]},
            r"tasks: unknown task 'arc_eazy'; there are: arc_challenge, .*did you mean arc_easy\?",
        ),
        ({"metrics": []}, r"full_zero_shot\.metrics: must name at least one"),
        ({"metrics": ["f1"]}, r"full_zero_shot\.metrics\.0: input should be 'acc' or 'acc_norm'; got 'f1'"),
        ({"n_fewshot": -1}, r"full_zero_shot\.n_fewshot: must be at least 0; got -1"),
        ({"limit": 0}, r"full_zero_shot\.limit: must be at least 1, or null for all; got 0"),
        ({"limit": 0.5}, r"full_zero_shot\.limit"),
        ({"bos": "every"}, r"full_zero_shot\.bos: input should be 'none' or 'first'; got 'every'"),
        ({"shots": 1}, r"full_zero_shot\.shots: unknown key"),
    ],
)
def test_a_setting_out_of_range_is_named_with_what_would_be_right(
    suite: Suite, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        suite(**changes)


def test_a_task_that_needs_generation_is_refused(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = tmp_path / "writes.yaml"
    yaml.write_text("task: writes\ndataset_path: me/mine\noutput_type: generate_until\n", encoding="utf-8")
    monkeypatch.setitem(STOCK, "writes", StockTask(str(yaml), ()))
    message = r"evaluation\.full_zero_shot\.tasks: writes: its output_type is generate_until, but only multiple_choice"
    with pytest.raises(RequestError, match=message):
        suite(tasks=["writes"]).check()
    yaml.write_text("task: writes\ndataset_path: me/mine\n", encoding="utf-8")  # lm-eval's default is to generate.
    with pytest.raises(RequestError, match=message):
        suite(tasks=["writes"]).identity()


def test_a_suite_whose_files_are_there_passes_its_check(suite: Suite) -> None:
    suite().check()
    suite("paper_zero_shot").check()
    suite(tasks=["arc_easy"], n_fewshot=3).check()


def test_equal_settings_and_rows_are_loaded_once_and_changed_rows_again(
    suite: Suite, data_dir: Path, rows: Any, write: Write
) -> None:
    first = suite(tasks=["piqa"]).load_tasks()
    assert suite(tasks=["piqa"]).load_tasks() is first
    write(data_dir / "baber/piqa/validation.jsonl", rows["piqa"]["validation"][:2])
    assert suite(tasks=["piqa"]).n_items() == 2
    assert len(first["piqa"].eval_docs) == 4


def test_splits_that_are_not_needed_may_be_missing(suite: Suite, data_dir: Path) -> None:
    (data_dir / EASY / "train-00000-of-00001.parquet").unlink()
    suite(tasks=["arc_easy"]).check()
    with pytest.raises(RequestError, match="allenai/ai2_arc: has no split 'train'"):
        suite(tasks=["arc_easy"], n_fewshot=1).check()


@pytest.mark.parametrize("place", ["", "data/", "default/", "plain_text/"])
@pytest.mark.parametrize("name", ["validation.parquet", "validation-00000-of-00001.json", "validation/0.arrow"])
def test_files_are_found_in_every_layout_of_the_hub(
    tmp_path: Path, rows: Any, write: Write, place: str, name: str
) -> None:
    write(tmp_path / "me/mine" / place / name, rows["piqa"]["validation"])
    (tmp_path / "me/mine/README.md").write_text("validation", encoding="utf-8")
    files = split_files(tmp_path, "me/mine", None, "validation")
    assert read_rows(files, ("goal",)).to_list() == rows["piqa"]["validation"]


def test_shards_are_read_in_order(tmp_path: Path, rows: Any, write: Write) -> None:
    lines = rows["piqa"]["validation"]
    for number in (2, 0, 1):
        write(tmp_path / f"me/mine/test-0000{number}-of-00003.parquet", [lines[number]])
    assert read_rows(split_files(tmp_path, "me/mine", None, "test"), ()).to_list() == lines[:3]


def test_another_configurations_files_are_not_taken(tmp_path: Path, rows: Any, write: Write) -> None:
    write(tmp_path / "me/mine/ARC-Easy/test-00000-of-00001.parquet", rows["arc_easy"]["test"])
    write(tmp_path / "me/mine/data/test-00000-of-00001.parquet", rows["arc_easy"]["test"])
    with pytest.raises(RequestError, match="has no split 'test'; looked for ARC-Challenge/test-"):
        split_files(tmp_path, "me/mine", "ARC-Challenge", "test")


def test_missing_files_are_named_with_the_command_that_gets_them(suite: Suite, data_dir: Path) -> None:
    message = (
        f"{data_dir}/allenai/winogrande: has no split 'validation'; looked for winogrande_xl/validation-*, "
        "winogrande_xl/validation.*, winogrande_xl/validation/*, data/winogrande_xl/validation-*, "
        "data/winogrande_xl/validation.*, data/winogrande_xl/validation/* with .parquet, .jsonl, .json, .arrow, "
        ".jsonl.gz, .json.gz, .jsonl.zst, .json.zst; "
        f"get it with: hf download --repo-type dataset allenai/winogrande --local-dir {data_dir}/allenai/winogrande"
    )
    (data_dir / "allenai/winogrande/winogrande_xl/validation-00000-of-00001.parquet").unlink()
    with pytest.raises(RequestError, match=f"^{re.escape(message)}$"):
        suite(tasks=["winogrande"]).check()


def test_a_missing_shard_is_noticed(suite: Suite, data_dir: Path) -> None:
    (data_dir / EASY / "test-00001-of-00002.parquet").unlink()
    message = r"test-00000-of-00002\.parquet: 1 of its 2 shards are there; get it with: hf download"
    with pytest.raises(RequestError, match=message):
        suite(tasks=["arc_easy"]).check()


@pytest.mark.parametrize("task", sorted(STOCK))
def test_every_column_that_a_prompt_is_made_of_must_be_there(
    suite: Suite, data_dir: Path, rows: Any, write: Write, task: str
) -> None:
    wanted = suite(tasks=[task])
    (split,) = (name for name in rows[task] if name != "train")
    files = wanted._files(wanted._config(task, False), split)  # type: ignore[attr-defined]
    for path in files[1:]:
        path.unlink()
    path = files[0].with_name(files[0].name.replace("of-00002", "of-00001"))
    files[0].rename(path)
    for column in STOCK[task].columns:
        kept = [{name: value for name, value in row.items() if name != column} for row in rows[task][split]]
        write(path, kept)
        message = rf"{re.escape(str(path))}: has no column '{column}' \(it has: .*\); give the data set's own files"
        with pytest.raises(RequestError, match=message):
            wanted.check()


FILES = {
    "piqa": "baber/piqa/validation.jsonl",
    "openbookqa": "allenai/openbookqa/main/test/data-00000-of-00001.arrow",
    "winogrande": "allenai/winogrande/winogrande_xl/validation-00000-of-00001.parquet",
    "hellaswag": "Rowan/hellaswag/data/validation-00000-of-00001.parquet",
}


@pytest.mark.parametrize(
    ("task", "number", "column", "value", "message"),
    [
        ("piqa", 3, "label", -1, r"row 3 of .* task piqa \(its right answer is -1, not one of 2 choices\); give"),
        ("piqa", 1, "label", -1, r"row 1 of .* task piqa \(its right answer is -1, not one of 2 choices\); give"),
        ("piqa", 4, "label", 2, r"row 4 of .* task piqa \(its right answer is 2, not one of 2 choices\); give"),
        ("piqa", 1, "label", 2, r"a row of .* task piqa \(list index out of range\)"),
        ("piqa", 2, "goal", None, r"validation\.jsonl: 1 rows have no 'goal' \(the first is row 2\)"),
        ("openbookqa", 2, "answerKey", "E", r"row 2 of .* task openbookqa \('E' is not in list\)"),
        ("openbookqa", 1, "answerKey", "E", r"a row of .* task openbookqa \('E' is not in list\)"),
        ("winogrande", 2, "sentence", "No gap.", r"row 2 of .* task winogrande \(substring not found\)"),
        ("winogrande", 3, "answer", "", r"row 3 of .* task winogrande \(''\)"),
        ("hellaswag", 2, "label", "", r"a row of .* task hellaswag \(invalid literal for int"),
    ],
)
def test_a_row_that_lm_eval_would_count_as_wrong_or_fail_on_is_refused(
    suite: Suite,
    data_dir: Path,
    rows: Any,
    write: Write,
    task: str,
    number: int,
    column: str,
    value: Any,
    message: str,
) -> None:
    (changed,) = rows[task].values()
    changed[number - 1][column] = value
    write(data_dir / FILES[task], changed)
    with pytest.raises(RequestError, match=message):
        suite(tasks=[task]).check()


def test_a_row_beyond_the_limit_may_be_anything(suite: Suite, data_dir: Path, rows: Any, write: Write) -> None:
    rows["piqa"]["validation"][2]["label"] = -1
    write(data_dir / FILES["piqa"], rows["piqa"]["validation"])
    suite(tasks=["piqa"], limit=2).check()
    with pytest.raises(RequestError, match="row 3 of 'validation' does not fit task piqa"):
        suite(tasks=["piqa"], limit=3).check()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("validation.parquet", b"PAR1 no", r"validation\.parquet: is not a Parquet file \(.*\); get it again"),
        ("validation.arrow", b"no arrow", r"validation\.arrow: is not a whole Arrow file \(.*\); get it again"),
        ("validation.jsonl", b'{"goal": "a"\n', r"validation\.jsonl: cannot be read"),
        ("validation.json", b"[1, 2]", r"validation\.json: cannot be read"),
        ("validation.jsonl", b'{"goal": "\xe9"}\n', r"validation\.jsonl: is not UTF-8"),
        ("validation.jsonl", b'{"goal": "\\ud83d"}\n', r"validation\.jsonl: row 1: .*surrogate"),
        ("validation.jsonl", b'{"goal": ["a\\u0000b"]}\n', r"validation\.jsonl: row 1: .*NUL"),
        ("validation.jsonl", '{"goal": "a"}\n'.encode("utf-16"), r"validation\.jsonl: is UTF-16"),
        ("validation.jsonl.gz", b"none", r"validation\.jsonl\.gz: is not a whole gzip file"),
        ("validation.jsonl", b"", r"validation\.jsonl: has no column 'goal' \(it has: no rows\)"),
    ],
)
def test_a_broken_file_is_named(suite: Suite, data_dir: Path, name: str, content: bytes, message: str) -> None:
    (data_dir / "baber/piqa/validation.jsonl").unlink()
    (data_dir / "baber/piqa" / name).write_bytes(content)
    with pytest.raises(RequestError, match=message):
        suite(tasks=["piqa"]).check()


def test_a_line_ends_at_a_line_feed_alone(suite: Suite, data_dir: Path, rows: Any) -> None:
    rows["piqa"]["validation"][0]["goal"] = "Open\u2028a jar"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows["piqa"]["validation"]]
    (data_dir / "baber/piqa/validation.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert suite(tasks=["piqa"]).n_items() == 4


def test_both_kinds_of_arrow_files_are_read(suite: Suite, data_dir: Path, rows: Any) -> None:
    import pyarrow

    (data_dir / "baber/piqa/validation.jsonl").unlink()
    table = pyarrow.Table.from_pylist(rows["piqa"]["validation"])
    with pyarrow.ipc.new_file(data_dir / "baber/piqa/validation.arrow", table.schema) as file:
        file.write_table(table)
    assert suite(tasks=["piqa"]).n_items() == 4


def test_a_file_without_rows_is_refused(suite: Suite, data_dir: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = data_dir / "nyu-mll/glue/rte/validation-00000-of-00001.parquet"
    parquet.write_table(parquet.read_table(path).slice(0, 0), path)
    assert isinstance(parquet.read_table(path), pyarrow.Table)
    with pytest.raises(RequestError, match=r"validation-00000-of-00001\.parquet: holds no rows"):
        suite(tasks=["rte"]).check()


def test_too_few_rows_to_draw_examples_from_are_refused(suite: Suite) -> None:
    message = r"allenai/ai2_arc: 'train' has 6 rows, but n_fewshot=6 draws from 7 or more; set a lower one"
    with pytest.raises(RequestError, match=message):
        suite(tasks=["arc_easy"], n_fewshot=6).check()
    suite(tasks=["arc_easy"], n_fewshot=5).check()


def test_without_network_and_data_dir_the_way_to_get_the_rows_is_told(suite: Suite) -> None:
    message = (
        r"^data set allenai/winogrande: cannot be had from the hub \(.+\); on a machine with network run: hf download "
        r"--repo-type dataset allenai/winogrande --local-dir DIR/allenai/winogrande  and set data_dir=DIR$"
    )
    with pytest.raises(RequestError, match=message):
        suite("paper_zero_shot", data_dir=None).check()


def test_rows_of_the_hub_lack_no_column_either(suite: Suite, monkeypatch: pytest.MonkeyPatch, rows: Any) -> None:
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load(dataset: str, configuration: str | None, split: str, revision: str) -> Any:
        asked.append((dataset, configuration, split, revision))
        return datasets.Dataset.from_list(content)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("nowag_exp.evaluation.zero_shot.rows.resolve_commit", lambda *_: "c0ffee")
    content = rows["boolq"]["validation"]
    wanted = suite(tasks=["boolq"], data_dir=None)
    assert wanted.n_items() == 2
    assert asked == [("aps/super_glue", "boolq", "validation", "c0ffee")]
    assert wanted.identity()["tasks"]["boolq"]["commit"] == "c0ffee"
    for row in content:
        del row["passage"]
    with pytest.raises(RequestError, match=r"data set aps/super_glue, validation: has no column 'passage'"):
        wanted.load_task("boolq")


def test_the_identity_holds_what_fixes_a_result(suite: Suite, data_dir: Path, rows: Any, write: Write) -> None:
    wanted = suite("paper_zero_shot")
    identity = wanted.identity()
    assert list(identity["tasks"]) == list(wanted.tasks)
    assert identity["lm_eval"] == "0.4.13"
    assert identity["tasks"]["rte"]["task_version"] == 1.0
    for name, value in {"n_fewshot": 1, "limit": 9, "seed": 2, "bos": "first", "metrics": ["acc", "acc_norm"]}.items():
        changed = suite("paper_zero_shot", tasks=["arc_easy"], **{name: value}).identity()
        assert changed != suite("paper_zero_shot", tasks=["arc_easy"]).identity(), name
    write(data_dir / "baber/piqa/validation.jsonl", rows["piqa"]["validation"][:3])
    assert suite("paper_zero_shot").identity() != identity
    assert suite("paper_zero_shot").identity()["tasks"]["rte"] == identity["tasks"]["rte"]


def test_the_identity_does_not_depend_on_where_the_files_are(suite: Suite, data_dir: Path) -> None:
    identity = suite().identity()
    moved = data_dir.rename(data_dir.with_name("elsewhere"))
    assert suite(data_dir=str(moved)).identity() == identity


def test_the_identity_of_rows_from_the_hub_is_their_commit(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nowag_exp.evaluation.zero_shot.rows.resolve_commit", lambda repo, *_: f"newest of {repo}")
    assert suite(data_dir=None, tasks=["piqa"]).identity()["tasks"]["piqa"] == {
        "task_version": 1.0,
        "dataset": "baber/piqa",
        "configuration": None,
        "commit": "newest of baber/piqa",
    }


def test_the_package_is_built_from_its_settings_only(suite: Suite) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.x\.data_dir: is not set"):
        build({"_target_": "nowag_exp.evaluation.zero_shot.StockZeroShot"}, "evaluation.x", ZeroShot)
    assert isinstance(suite(), StockZeroShot)
    assert tasks.NOT_OURS == ("tag", "group", "task_list")


def test_local_copies_leave_nothing_in_the_cache_of_the_datasets_library(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    suite(seed=987).check()  # Settings that no other test has loaded.
    assert not (tmp_path / "cache").exists()


def test_a_byte_order_mark_before_rows_is_left_out_and_its_file_is_told(suite: Suite, data_dir: Path) -> None:
    path = data_dir / "baber/piqa/validation.jsonl"
    assert suite(tasks=["piqa"]).marked_files() == []
    before = suite(tasks=["piqa"]).n_items()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert suite(tasks=["piqa"]).n_items() == before
    assert suite(tasks=["piqa"]).marked_files() == ["piqa/validation.jsonl"]
