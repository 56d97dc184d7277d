"""Hydra: compose configs, expand sweeps with its override grammar, and put its errors in one line.

Imports neither torch nor anything that does.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice, product
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nowag_exp.errors import ConfigError, RequestError
from nowag_exp.layout import among, folder, groups
from nowag_exp.patterns import parse_pattern
from nowag_exp.yamls import read_yaml

CONFIG_NAME = "config"
EXECUTION_NAME = "execution"
"""The config of how a sweep is run, beside that of its experiments."""

VERSION_BASE = "1.3"

MOST_JOBS = 100_000
"""That one grid may describe."""


def prepare_hydra() -> None:
    """Have Hydra read config files as we do, with ``sparsity_of``; the environment, with its secrets, is not read."""
    OmegaConf.register_new_resolver("sparsity_of", sparsity_of, replace=True)
    OmegaConf.register_new_resolver("oc.env", _refuse_environment, replace=True)
    Plugins.instance()  # It registers Hydra's own reader.
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = ConfigFiles


class ConfigFiles(FileConfigSource):
    """Hydra's reader of config files, for files of anybody: of this package, or of a folder that the user names.

    What stands under ``hydra`` names classes that Hydra would import and call, so files may not say it.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """One file.

        Raises:
            ConfigError: naming it, if it is no YAML that means one thing, maps no keys, or says something of ``hydra``.
        """
        path = Path(self.path) / self._normalize_file_name(config_path)
        own = path.resolve() == (folder("conf") / f"{CONFIG_NAME}.yaml").resolve()
        if path.is_file():
            state = path.stat()
            if _speaks_of_hydra(path, state.st_mtime_ns, state.st_size) and not own:
                raise _hydra_is_not_theirs(path)
        result = super().load_config(config_path)
        if "hydra" in Path(config_path).parts or "hydra" in (result.header.get("package") or ""):
            raise _hydra_is_not_theirs(path)
        return result


@functools.lru_cache(maxsize=4096)
def _speaks_of_hydra(path: Path, modified: int, size: int) -> bool:
    """Whether a file has settings of Hydra's or puts another file among them; an unchanged one is read once."""
    content = read_yaml(path, str(path))
    if not isinstance(content, Mapping | None):
        raise ConfigError([f"{path}: must map config keys to values; got {type(content).__name__}"])
    defaults = (content or {}).get("defaults")
    entries = defaults if isinstance(defaults, list) else []
    texts = [str(text) for entry in entries for text in (entry if isinstance(entry, Mapping) else [entry])]
    return "hydra" in (content or {}) or any("hydra" in text.partition("@")[2] for text in texts)


def _hydra_is_not_theirs(path: Path) -> ConfigError:
    return ConfigError(
        [f"{path}: sets hydra, and with it what is imported and run; remove that, or give it on the command line"]
    )


def _refuse_environment(*arguments: Any) -> None:
    name = ",".join(map(str, arguments))
    raise ValueError(
        f"${{oc.env:{name}}}: configs are kept in records, so they do not read the environment; give the value itself"
    )


def sparsity_of(pattern: Any, unstructured: float) -> float:
    """Sparsity that follows from a pattern: ``1 - N/M``, or the default given for ``unstructured``.

    A malformed pattern gives the default: ``build()`` reports it with the full key.
    """
    try:
        n_of_m = parse_pattern(str(pattern))
    except ValueError:
        return float(unstructured)
    return n_of_m.sparsity if n_of_m else float(unstructured)


def compose(overrides: list[str], name: str = CONFIG_NAME) -> dict[str, Any]:
    """The resolved config for these overrides, as plain containers.

    Raises:
        ConfigError: on an unknown group, option or key, saying which exist.
    """
    with reported(overrides, name), _initialised():
        return resolve(hydra_compose(name, overrides=overrides))


