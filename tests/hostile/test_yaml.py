"""Sweep files and config files that somebody else wrote: one meaning, bounded, and nothing is run by them."""

import re
import sys
from collections.abc import Callable, Iterator
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
    pytest.param(b"base: {}\nseed: 0x" + b"f" * 900_000, r"line 2: an integer has more than 100 characters", id="hex"),
    pytest.param(b"seed: !!int '" + b"1:" * 200 + b"1'", r"line 1: an integer has more than 100", id="sexagesimal"),
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


@pytest.fixture
def planted(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Put a module where Python finds it; tells whether anything imported it."""
    (workplace / "planted.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.syspath_prepend(workplace)
    yield lambda: "planted" in sys.modules or (workplace / "ran").exists()
    sys.modules.pop("planted", None)


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
            "experiment/it.yaml": b"# @package _global_\ndefaults: [/method/evil@_global_.hydra.callbacks]\n",
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
        {
            "experiment/it.yaml": b"# @package _global_\ndefaults: [/hydra.callbacks: evil]\n",
            "hydra.callbacks/evil.yaml": CALL,
        },
        {
            "experiment/it.yaml": b"# @package _global_\ndefaults: [/hydra.callbacks/evil]\n",
            "hydra.callbacks/evil.yaml": CALL,
        },
        {
            "experiment/it.yaml": b"# @package _global_\ndefaults: [/ra@hyd_group_.callbacks: plain]\n",
            "ra/plain.yaml": CALL,
        },
        {
            "experiment/it.yaml": b"# @package _global_\ndefaults: ['/method/evil@_global_.[hydra].callbacks']\n",
            "method/evil.yaml": CALL,
        },
        {
            "experiment/it.yaml": b"# @package _global_\ndefaults: [/method@_global_: evil]\n",
            "method/evil.yaml": b"hydra: {callbacks: " + CALL + b"}\n",
        },
        {
            "experiment/it.yaml": b"# @package _global_\ndefaults: [/THEIRS/between]\n",
            "between.yaml": b"# @package _global_\ndefaults: [/THEIRS/evil@_global_.hydra.callbacks]\n",
            "evil.yaml": CALL,
        },
        {"experiment/it.yaml": b"# @package _global_\ndefaults: [/method@_global_.hydra.callbacks: wanda]\n"},
        {"experiment/it.yaml": b"# @package _global_\ndefaults: [override /hydra/job_logging: disabled]\n"},
        {"experiment/it.yaml": b"# @package _global_\ndefaults: [override /hydra/launcher: basic]\n"},
        {"experiment/it.yaml": b"# @package _global_\ndefaults: [optional override /hydra/launcher: basic]\n"},
        {"experiment/it.yaml": b"# @package _global_\ndefaults: [/hydra/launcher/basic]\n"},
        {
            "experiment/it.yaml": b"# @package _global_\ndefaults: ['/hydra/quiet@_global_']\n",
            "hydra/quiet.yaml": b"defaults: [override launcher@_global_.hydra.launcher: basic]\n",
        },
    ],
    ids=[
        "callbacks",
        "logging",
        "merged",
        "package",
        "global",
        "placed",
        "placed entry",
        "group",
        "overridden",
        "dotted entry",
        "dotted",
        "keyword",
        "brackets",
        "placed global",
        "absolute",
        "placed ours",
        "override",
        "override same",
        "optional override",
        "hydra's own",
        "override beside",
    ],
)
def test_a_config_file_cannot_have_hydra_import_or_call_anything(
    experiment: Callable[[bytes], list[str]],
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    planted: Callable[[], bool],
    files: dict[str, bytes],
) -> None:
    arguments = experiment(b"")
    for name, content in files.items():
        (workplace / "theirs" / name).parent.mkdir(parents=True, exist_ok=True)
        (workplace / "theirs" / name).write_bytes(content.replace(b"THEIRS", str(workplace / "theirs").encode()))
    assert main(arguments) == 2
    assert not planted()
    told = capsys.readouterr().err
    assert re.match(r"error: .*theirs/.*\.yaml: sets hydra, .*give it on the command line\n$", told), told


@pytest.mark.parametrize("name", ["/THEIRS/evil", "/none/../evil"])
def test_a_config_file_outside_the_group_is_read_as_strictly(
    experiment: Callable[[bytes], list[str]], workplace: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    name = name.replace("THEIRS", str(workplace / "theirs"))
    arguments = experiment(f"# @package _global_\ndefaults: [{name}]\n".encode())
    (workplace / "theirs" / "evil.yaml").write_bytes(LAUGHS)
    assert main(arguments) == 2
    assert "evil.yaml: is not YAML (line 5: it holds more than 20,000 values)" in capsys.readouterr().err


def test_a_name_that_is_no_keyword_to_hydra_leads_a_config_file_nowhere(
    experiment: Callable[[bytes], list[str]], workplace: Path, planted: Callable[[], bool]
) -> None:
    arguments = experiment(b"# @package _global_\ndefaults: [/method@hyd_name_.callbacks: ra]\n")
    (workplace / "theirs" / "method").mkdir()
    (workplace / "theirs" / "method" / "ra.yaml").write_bytes(CALL)
    assert main(arguments) == 2
    assert not planted()


def test_a_config_of_their_own_cannot_have_hydra_search_a_package(
    workplace: Path, capsys: pytest.CaptureFixture[str], planted: Callable[[], bool]
) -> None:
    (workplace / "config.yaml").write_text("hydra: {searchpath: ['pkg://planted']}\n")
    assert main(["run", "--config-path", str(workplace), *NO_TEXT]) == 2
    assert not planted()
    assert "config.yaml: sets hydra, " in capsys.readouterr().err


def test_the_command_line_may_set_hydra(
    experiment: Callable[[bytes], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = experiment(b"# @package _global_\nmethod: {sparsity: 0.25}\n")
    theirs = ["hydra/job_logging=disabled", "hydra.job.name=named", "+hydra.callbacks.none.key=1"]
    assert main([*arguments, *theirs, "--cfg", "hydra"]) == 0
    assert re.search("name: named", capsys.readouterr().out)


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
