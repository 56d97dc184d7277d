"""docs/protocols.md: its commands compose, and its downloads are those that the configs need."""

import re
import shlex
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from nowag_exp.compose import compose
from nowag_exp.config import build_experiment
from nowag_exp.layout import folder

DOCUMENT = (Path(__file__).parents[1] / "docs" / "protocols.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, flags=re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("nowag-exp ")]
DOWNLOADS = [shlex.split(line) for line in LINES if line.startswith("hf ")]
CONFIGS = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder("conf").glob("*/*.yaml"))}
TEXTS = {path: config for path, config in CONFIGS.items() if {"repo", "files"} <= config.keys()}


def arguments(command: str) -> list[str]:
    """What bash makes of a command line; shlex does not know its ``$'...'``."""
    script = f"nowag-exp() {{ printf '%s\\0' \"$@\"; }}\n{command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_and_builds(command: str) -> None:
    verb, *overrides = arguments(command)
    assert verb == "run"
    build_experiment(compose(overrides))


def test_every_line_is_a_command_or_a_download() -> None:
    assert len(COMMANDS) >= 10
    assert len(COMMANDS) + len(DOWNLOADS) + 1 == len(LINES), "and DATA=data"
    assert "DATA=data" in LINES


def option(download: list[str], name: str) -> str | None:
    return download[download.index(name) + 1] if name in download else None


def test_every_download_goes_where_data_dir_is_read() -> None:
    for download in DOWNLOADS:
        assert download[:4] == ["hf", "download", "--repo-type", "dataset"]
        assert option(download, "--local-dir") == f"$DATA/{download[4]}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_text_of_a_config_is_downloaded_at_its_revision(path: Path) -> None:
    text = TEXTS[path]
    (download,) = (download for download in DOWNLOADS if download[4] == text["repo"])
    assert option(download, "--revision") == text["revision"]
    end = next(index for index, word in enumerate(download) if index > 4 and word.startswith("--"))
    patterns = [*download[5:end], *filter(None, [option(download, "--include")])]
    assert not [file for file in text["files"] if not any(fnmatch(file, pattern) for pattern in patterns)]


def test_every_data_set_of_a_zero_shot_suite_is_downloaded() -> None:
    from nowag_exp.evaluation.zero_shot.tasks import STOCK, read_config

    configs = [read_config(task.path, name, with_functions=False) for name, task in STOCK.items()]
    whole = [download[4] for download in DOWNLOADS if download[5] == "--local-dir"]
    assert sorted(whole) == sorted({config["dataset_path"] for config in configs})
    assert len(DOWNLOADS) == len(whole) + len({text["repo"] for text in TEXTS.values()})


def test_every_option_of_evaluation_that_is_published_is_explained() -> None:
    options = {path.stem for path in folder("conf").glob("evaluation/*.yaml")} - {"wiki_sample", "files"}
    assert not [name for name in options if f"`{name}`" not in DOCUMENT]
