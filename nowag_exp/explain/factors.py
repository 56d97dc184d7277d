"""Which settings of two configs differ, grouped so that each group can be changed alone.

Three kinds of keys belong together: a method's class and the settings that only one of two classes has, where the
settings that both have are factors of their own; the keys that name one model or one text, such as a repository and its
revision; and a key that only follows another one by the interpolation of its YAML, such as a seed by ``seed``, in both
configs.
"""

import copy
import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nowag_exp import compose
from nowag_exp.calibration import Calibration
from nowag_exp.explain.differences import ABSENT, Change, changes, listed
from nowag_exp.layout import folder
from nowag_exp.models import ModelSource

SOURCES = {"model": (ModelSource, "model weights"), "calibration": (Calibration, "calibration text")}
"""Parts that say where something comes from: the settings that all of them have are those of the class; the others name
together what the words say."""

REFERENCE = re.compile(r"\$\{(\.?[\w.]+)\}")


@dataclass(frozen=True)
class Factor:
    """Keys that are changed together.

    Attributes:
        name: of the key that the others go with, or of the part.
        changes: of all of them, by full key.
    """

    name: str
    changes: tuple[Change, ...]

    def describe(self) -> str:
        """``method.pattern (2:4, unstructured)``, and what goes with it."""
        found = {change.key: change for change in self.changes}
        if self.name in found:
            followers = ", ".join(key for key in found if key != self.name)
            return listed([found[self.name]]) + (f" with {followers}" if followers else "")
        names = [key for key in found if key.rpartition(".")[2] in ("name", "path")]
        if names:
            sides = ([getattr(found[key], side) for key in names] for side in ("a", "b"))
            a, b = (next((value for value in values if value is not ABSENT), ABSENT) for values in sides)
            return listed([Change(self.name, a, b)])
        return f"{self.name}: {listed(self.changes, most=2)}"

    def apply(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config with the second one's values of these keys."""
        changed = copy.deepcopy(config)
        for change in self.changes:
            *above, last = change.key.split(".")
            node = changed
            for name in above:
                node = node.setdefault(name, {})
            if change.b is ABSENT:
                node.pop(last, None)
            else:
                node[last] = copy.deepcopy(change.b)
        return changed


def factors(a: dict[str, Any], b: dict[str, Any]) -> list[Factor]:
    """What can be changed alone of model, calibration, method and seed, in this order."""
    found: dict[str, Change] = {}
    for part in ("model", "calibration", "method"):
        for change in changes(a[part], b[part]):
            found[f"{part}.{change.key}"] = Change(f"{part}.{change.key}", change.a, change.b)
    for key in ("seed", "data_dir"):
        if a.get(key) != b.get(key):
            found[key] = Change(key, a.get(key, ABSENT), b.get(key, ABSENT))
    leader = {key: _part_of(key, a, b) for key in found}
    for key in found:
        if leader[key] == key:
            leader[key] = next((leader[source] for source in _followed(key, a, b) if source in found), key)
    groups: dict[str, list[Change]] = {}
    for key, change in found.items():
        groups.setdefault(leader[key], []).append(change)
    return [Factor(name, tuple(members)) for name, members in groups.items()]


def evaluation_factor(a: dict[str, Any], b: dict[str, Any]) -> Factor:
    """The whole evaluation: values of different measurements compare with nothing."""
    return Factor("evaluation", (Change("evaluation", a["evaluation"], b["evaluation"]),))


def _part_of(key: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """The factor that a key opens or belongs to by what it is."""
    part, _, name = key.partition(".")
    if part in SOURCES:
        common, together = SOURCES[part]
        if name not in {field.name for field in dataclasses.fields(common)}:  # type: ignore[arg-type]
            return together
    if part == "method" and a[part].get("_target_") != b[part].get("_target_"):
        in_both = name in a[part] and name in b[part]
        return key if in_both and name not in ("_target_", "name") else part
    return key


def _followed(key: str, a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The keys that this one is interpolated from, if both configs have what the interpolation gives."""
    part, _, name = key.partition(".")
    of_a, of_b = (
        _interpolations().get((part, config[part].get("_target_") if name else None, name), ()) for config in (a, b)
    )
    for raw in of_a:
        if raw in of_b and all(_gives(config, key, raw) for config in (a, b)):
            return [f"{part}{source}" if source.startswith(".") else source for source in REFERENCE.findall(raw)]
    return []


def _gives(config: dict[str, Any], key: str, raw: str) -> bool:
    """Whether the interpolation, put where the value stands, resolves to the value."""
    compose.prepare_hydra()
    tree = OmegaConf.create(config)
    wanted = OmegaConf.select(tree, key)
    try:
        OmegaConf.update(tree, key, raw)
        return bool(OmegaConf.select(tree, key) == wanted)
    except OmegaConfBaseException:
        return False


@functools.cache
def _interpolations() -> dict[tuple[str, str | None, str], tuple[str, ...]]:
    """What the YAML files of the parts interpolate, by part, class and key."""
    found: dict[tuple[str, str | None, str], tuple[str, ...]] = {}
    for part in ("model", "calibration", "method"):
        for path in sorted((folder("conf") / part).glob("*.yaml")):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            for name, value in content.items():
                if isinstance(value, str) and "${" in value:
                    place = (part, content.get("_target_"), name)
                    found[place] = tuple(dict.fromkeys([*found.get(place, ()), value]))
    return found