def split_execution(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Overrides that say how to run (``executor=ray``), and those that say what."""
    how = [text for text in overrides if re.match(r"\+{0,2}executor[=.]", text)]
    return how, [text for text in overrides if text not in how]


def resolve(config: DictConfig) -> dict[str, Any]:
    """Plain containers, interpolations resolved; a value that is missing stays ``???``."""
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def expand(grid: Mapping[str, str]) -> Iterator[list[str]]:
    """All combinations of a grid of overrides, the last key fastest.

    Args:
        grid: values by key, in Hydra's sweep grammar (``a,b``, ``choice(a,b)``, ``range(1,4)``).

    Raises:
        ConfigError: if a value cannot be parsed, an axis has none, or there are too many combinations.
    """
    texts = [f"{key}={value}" for key, value in grid.items()]
    with reported(texts):
        parsed = OverridesParser.create().parse_overrides(texts)
        values = [
            [
                f"{override.get_key_element()}={value}"
                for value in islice(override.sweep_string_iterator(), MOST_JOBS + 1)
            ]
            if override.is_sweep_override()
            else [text]
            for text, override in zip(texts, parsed, strict=True)
        ]
    if empty := [text for text, found in zip(texts, values, strict=True) if not found]:
        raise ConfigError([f"{text}: has no values, so there would be no jobs" for text in empty])
    if math.prod(map(len, values)) > MOST_JOBS:
        raise ConfigError([f"{' '.join(texts)}: describes more than {MOST_JOBS:,} jobs; give fewer values"])
    for combination in product(*values):
        yield list(combination)


@contextmanager
def reported(overrides: list[str], name: str = CONFIG_NAME) -> Iterator[None]:
    """Turn Hydra's and OmegaConf's errors into one line that says which values exist in the config of this name."""
    try:
        yield
    except OverrideParseException as error:
        raise ConfigError([_explain_grammar(error.override)]) from error
    except MissingConfigException as error:
        raise ConfigError([_explain_missing_option(error)]) from error
    except ConfigCompositionException as error:
        raise ConfigError([_explain_composition(error, overrides, name)]) from error
    except OSError as error:
        raise ConfigError(
            [f"{error.filename}: cannot be written to ({error.strerror}); set paths.results=DIR"]
        ) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError([" ".join(str(error).split())]) from error


def _explain_grammar(override: str) -> str:
    key, _, value = override.partition("=")
    quoted = f"; quote a value with special characters: {key}='\"{value}\"'" if value else ""
    return f"{override}: is not KEY=VALUE in Hydra's override grammar{quoted}"


def _explain_missing_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return " ".join(str(error).split())
    return f"{group}={option}: no such option" + among(option, sorted(error.options or groups().get(group, {})))


def _explain_composition(error: ConfigCompositionException, overrides: list[str], config: str) -> str:
    match = re.search(r"Could not override '([^']+)'", str(error))
    if not match:
        return " ".join(str(error).split())
    key = match[1]
    if "." not in key:
        optional = {"experiment"} if config == CONFIG_NAME else set()
        known = sorted({*optional, *_keys_at(config, [], "")} - {"hydra"})
        return f"{key}: no such config group or key" + among(key, known)
    parent, _, name = key.rpartition(".")
    choices = [text for text in overrides if re.match(r"[a-z_]+=[^.]", text) and text.split("=")[0] in groups()]
    return f"{key}: unknown key" + among(name, _keys_at(config, choices, parent))


def _keys_at(config: str, overrides: list[str], key: str) -> list[str]:
    """Keys of a node of the config, or of the nearest node above it that exists; none if it cannot be composed."""
    GlobalHydra.instance().clear()
    try:
        with _initialised():
            node = hydra_compose(config, overrides=overrides)
            for part in key.split(".") if key else []:
                below = node.get(part)
                if not isinstance(below, DictConfig):
                    break
                node = below
    except (HydraException, OmegaConfBaseException):
        return []
    return sorted(str(name) for name in node if name != "_target_")


@contextmanager
def _initialised() -> Iterator[None]:
    prepare_hydra()
    with initialize_config_dir(str(folder("conf")), version_base=VERSION_BASE):
        yield


def results_folder(overrides: list[str]) -> Path:
    """Where ``paths.results`` points, for verbs that only read results.

    Raises:
        RequestError: if something other than ``paths.results`` is given.
    """
    _accept(overrides, ("paths.results=",), "paths.results=DIR")
    return Path(compose(overrides)["paths"]["results"]).expanduser()


def tracking_and_results(overrides: list[str]) -> tuple[dict[str, Any], Path]:
    """The tracking config, and where ``paths.results`` points.

    Raises:
        RequestError: if another group is given.
    """
    _accept(overrides, ("tracking", "paths.results="), "tracking=NAME, tracking.KEY=VALUE and paths.results=DIR")
    config = compose(overrides)
    return config["tracking"], Path(config["paths"]["results"]).expanduser()


def _accept(overrides: list[str], beginnings: tuple[str, ...], shown: str) -> None:
    for text in overrides:
        if not text.startswith(beginnings):
            raise RequestError(f"{text}: this verb takes no override but {shown}")
