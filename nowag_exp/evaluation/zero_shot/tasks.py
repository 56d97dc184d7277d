"""lm-eval's task objects from its own YAML files, with every item checked before anything is run."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from nowag_exp.errors import RequestError
from nowag_exp.quiet import quiet_harness

SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
NOT_OURS = ("tag", "group", "task_list")
"""Keys that place a task in lm-eval's index, which takes 20 s to build and is not needed."""


@dataclass(frozen=True)
class StockTask:
    """A task that ships with lm-eval.

    Attributes:
        yaml: its file below lm-eval's folder of tasks.
        columns: of a row that its prompts are made of. Listed because lm-eval takes the name of a missing column for
            the text itself.
    """

    yaml: str
    columns: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Its file; finding it does not import lm-eval."""
        return _tasks_folder() / self.yaml


ARC = ("question", "choices", "answerKey")
STOCK = {
    "arc_challenge": StockTask("arc/arc_challenge.yaml", ARC),
    "arc_easy": StockTask("arc/arc_easy.yaml", ARC),
    "boolq": StockTask("super_glue/boolq/default.yaml", ("passage", "question", "label")),
    "hellaswag": StockTask("hellaswag/hellaswag.yaml", ("activity_label", "ctx_a", "ctx_b", "endings", "label")),
    "openbookqa": StockTask("openbookqa/openbookqa.yaml", ("question_stem", "choices", "answerKey")),
    "piqa": StockTask("piqa/piqa.yaml", ("goal", "sol1", "sol2", "label")),
    "rte": StockTask("glue/rte/default.yaml", ("sentence1", "sentence2", "label")),
    "winogrande": StockTask("winogrande/default.yaml", ("sentence", "option1", "option2", "answer")),
}
"""The tasks whose files need no search."""


def _tasks_folder() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "tasks"


def other_tasks(name: str) -> list[Path]:
    """Files of lm-eval that are named like a task, for a message on why it is not among ours."""
    return sorted(path for path in _tasks_folder().rglob("*.yaml") if path.stem == name)


MALFORMED = (TemplateError, LookupError, ValueError, TypeError, AttributeError, SyntaxError)
"""What lm-eval's templates and functions raise on a row that is not as they expect."""


def read_config(yaml: Path, where: str, with_functions: bool = True) -> dict[str, Any]:
    """A task's YAML file as lm-eval reads it, without its place in the index.

    Args:
        yaml: the file.
        where: full config key and task, for messages.
        with_functions: import the Python functions that it names; else keep their names.

    Raises:
        RequestError: if the task is not to choose among given answers.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(yaml, resolve_func=with_functions)
    kind = config.get("output_type", "generate_until")  # lm-eval's default
    if kind != "multiple_choice":
        raise RequestError(
            f"{where}: its output_type is {kind}, but only multiple_choice is scored here; leave it out, or run it "
            "with lm_eval on a checkpoint kept with checkpoint.save=true"
        )
    return {key: value for key, value in config.items() if key not in NOT_OURS}


def needed_splits(config: Mapping[str, Any], n_fewshot: int) -> tuple[str, str | None]:
    """The split whose items are scored, and the one that examples are drawn from (``None`` without examples)."""
    scored = config.get("test_split") or config["validation_split"]
    drawn_from = config.get("fewshot_split") or config.get("training_split") or config.get("validation_split") or scored
    return scored, drawn_from if n_fewshot else None


def build_task(
    config: Mapping[str, Any], rows: Callable[[str], Any], n_fewshot: int, limit: int | None, where: str
) -> Any:
    """lm-eval's ``ConfigurableTask``, with all of its items checked.

    Args:
        config: from :func:`read_config`.
        rows: gives the rows of a split, a ``datasets.Dataset``; asked for those splits only that are needed.
        n_fewshot: examples before each item.
        limit: items that will be scored, the first ones; ``None`` for all.
        where: where the rows come from, for messages.

    Raises:
        RequestError: if an item cannot be rendered, or has no right answer among its choices; or if
            there are too few examples to draw from.
    """
    from lm_eval.api.task import ConfigurableTask

    scored, drawn_from = needed_splits(config, n_fewshot)
    splits = {split: rows(split) for split in (scored, drawn_from) if split is not None}
    changes: dict[str, Any] = {key: None for key in SPLITS if config.get(key) not in splits}
    changes |= {"num_fewshot": n_fewshot, "custom_dataset": lambda **_: splits}
    row = "a row"
    with quiet_harness():
        try:
            task = ConfigurableTask(config={**config, **changes})
            for number, item in enumerate(islice(task.eval_docs, limit), start=1):
                row = f"row {number}"
                right_answer(task, item)
        except MALFORMED as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise RequestError(
                f"{where}: {row} of '{scored}' does not fit task {config['task']} ({reason}); "
                "give the data set's own files"
            ) from error
    if drawn_from is not None and len(splits[drawn_from]) <= n_fewshot:
        # lm-eval draws one more where an item could be drawn for itself.
        raise RequestError(
            f"{where}: '{drawn_from}' has {len(splits[drawn_from])} rows, but n_fewshot={n_fewshot} draws from "
            f"{n_fewshot + 1} or more; set a lower one"
        )
    return task


def right_answer(task: Any, item: Mapping[str, Any]) -> int:
    """Index of the right choice of an item, as lm-eval finds it.

    Raises:
        ValueError: if it is none of the choices: lm-eval would count such an item as answered wrongly.
    """
    choices = task.doc_to_choice(item)
    answer = task.doc_to_text(item) if task.multiple_input else task.doc_to_target(item)
    index = choices.index(answer) if isinstance(answer, str) and answer in choices else answer
    if not isinstance(index, int) or not 0 <= index < len(choices):
        raise ValueError(f"its right answer is {answer!r}, not one of {len(choices)} choices")
    return index
