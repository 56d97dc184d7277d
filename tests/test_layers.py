"""Imports point downwards only, and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nowag_exp
from nowag_exp import verbs

PACKAGE = Path(nowag_exp.__file__).parent
LAYERS = [
    {"errors", "settings", "layout", "patterns"},
    {
        "allocator",
        "extras",
        "checksum",
        "files",
        "interrupt",
        "manifest",
        "progress",
        "quiet",
        "ledger",
        "ops",
        "yamls",
    },
    {"formats", "hub", "wheels", "output"},
    {"methods", "models", "text"},
    {"engines"},
    {"calibration", "evaluation", "records"},
    {"config", "compose", "published", "reference", "shelf", "tracking", "unfinished"},
    {"measure", "memory", "residence"},
    {"experiment"},
    {"runner", "sweep", "planning"},
    {"execution", "report"},
    {"explain", "reproduce", "search"},
    {"verbs"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    return module.split(".")[1]


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nowag_exp"):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("nowag_exp.")}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here == "__init__":
        assert imported(path) == {"nowag_exp.formats.quantizer"}, (
            "only what transformers is taught, when it is imported"
        )
        return
    for name in imported(path):
        there = room(name)
        if there == "__version__":
            continue
        assert LEVEL[there] <= LEVEL[here], f"{here} imports {name}"


def test_ops_imports_nothing_of_ours_but_ops() -> None:
    for path in (PACKAGE / "ops").glob("*.py"):
        assert {room(name) for name in imported(path)} <= {"ops"}


def test_methods_and_below_see_no_config_object() -> None:
    for path in MODULES:
        if path.relative_to(PACKAGE).parts[0] in (
            "ops",
            "formats",
            "methods",
            "models",
            "text",
            "calibration",
            "evaluation",
        ):
            text = path.read_text(encoding="utf-8")
            assert "omegaconf" not in text.lower(), path
            assert "hydra" not in text.lower(), path


HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "pandas",
    "hydra",
    "omegaconf",
    "pydantic",
    "rich",
    "datasets",
    "lm_eval",
    "wandb",
    "scipy",
    "tensorboard",
)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], *([verb, "--help"] for verb in verbs.NAMES)],
)
def test_help_imports_nothing_heavy_and_lists_every_group(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom nowag_exp.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in ("model", "calibration", "method", "evaluation", "tracking", "nowag_p", "smollm2_135m", "demo"):
        assert words in done.stdout


def test_shapes_are_checked_while_testing() -> None:
    from jaxtyping import TypeCheckError

    from nowag_exp.ops.scores import wanda_score

    with pytest.raises(TypeCheckError):
        wanda_score(torch.zeros(3, 4), torch.zeros(5))
