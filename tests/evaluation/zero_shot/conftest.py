"""Fabricated rows in the schema and file layout of each data set."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
import yaml
from pyarrow import ipc, parquet

from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.evaluation.zero_shot import ZeroShot
from nowag_exp.layout import folder
from nowag_exp.models import ModelSource

Row = dict[str, Any]


def arc(question: str, texts: list[str], labels: str, answer: str) -> Row:
    return {
        "id": f"row-{question}",
        "question": question,
        "choices": {"text": texts, "label": list(labels)},
        "answerKey": answer,
    }


ROWS: dict[str, dict[str, list[Row]]] = {
    "winogrande": {
        "validation": [
            {"sentence": "The cup did not fit the box because the _ was big.", "option1": "cup", "option2": "box", "answer": "1"},
            {"sentence": "Ann thanked Eve since _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2"},
            {"sentence": "The dog chased the cat until the _ hid.", "option1": "dog", "option2": "cat", "answer": "2"},
        ],
    },
    "piqa": {
        "validation": [
            {"goal": "Open a jar", "sol1": "Turn the lid.", "sol2": "Break the glass.", "label": 0},
            {"goal": "Dry a shirt", "sol1": "Put it in a drawer.", "sol2": "Hang it up.", "label": 1},
            {"goal": "Boil water", "sol1": "Freeze it.", "sol2": "Heat it.", "label": 1},
            {"goal": "Write", "sol1": "Use a pen.", "sol2": "Use a spoon.", "label": 0},
        ],
    },
    "rte": {
        "validation": [
            {"sentence1": "It rains in Rome.", "sentence2": "Rome is wet.", "label": 0, "idx": 0},
            {"sentence1": "Two and two is four.", "sentence2": "Fish can fly.", "label": 1, "idx": 1},
            {"sentence1": "A dog barked.", "sentence2": "An animal made a noise.", "label": 0, "idx": 2},
        ],
    },
    "arc_easy": {
        "train": [arc(f"Is {n} even?", ["yes", "no"], "AB", "AB"[n % 2]) for n in range(6)],
        "test": [
            arc("What melts?", ["ice", "stone", "sand", "iron ore"], "ABCD", "A"),
            arc("What flies?", ["a worm", "a bird", "a whale"], "123", "2"),
            arc("What is green?", ["grass", "blood", "snow", "coal"], "ABCD", "A"),
            arc("What has two legs?", ["a table", "a dog", "a man", "a fish"], "ABCD", "C"),
            arc("What burns?", ["wood", "water", "a stone", "glass"], "ABCD", "A"),
        ],
    },
    "arc_challenge": {
        "test": [
            arc("Why is it dark at night?", ["The sun is away.", "The moon is on.", "It is cold."], "ABC", "A"),
            arc("What makes tides?", ["wind", "the moon", "ships", "fish"], "ABCD", "B"),
        ],
    },
    "boolq": {
        "validation": [
            {"passage": "Salt is a mineral.", "question": "is salt a mineral", "idx": 0, "label": 1},
            {"passage": "Bats are mammals.", "question": "do bats lay eggs", "idx": 1, "label": 0},
        ],
    },
    "hellaswag": {
        "validation": [
            {
                "ind": 1,
                "activity_label": "Cooking",
                "ctx_a": "A man cuts an onion.",
                "ctx_b": "he",
                "ctx": "A man cuts an onion. he",
                "endings": ["puts it in a pan.", "flies away.", "[substeps] paints  it.", "sleeps."],
                "source_id": "x",
                "split": "val",
                "split_type": "indomain",
                "label": "0",
            },
            {
                "ind": 2,
                "activity_label": "Rowing",
                "ctx_a": "Two women sit in a boat.",
                "ctx_b": "they",
                "ctx": "Two women sit in a boat. they",
                "endings": ["eat the boat.", "row to the shore. [title] Rest.", "are a tree.", "sing a car."],
                "source_id": "y",
                "split": "val",
                "split_type": "indomain",
                "label": "1",
            },
        ],
    },
    "openbookqa": {
        "test": [
            {
                "id": "7",
                "question_stem": "Plants need",
                "choices": {"text": ["light", "shoes", "music", "salt"], "label": list("ABCD")},
                "answerKey": "A",
            },
            {
                "id": "8",
                "question_stem": "A magnet pulls",
                "choices": {"text": ["wood", "iron", "glass", "air"], "label": list("ABCD")},
                "answerKey": "B",
            },
        ],
    },
}
"""Rows of each split; only those splits are there that are needed without examples, and one to draw examples from."""


def write_parquet(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_lines(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_arrow(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    with ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Local copies as ``hf download --local-dir`` leaves them: each data set in its own layout, in several formats."""
    top = tmp_path / "data"
    write_parquet(
        top / "allenai/winogrande/winogrande_xl/validation-00000-of-00001.parquet", ROWS["winogrande"]["validation"]
    )
    write_lines(top / "baber/piqa/validation.jsonl", ROWS["piqa"]["validation"])
    # As the hub's own files: the labels have names.
    rte = datasets.Dataset.from_list(ROWS["rte"]["validation"])
    rte = rte.cast_column("label", datasets.ClassLabel(names=["entailment", "not_entailment"]))
    target = top / "nyu-mll/glue/rte/validation-00000-of-00001.parquet"
    target.parent.mkdir(parents=True)
    parquet.write_table(rte.data.table, target)
    easy = top / "allenai/ai2_arc/ARC-Easy"
    write_parquet(easy / "train-00000-of-00001.parquet", ROWS["arc_easy"]["train"])
    write_parquet(easy / "test-00000-of-00002.parquet", ROWS["arc_easy"]["test"][:2])
    write_parquet(easy / "test-00001-of-00002.parquet", ROWS["arc_easy"]["test"][2:])
    write_parquet(
        top / "allenai/ai2_arc/ARC-Challenge/test-00000-of-00001.parquet", ROWS["arc_challenge"]["test"]
    )
    boolq = top / "aps/super_glue/boolq/validation.json"
    boolq.parent.mkdir(parents=True)
    boolq.write_text(json.dumps(ROWS["boolq"]["validation"], indent=1), encoding="utf-8")
    write_parquet(top / "Rowan/hellaswag/data/validation-00000-of-00001.parquet", ROWS["hellaswag"]["validation"])
    write_arrow(top / "allenai/openbookqa/main/test/data-00000-of-00001.arrow", ROWS["openbookqa"]["test"])
    return top


Suite = Callable[..., ZeroShot]


def settings_of(option: str) -> dict[str, Any]:
    """What a file of conf/evaluation says."""
    return yaml.safe_load((folder("conf") / "evaluation" / f"{option}.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def suite(data_dir: Path) -> Suite:
    """Builds ``full_zero_shot`` on the fabricated rows, with changes."""

    def make(option: str = "full_zero_shot", **changes: Any) -> ZeroShot:
        node = {**settings_of(option), "data_dir": str(data_dir), **changes}
        return build(node, f"evaluation.{node['name']}", ZeroShot)

    return make


@pytest.fixture
def tokenizer_folder(workplace: Path) -> Path:
    """Where the tiny model's tokenizer is."""
    return build(compose(["model=tiny"])["model"], "model", ModelSource).folder()
