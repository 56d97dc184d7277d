"""Fabricated rows in the schema and file layout of each data set, and slow, obvious references."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# Nothing of ours, nor what would import it, at the top: see the conftest.py of all tests.
if TYPE_CHECKING:
    import torch

    from nowag_exp.evaluation.zero_shot import ZeroShot
    from nowag_exp.models import Batch, CausalLM

Row = dict[str, Any]
Suite = Callable[..., "ZeroShot"]
Pairs = Sequence[tuple[list[int], list[int]]]


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
            {
                "sentence": "The cup did not fit the box because the _ was big.",
                "option1": "cup",
                "option2": "box",
                "answer": "1",
            },
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


@pytest.fixture
def rows() -> dict[str, dict[str, list[Row]]]:
    """A copy of the rows, by task and split."""
    return copy.deepcopy(ROWS)


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write a file of the kind that its suffix says."""
    import pyarrow
    from pyarrow import ipc, parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    match path.suffix:
        case ".parquet":
            parquet.write_table(table, path)
        case ".arrow":
            with ipc.new_stream(path, table.schema) as stream:
                stream.write_table(table)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


@pytest.fixture
def write() -> Callable[[Path, list[Row]], None]:
    """Writes a file of rows."""
    return write_rows


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Local copies as ``hf download --local-dir`` leaves them: each data set in its own layout, in several formats."""
    top = tmp_path / "data"
    one, easy = "00000-of-00001", top / "allenai/ai2_arc/ARC-Easy"
    for path, rows in {
        top / f"allenai/winogrande/winogrande_xl/validation-{one}.parquet": ROWS["winogrande"]["validation"],
        top / "baber/piqa/validation.jsonl": ROWS["piqa"]["validation"],
        easy / f"train-{one}.parquet": ROWS["arc_easy"]["train"],
        easy / "test-00000-of-00002.parquet": ROWS["arc_easy"]["test"][:2],
        easy / "test-00001-of-00002.parquet": ROWS["arc_easy"]["test"][2:],
        top / f"allenai/ai2_arc/ARC-Challenge/test-{one}.parquet": ROWS["arc_challenge"]["test"],
        top / "aps/super_glue/boolq/validation.json": ROWS["boolq"]["validation"],
        top / f"Rowan/hellaswag/data/validation-{one}.parquet": ROWS["hellaswag"]["validation"],
        top / f"allenai/openbookqa/main/test/data-{one}.arrow": ROWS["openbookqa"]["test"],
    }.items():
        write_rows(path, rows)
    _write_with_named_labels(top / f"nyu-mll/glue/rte/validation-{one}.parquet", ROWS["rte"]["validation"])
    return top


def _write_with_named_labels(path: Path, rows: list[Row]) -> None:
    """As the hub's own files: the schema says which label each number is."""
    from datasets import ClassLabel, Dataset, Features, Value
    from pyarrow import parquet

    features = Features({name: Value("string") for name in ("sentence1", "sentence2")})
    features |= {"label": ClassLabel(names=["entailment", "not_entailment"]), "idx": Value("int32")}
    path.parent.mkdir(parents=True)
    parquet.write_table(Dataset.from_list(rows, features=Features(features)).data.table, path)


def settings_of(option: str) -> Row:
    """What a file of conf/evaluation says."""
    import yaml

    from nowag_exp.layout import folder

    return yaml.safe_load((folder("conf") / "evaluation" / f"{option}.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def suite(data_dir: Path) -> Suite:
    """Builds ``full_zero_shot``, or another option, on the fabricated rows, with changes."""
    from nowag_exp.config import build
    from nowag_exp.evaluation.zero_shot import ZeroShot

    def make(option: str = "full_zero_shot", **changes: Any) -> ZeroShot:
        node = {**settings_of(option), "data_dir": str(data_dir), **changes}
        return build(node, f"evaluation.{node['name']}", ZeroShot)

    return make


@pytest.fixture
def tokenizer_folder(model: "CausalLM") -> Path:
    """Where the tiny model's tokenizer is."""
    return model.checkpoint.folder


@pytest.fixture
def plain_answers() -> Callable[["CausalLM", Pairs], list[tuple[float, bool]]]:
    """Log-likelihoods and greediness from one text at a time and all of its logits, in fp64."""

    def answers(model: "CausalLM", pairs: Pairs) -> list[tuple[float, bool]]:
        import torch

        module = copy.deepcopy(model.module).double()
        found = []
        for context, continuation in pairs:
            with torch.no_grad():
                logits = module(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
            chosen = torch.log_softmax(logits, dim=1)[range(len(continuation)), continuation]
            found.append((float(chosen.sum()), logits.argmax(dim=1).tolist() == continuation))
        return found

    return answers


class Forwards:
    """The shape of each forward pass."""

    def __init__(self, model: "CausalLM", monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, ...]] = []
        plain = model.last_hidden

        def counted(batches: "Sequence[Batch]", *others: Any, **options: Any) -> "Iterator[torch.Tensor]":
            self.shapes += [tuple(batch.ids.shape) for batch in batches]
            return plain(batches, *others, **options)

        monkeypatch.setattr(model, "last_hidden", counted)


@pytest.fixture
def forwards(model: "CausalLM", monkeypatch: pytest.MonkeyPatch) -> Forwards:
    """Counts the model's forward passes."""
    return Forwards(model, monkeypatch)
