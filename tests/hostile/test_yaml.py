"""Sweep files and config files that somebody else wrote: one meaning, bounded, and nothing is run by them."""

import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nowag_exp import compose, layout, sweep
from nowag_exp.cli import main
from nowag_exp.errors import RequestError
from nowag_exp.yamls import parse_yaml

Write = Callable[[bytes], None]
LAUGHS = b"a: &a [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n".encode()
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)
"""10^11 values in 500 bytes."""

WRONG = [
    pytest.param(b"base:\n  model: tiny\nbase: {}\n", r"line 3: the key 'base' is there twice", id="twice"),
    pytest.param(b"base: {seed: 1, 'seed': '1', seed: 2}\n", r"line 1: the key 'seed' is there twice", id="inside"),
    pytest.param(b"base: " + b"[" * 100_000, r"line 1: it is nested more than 100 deep", id="lists"),
    pytest.param(b"base: " + b"{a: " * 100_000, r"line 1: it is nested more than 100 deep", id="maps"),
    pytest.param(LAUGHS, r"line 5: it holds more than 20,000 values", id="laughs"),
    pytest.param(b"base: &a {<<: *a}\n", r"line 1: an alias repeats what it stands in", id="endless"),
    pytest.param(b"base: [" + b"a," * 20_001 + b"]", r"line 1: it holds more than 20,000 values", id="long"),
    pytest.param(b"base:\n- !!python/object/apply:os.system [touch ran]\n", r"line 2: could not determine", id="call"),
    pytest.param(b"!!python/name:os.system\n", r"line 1: could not determine a constructor", id="name"),
    pytest.param(b"base: !!python/object/apply:pathlib.Path [x]\n", r"line 1: could not determine", id="path"),
    pytest.param(b"base: !!bool perhaps\n", r"perhaps", id="no boolean"),
    pytest.param(b"base: 2001-99-99\n", r"month must be in 1\.\.12", id="no date"),
    pytest.param(b"base: {a\n", r"line 2: ", id="cut"),
    pytest.param(b"base: \0\n", r"special characters are not allowed", id="nul"),
]


