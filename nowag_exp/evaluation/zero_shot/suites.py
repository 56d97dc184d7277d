"""Which tasks are scored, how they are prompted, and where their rows come from."""

import functools
import importlib.metadata
import json
from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

from nowag_exp.errors import RequestError
from nowag_exp.evaluation.measurement import Measurement
from nowag_exp.evaluation.zero_shot.rows import hub_commit, hub_rows, is_marked, read_rows, split_files
from nowag_exp.evaluation.zero_shot.tasks import STOCK, build_task, needed_splits, other_tasks, read_config
from nowag_exp.files import sha256_file
from nowag_exp.layout import among
from nowag_exp.quiet import quiet_harness
from nowag_exp.settings import Name, Seed, settings
from nowag_exp.text import Tokenizer

VERSION = 1
"""Raised when the same rows and weights would give other values."""

MetricName = Literal["acc", "acc_norm"]


@settings
class ZeroShot(Measurement):
    """Tasks of lm-eval that ask for one of several given answers.

    Attributes:
        name: of the suite, in the names of its protocols and in messages.
        tasks: at least one.
        n_fewshot: examples with their answers before each item; 0 for none.
        limit: score the first items of each task only; ``null`` for all.
        seed: of the draws of examples.
        bos: ``none``: no special tokens, as in lm-eval 0.3; ``first``: BOS before the context, as lm-eval does by
            default with Llama's tokenizers.
        metrics: what is reported: ``acc`` takes the answer with the highest log-likelihood, ``acc_norm`` the one with
            the highest log-likelihood per character. A task that does not define ``acc_norm`` does not report it.
    """

    name: Name
    tasks: tuple[str, ...]
    n_fewshot: int
    limit: int | None
    seed: Seed
    bos: Literal["none", "first"]
    metrics: tuple[MetricName, ...]

    def __post_init__(self) -> None:
        for field in ("tasks", "metrics"):
            values = getattr(self, field)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{field}: must name at least one, and each of them once; got {list(values)}")
        if self.n_fewshot < 0:
            raise ValueError(f"n_fewshot: must be at least 0; got {self.n_fewshot}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: must be at least 1, or null for all; got {self.limit}")

    @abstractmethod
    def task_identity(self, task: str) -> dict[str, Any]:
        """What fixes a task's prompts and rows, given lm-eval's version."""

    @abstractmethod
    def load_task(self, task: str) -> Any:
        """One task as lm-eval's object, its items checked (:func:`~nowag_exp.evaluation.zero_shot.tasks.build_task`).

        Raises:
            RequestError: if a file or an item is not as the task needs it.
        """

    def marked_files(self) -> list[str]:
        """Names of its files that open with a byte-order mark, which is left out."""
        return []

    def is_here(self) -> bool:
        """Whether its rows can be had without the Hugging Face hub."""
        return True

    @property
    def key(self) -> str:
        """Full config key of the suite, for messages."""
        return f"evaluation.{self.name}"

    def identity(self) -> dict[str, Any]:
        """What fixes the result, given the model and its tokenizer."""
        return {
            "version": VERSION,
            "lm_eval": importlib.metadata.version("lm_eval"),
            "tasks": {task: self.task_identity(task) for task in self.tasks},
            "n_fewshot": self.n_fewshot,
            "limit": self.limit,
            "seed": self.seed,
            "bos": self.bos,
            "metrics": list(self.metrics),
        }

    def check(self) -> None:
        """Everything that can be found wrong without a model; downloads what is missing.

        Raises:
            RequestError: on the first thing that is.
        """
        defined = {metric for task in self.load_tasks().values() for metric in task.aggregation()}
        if not defined & set(self.metrics):
            wanted, there = " or ".join(self.metrics), ", ".join(sorted(defined))
            raise RequestError(f"{self.key}.metrics: no task defines {wanted}; they define: {there}")

    def prepare(self) -> str:
        """Bring what the suite needs to this machine; says what it brought."""
        return f"{self.n_items()} items"

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Hold the settings against the model's tokenizer.

        Raises:
            RequestError: if a BOS token is asked for that it does not have.
        """
        if self.bos == "first" and tokenizer.bos is None:
            raise RequestError(f"{self.key}.bos=first: the model's tokenizer has no BOS token; set {self.key}.bos=none")

    def load_tasks(self) -> dict[str, Any]:
        """The tasks as lm-eval's objects, by name; loaded once for equal settings and equal files.

        Raises:
            RequestError: if a file or an item is not as a task needs it.
        """
        return _load(self, json.dumps(self.identity(), sort_keys=True))

    def n_items(self) -> int:
        """Items that will be scored; each is one tick of :func:`~nowag_exp.evaluation.zero_shot.harness.score`."""
        with quiet_harness():
            sizes = [len(task.eval_docs) for task in self.load_tasks().values()]
        return sum(size if self.limit is None else min(size, self.limit) for size in sizes)


@functools.lru_cache(maxsize=8)  # Checking the items of a large task takes seconds, and a sweep asks often.
def _load(suite: ZeroShot, identity: str) -> dict[str, Any]:
    return {task: suite.load_task(task) for task in suite.tasks}


@settings
class StockZeroShot(ZeroShot):
    """Tasks that ship with lm-eval, word for word.

    Attributes:
        data_dir: folder with local copies, ``data_dir/OWNER/NAME`` as ``hf download --local-dir`` leaves them;
            ``null`` to take them from the hub.
    """

    data_dir: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        for task in self.tasks:
            if task not in STOCK:
                for yaml in other_tasks(task):
                    read_config(yaml, f"{self.key}.tasks: {task}", with_functions=False)  # It may need generation.
                raise ValueError(f"tasks: unknown task '{task}'" + among(task, sorted(STOCK)))

    def task_identity(self, task: str) -> dict[str, Any]:
        config = self._config(task, with_functions=False)
        source: dict[str, Any] = {"task_version": config["metadata"]["version"], "dataset": config["dataset_path"]}
        source["configuration"] = config.get("dataset_name")
        if self.data_dir is None:
            source["commit"] = hub_commit(config["dataset_path"])
        else:
            splits = filter(None, needed_splits(config, self.n_fewshot))
            source["files"] = {split: [sha256_file(path) for path in self._files(config, split)] for split in splits}
        return source

    def marked_files(self) -> list[str]:
        if self.data_dir is None:
            return []
        configs = [self._config(task, with_functions=False) for task in self.tasks]
        needed = [(config, split) for config in configs for split in needed_splits(config, self.n_fewshot) if split]
        files = [path for config, split in needed for path in self._files(config, split)]
        return [f"{path.parent.name}/{path.name}" for path in dict.fromkeys(files) if is_marked(path)]

    def is_here(self) -> bool:
        """Whether there are local copies; what another library may have in its cache is not searched."""
        return self.data_dir is not None

    def load_task(self, task: str) -> Any:
        config = self._config(task, with_functions=True)
        rows = functools.partial(self._rows, config, STOCK[task].columns)
        where = config["dataset_path"] if self.data_dir is None else str(self._folder / config["dataset_path"])
        return build_task(config, rows, self.n_fewshot, self.limit, where)

    @property
    def _folder(self) -> Path:
        assert self.data_dir is not None
        return Path(self.data_dir).expanduser()

    def _config(self, task: str, with_functions: bool) -> dict[str, Any]:
        return read_config(STOCK[task].path, f"{self.key}.tasks: {task}", with_functions)

    def _files(self, config: dict[str, Any], split: str) -> list[Path]:
        return split_files(self._folder, config["dataset_path"], config.get("dataset_name"), split)

    def _rows(self, config: dict[str, Any], columns: tuple[str, ...], split: str) -> Any:
        if self.data_dir is None:
            dataset = config["dataset_path"]
            return hub_rows(dataset, hub_commit(dataset), config.get("dataset_name"), split, columns)
        return read_rows(self._files(config, split), columns)
