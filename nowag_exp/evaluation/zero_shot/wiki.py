"""The suite that needs no download: tasks made from the packaged Wikipedia articles."""

import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nowag_exp.evaluation.zero_shot.embedded import TEMPLATES, VERSION, Item, derive, write
from nowag_exp.evaluation.zero_shot.suites import ZeroShot
from nowag_exp.evaluation.zero_shot.tasks import build_task, read_config
from nowag_exp.files import cache_dir
from nowag_exp.layout import among
from nowag_exp.settings import settings
from nowag_exp.text import WikiSample


@settings
class WikiZeroShot(ZeroShot, WikiSample):
    """Tasks of :mod:`nowag_exp.evaluation.zero_shot.embedded`; no published benchmark."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = sorted(path.stem for path in TEMPLATES.glob("*.yaml"))
        for task in self.tasks:
            if task not in known:
                raise ValueError(f"tasks: unknown task '{task}'" + among(task, known))

    def task_identity(self, task: str) -> dict[str, Any]:
        return {"task_version": self._config(task)["metadata"]["version"], "items": VERSION, **self.source_identity()}

    def load_task(self, task: str) -> Any:
        from datasets import Dataset

        items = [{**asdict(item), "choices": list(item.choices)} for item in self._items[task]]
        return build_task(self._config(task), lambda _: Dataset.from_list(items), self.n_fewshot, self.limit, self.name)

    def prepare(self) -> str:
        folder = cache_dir() / "texts" / f"wiki_zero_shot-{VERSION}-{self.cleaned_sha256[:16]}"
        write(folder, self._items)
        return f"{super().prepare()}; for lm-eval's own command line: --include_path {folder}"

    @functools.cached_property
    def _items(self) -> dict[str, list[Item]]:
        return derive(self.documents())

    def _config(self, task: str) -> dict[str, Any]:
        return read_config(Path(TEMPLATES, f"{task}.yaml"), f"{self.key}.tasks: {task}")
