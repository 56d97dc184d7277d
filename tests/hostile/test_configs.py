"""Any value at any key of the config is taken or refused by name; nothing is run, imported or crashed by it."""

import copy
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nowag_exp.compose import compose
from nowag_exp.config import build_experiment
from nowag_exp.errors import ConfigError, RequestError
from nowag_exp.layout import groups

STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    2,
    2**63,
    10**400,
    0.5,
    1e308,
    5e-324,
    math.nan,
    math.inf,
    -math.inf,
    "",
    " ",
    "???",
    "null",
    "x" * 100_000,
    "\0",
    "line\nbreak",
    "../../../etc/passwd",
    "/dev/zero",
    "🦥‮é\ud7ff",
    "${oc.env:HOME}",
    "$(touch ran)",
    "2:4",
    "100000000000000000000:4",
    [],
    [None],
    ["x"] * 100_000,
    [[[[[[]]]]]],
    {},
    {"a": {"b": None}},
    {1: 2},
    {"_target_": "os.system", "command": "touch ran"},
    {"_target_": "nowag_exp.__main__.main"},
    {"_target_": "nowag_exp.cli.main"},
    {"_target_": "nowag_exp.models..TinyModel"},
    {"_target_": "nowag_exp.models.TinyModel.__init__"},
    {"_target_": "nowag_exp.\0"},
    {"_target_": 3},
    {"_target_": ["nowag_exp"]},
]


def keys(node: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of a config, those of groups too."""
    for key, value in node.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from keys(value, (*before, key))


def with_value(config: dict[str, Any], key: tuple[str, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    node = changed
    for part in key[:-1]:
        node = node[part]
    node[key[-1]] = value
    return changed


def configs() -> list[dict[str, Any]]:
    """With each method, each calibration, each measurement and each tracker."""
    options = [
        (group, name) for group in ("method", "calibration", "evaluation", "tracking") for name in groups()[group]
    ]
    return [compose(["model=tiny", f"{group}={name}"]) for group, name in options]


CONFIGS = configs()


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[-1]], ids=["first", "last"])
def test_every_strange_value_at_every_key_of_a_config(config: dict[str, Any], workplace: Path) -> None:
    for key in keys(config):
        for value in STRANGE:
            taken_or_refused(with_value(config, key, value), key)
    assert not (workplace / "ran").exists()


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(STRANGE)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(data=st.data())
def test_anything_anywhere(workplace: Path, data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(CONFIGS))
    key = data.draw(st.sampled_from(list(keys(config))))
    taken_or_refused(with_value(config, key, data.draw(anything)), key)


def taken_or_refused(config: dict[str, Any], key: tuple[str, ...]) -> None:
    """Build what it describes; what is refused is refused in a line a problem, none of it longer than can be read."""
    problems: list[str] = []
    try:
        build_experiment(config)
    except RequestError as error:
        problems = getattr(error, "problems", [str(error)])
    assert all(problem and "\n" not in problem and len(problem) < 2000 for problem in problems), (key, problems)


TARGETS = [
    "os.system",
    "this.Zen",
    "nowag_exp_evil.X",
    "nowag_exp",
    "nowag_exp.__main__.Main",
    "nowag_exp.compose.compose",
    "nowag_exp.errors.NowagError",
    "nowag_exp.nothing.X",
    "nowag_exp.methods.Nothing",
    "nowag_exp.models.TinyModel",
    "nowag_exp" + ".a" * 50_000 + ".X",
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:30])
def test_a_target_that_is_no_settings_class_of_the_right_kind_is_refused(target: str) -> None:
    config = compose(["model=tiny"])
    config["method"]["_target_"] = target
    with pytest.raises(ConfigError, match=r"^method\._target_: "):
        build_experiment(config)
    assert "this" not in sys.modules, "what is not ours is not even imported"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("model.wheel.requirement=/tmp/evil", "model.wheel.requirement: must be NAME==VERSION"),
        ("model.wheel.requirement='-r/etc/passwd'", "model.wheel.requirement: must be NAME==VERSION"),
        ("model.wheel.requirement='git+https://evil/x'", "model.wheel.requirement: must be NAME==VERSION"),
        ("model.wheel.requirement='a==1 --index-url=https://evil'", "model.wheel.requirement: must be NAME==VERSION"),
        ("model.wheel.tags=[--index-url]", "model.wheel.tags: must be tags of a wheel"),
        ("model.wheel.sha256=../../../x", "model.wheel.sha256: string should match pattern"),
        ("calibration.cleaned_sha256=/../../../../src", "calibration.cleaned_sha256: string should match pattern"),
    ],
)
def test_what_becomes_a_command_or_a_path_is_of_one_shape(override: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        build_experiment(compose(["model=smollm2_135m", override]))


@pytest.mark.parametrize("evaluation", ["wiki_sample", "wiki_zero_shot"])
@pytest.mark.parametrize("name", ["../../../model", "/etc/passwd", "..", ".hidden", "a/b", "a\\b", "", "a" * 300])
def test_a_measurement_whose_name_is_none_is_refused(evaluation: str, name: str) -> None:
    config = compose(["model=tiny", f"evaluation={evaluation}"])
    config["evaluation"][name] = config["evaluation"].pop(evaluation) | {"name": name}
    with pytest.raises(ConfigError, match=r"name: string should match pattern"):
        build_experiment(config)


def test_names_lead_nowhere(workplace: Path) -> None:
    for name in ("../../x", "/etc/passwd", "..", ".hidden", "a/b", "-rf", "a b"):
        config = compose(["model=tiny"])
        config["method"]["name"] = name
        folder = build_experiment(config).checkpoint_folder
        assert folder.resolve().parent == (workplace / "results" / "checkpoints").resolve()


def test_the_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_PLANTED")
    with pytest.raises(ConfigError, match="do not read the environment") as raised:
        compose(["model=tiny", "method.name=${oc.env:HF_TOKEN}"])
    assert "hf_PLANTED" not in str(raised.value)