@pytest.fixture
def write(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write sweeps/mine.yaml in a folder of its own."""
    folder, real = workplace / "sweeps", layout.folder
    folder.mkdir()
    for module in (layout, sweep):
        monkeypatch.setattr(module, "folder", lambda name: folder if name == "sweeps" else real(name))
    return lambda content: (folder / "mine.yaml").write_bytes(content) and None


@pytest.mark.parametrize(("content", "problem"), WRONG)
def test_a_sweep_that_is_ambiguous_endless_or_code_is_refused_with_its_line(
    write: Write, workplace: Path, content: bytes, problem: str
) -> None:
    write(content)
    with pytest.raises(RequestError, match=rf"^sweeps/mine\.yaml: is not YAML \(.*{problem}.*\); correct it"):
        sweep.read("mine")
    assert not (workplace / "ran").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"# \xe9t\xe9\nbase: {}\n", r"is not UTF-8 text \(byte 2 is 0xe9\); save it as UTF-8"),
        (b"", "describes no sweep"),
        (b"- base\n", "describes no sweep"),
        (b"#" * 1_000_001, "is larger than 1 MB"),
    ],
    ids=["latin", "empty", "list", "large"],
)
def test_a_sweep_that_is_no_sweep_is_named(write: Write, content: bytes, problem: str) -> None:
    write(content)
    with pytest.raises(RequestError, match=rf"^sweeps/mine\.yaml: {problem}"):
        sweep.read("mine")


def test_a_sweep_that_cannot_be_read_hides_no_other(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write(b"# \xe9t\xe9\n")
    (layout.folder("sweeps") / "folder.yaml").mkdir()
    assert list(layout.sweeps()) == ["mine"]


def test_a_sweep_of_more_jobs_than_memory_holds_is_refused(
    write: Write, little_memory: Callable[[], AbstractContextManager[None]]
) -> None:
    for axes in ('seed: "range(0,10000000000)"', 'seed: "range(0,1000)", a: "range(0,1000)"'):
        write(f"axes: {{{axes}}}".encode())
        with little_memory(), pytest.raises(RequestError, match="describes more than 100,000 jobs"):
            sweep.expand("mine", [])


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="ab&*[]{}:,-!<? \n'\"|>%#1.~=")))
def test_any_text_is_plain_values_or_refused_in_a_line(text: str) -> None:
    problem = "here: is not YAML (); correct it"
    try:
        parse_yaml(text, "here")
    except RequestError as error:
        problem = str(error)
    assert re.fullmatch(r"here: is not YAML \([^\n]{0,500}\); correct it( there)?", problem)


@pytest.mark.parametrize("argument", ["seeds=[1", "seeds=" + "[" * 10_000, "seeds={a: 1, a: 2}"])
def test_seeds_of_the_command_line_are_read_as_strictly(write: Write, argument: str) -> None:
    write(b"base: {model: tiny}\n")
    with pytest.raises(RequestError, match=r"^seeds: is not YAML \("):
        sweep.expand("mine", [argument])


NO_TEXT = ["evaluation=files", "evaluation.files.path=none"]
"""So that a run that should have been refused earlier ends as well, with another message."""


@pytest.fixture
def experiment(workplace: Path) -> Callable[[bytes], list[str]]:
    """Write an experiment into a folder of configs; gives the arguments of a run of it."""

    def write(content: bytes) -> list[str]:
        (workplace / "theirs" / "experiment").mkdir(parents=True, exist_ok=True)
        (workplace / "theirs" / "experiment" / "it.yaml").write_bytes(content)
        return ["run", "--config-dir", str(workplace / "theirs"), "experiment=it", "model=tiny", *NO_TEXT]

    return write


@pytest.mark.parametrize(("content", "problem"), WRONG)
def test_a_config_file_that_is_ambiguous_endless_or_code_is_refused_with_its_line(
    experiment: Callable[[bytes], list[str]],
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    problem: str,
) -> None:
    assert main(experiment(content)) == 2
    told = capsys.readouterr().err
    assert re.match(rf"error: .*theirs/experiment/it\.yaml: is not YAML \(.*{problem}", told), told
    assert not (workplace / "ran").exists()


CALL = b"{evil: {_target_: planted.Run, class: planted.Run, (): planted.Run}}"


@pytest.mark.parametrize(
    "files",
    [
        {"experiment/it.yaml": b"# @package _global_\nhydra: {callbacks: " + CALL + b"}\n"},
        {"experiment/it.yaml": b"# @package _global_\nhydra: {job_logging: {version: 1, handlers: " + CALL + b"}}\n"},
        {"experiment/it.yaml": b"# @package _global_\n<<: {hydra: {callbacks: " + CALL + b"}}\n"},
        {"experiment/it.yaml": b"# @package hydra.callbacks\n" + CALL},
        {"experiment/it.yaml": b"# @package _global_.hydra.callbacks\n" + CALL},
        {
            "experiment/it.yaml": b"# @package _global_\ndefaults: ['/method@_global_.hydra.callbacks: evil']\n",
            "method/evil.yaml": CALL,
        },
        {
            "experiment/it.yaml": b"# @package _global_\ndefaults: [{/method@_global_.hydra.callbacks: evil}]\n",
            "method/evil.yaml": CALL,
        },
        {
            "experiment/it.yaml": b"# @package _global_\ndefaults: [/hydra/callbacks/evil]\n",
            "hydra/callbacks/evil.yaml": CALL,
        },
        {
            "experiment/it.yaml": b"# @package _global_\ndefaults: [{override /hydra/sweeper: evil}]\n",
            "hydra/sweeper/evil.yaml": CALL,
        },
    ],
    ids=["callbacks", "logging", "merged", "package", "global", "placed", "placed entry", "group", "overridden"],
)
def test_a_config_file_cannot_have_hydra_import_or_call_anything(
    experiment: Callable[[bytes], list[str]],
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, bytes],
) -> None:
    (workplace / "planted.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.syspath_prepend(workplace)
    arguments = experiment(b"")
    for name, content in files.items():
        (workplace / "theirs" / name).parent.mkdir(parents=True, exist_ok=True)
        (workplace / "theirs" / name).write_bytes(content)
    assert main(arguments) == 2
    assert "planted" not in sys.modules
    assert not (workplace / "ran").exists()
    told = capsys.readouterr().err
    assert re.match(r"error: .*theirs/.*\.yaml: sets hydra, .*give it on the command line\n$", told), told


def test_an_experiment_of_the_users_own_folder_is_composed(
    experiment: Callable[[bytes], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = experiment(b"# @package _global_\ndefaults: [{override /method: wanda}]\nmethod: {sparsity: 0.25}\n")
    assert main([*arguments, "--cfg", "job"]) == 0
    assert "sparsity: 0.25" in capsys.readouterr().out


def test_every_config_of_ours_is_read_by_the_same_rules() -> None:
    for path in sorted(layout.folder("conf").rglob("*.yaml")):
        parse_yaml(path.read_text(encoding="utf-8"), path.name)
    assert compose.compose(["model=tiny"])["model"]
