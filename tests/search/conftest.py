"""A sweeps folder of the tests' own, with a search on the tiny model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nowag_exp import layout, sweep

BASE = {
    "model": "tiny",
    "calibration": "files",
    "calibration.path": "cal.txt",
    "method": "nowag_vq",
    "method.iterations": 2,
    "evaluation": "files",
    "evaluation.files.path": "eval.txt",
    "evaluation.files.n_windows": 4,
}
SPACE = {"method.d": "2,4", "method.bits": "1,1.5,2", "method.restarts": "range(1,3)"}
"""12 combinations, all of which fit."""


@pytest.fixture
def write(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write sweeps/mine.yaml; ``search`` is merged with a small one, what is ``None`` is left out."""
    folder = workplace / "sweeps"
    folder.mkdir()
    real = layout.folder
    for module in (layout, sweep):
        monkeypatch.setattr(module, "folder", lambda name: folder if name == "sweeps" else real(name))

    def _write(search: Any = None, base: dict[str, Any] | None = None, **content: Any) -> None:
        node: Any = {"space": SPACE, "trials": 5, **(search or {})} if search is None or search else search
        if isinstance(node, dict):
            node = {key: value for key, value in node.items() if value is not None}
        found = {"base": {**BASE, **(base or {})}, "search": node, **content}
        (folder / "mine.yaml").write_text("# A search of the tests\n" + yaml.safe_dump(found, sort_keys=False))

    return _write
