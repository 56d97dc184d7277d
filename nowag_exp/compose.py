"""Hydra: compose configs, expand sweeps with its override grammar, and put its errors in one line.

Imports neither torch nor anything that does.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice, product
from pathlib import Path, PurePath
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal import hydra as hydra_main
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
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
    Plugins.instance()  # It registers Hydra's own readers.
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = ConfigFiles
    SourcesRegistry.instance().types[ImportlibResourcesConfigSource.scheme()] = PackagedConfigs
    hydra_main.ConfigLoaderImpl = ConfigLoader


# What stands under `hydra` names classes that Hydra imports and calls, so files of others may not say it. Hydra lets
# plugins add readers of config files, but not replace its own, nor see the package that a file ends up in. Hence the
# private names below (FileConfigSource, ImportlibResourcesConfigSource, SourcesRegistry, ConfigLoaderImpl and its
# _load_single_config), tried with Hydra 1.3.8; tests/hostile/test_yaml.py fails where they no longer hold.


class ConfigFiles(FileConfigSource):
    """Hydra's reader of config files, for files of anybody: of this package, or of a folder that the user names."""

    def load_config(self, config_path: str) -> ConfigResult:
        """One file.

        Raises:
            RequestError: naming it, if it is no YAML that means one thing.
            ConfigError: naming it, if it maps no keys, or has the key ``hydra``.
        """
        path = (Path(self.path) / self._normalize_file_name(config_path)).resolve()  # What Hydra opens.
        if path.is_file():
            state = path.stat()
            # Not left to ConfigLoader: Hydra imports the packages of hydra.searchpath before it composes anything.
            if _has_hydra(path, state.st_mtime_ns, state.st_size) and not _is_main(path):
                raise _hydra_is_not_theirs(path)
        result = super().load_config(config_path)
        result.path = f"{self.scheme()}://{path}"
        return result


class PackagedConfigs(ImportlibResourcesConfigSource):
    """Hydra's reader of its own configs, which is asked first, and would read any file of this machine."""

    def is_config(self, config_path: str) -> bool:
        """Whether the package has it; what lies outside is left to :class:`ConfigFiles`."""
        path = PurePath(config_path)
        return not path.is_absolute() and ".." not in path.parts and super().is_config(config_path)


class ConfigLoader(ConfigLoaderImpl):
    """Hydra's composition of a config, for files of anybody."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """One config; of a multirun Hydra's own settings, with the overrides that its sweeper makes jobs of.

        Hydra would apply those that are no axis to the default options, which need not have their keys; each job is
        composed in full, and refused, before the first one starts.
        """
        if run_mode is not RunMode.MULTIRUN:
            return super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        parsed = OverridesParser.create(config_loader=self).parse_overrides(overrides)
        of_hydra = [text for text, override in zip(overrides, parsed, strict=True) if override.is_hydra_override()]
        config = super().load_configuration(config_name, of_hydra, run_mode, from_shell, validate_sweep_overrides)
        config.hydra.overrides.task = [text for text in overrides if text not in of_hydra]
        return config

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        """One config, in the package that its file, those that include it and the command line give it.

        Raises:
            ConfigError: naming the file, if one of others sets anything under ``hydra`` or chooses a config of Hydra's.
        """
        loaded = super()._load_single_config(default, repo)
        if (
            _is_of_hydra(default.config_path)
            or any(entry.is_override() and _is_of_hydra(entry.group) for entry in loaded.defaults_list)
            or "hydra" in list(loaded.config)  # A DictConfig itself does not contain what is `???`.
        ):
            files = [_file(config) for config in (loaded, repo.load_config(default.parent)) if config]
            if theirs := [path for path in files if path and not _is_main(path)]:
                # A part of ours that theirs puts there is not to blame.
                raise _hydra_is_not_theirs(min(theirs, key=lambda path: path.is_relative_to(folder("conf"))))
        return loaded


@functools.lru_cache(maxsize=4096)
def _has_hydra(path: Path, modified: int, size: int) -> bool:
    """Whether a file has settings of Hydra's; an unchanged one is read once."""
    content = read_yaml(path, str(path))
    if not isinstance(content, Mapping | None):
        raise ConfigError([f"{path}: must map config keys to values; got {type(content).__name__}"])
    return "hydra" in (content or {})


def _file(config: ConfigResult) -> Path | None:
    """Where a config was read by :class:`ConfigFiles`; none for Hydra's own."""
    scheme, _, path = config.path.partition("://")
    return Path(path) if scheme == ConfigFiles.scheme() else None


def _is_main(path: Path) -> bool:
    return path == (folder("conf") / f"{CONFIG_NAME}.yaml").resolve()


def _is_of_hydra(config_path: str) -> bool:
    return config_path.removeprefix("/").partition("/")[0] == "hydra"


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


def _explain_several(message: str) -> str | None:
    """Several values of a key for one experiment."""
    match = re.search(r"Ambiguous value for argument '([^=']+)=([^']*)'", message)
    if not match:
        return None
    key, values = match[1], match[2]
    if key == "seeds":
        key = "seed"  # What it is called of one experiment.
    as_list = "" if key == "seed" or key in groups() else f"; a list as one value: {key}=[{values}]"
    return f"{match[1]}={values}: several values; one experiment each: nowag-exp run --multirun {key}={values}{as_list}"


def _explain_missing_option(error: MissingConfigException) -> str:
    missing = error.missing_cfg_file or ""
    group, _, option = missing.rpartition("/")
    if not group:
        return " ".join(str(error).split())
    if group not in groups() and missing.partition("/")[0] in groups():  # model=ORG/NAME
        group, _, option = missing.partition("/")
        known = "; for a model in a folder: model=local model.path=DIR" if group == "model" else ""
        return f"{group}={option}: no such option" + known + among(missing.rpartition("/")[2], sorted(groups()[group]))
    return f"{group}={option}: no such option" + among(option, sorted(error.options or groups().get(group, {})))


def _explain_composition(error: ConfigCompositionException, overrides: list[str], config: str) -> str:
    match = re.search(r"Could not override '([^']+)'", str(error))
    if not match:
        return _explain_several(str(error)) or " ".join(str(error).split())
    key = match[1]
    if key in groups():
        return (
            f"{key}: is a group, of which {key}=NAME chooses an option, and {key}.KEY=VALUE sets a key; "
            f"options: {', '.join(groups()[key])}"
        )
    if "." not in key:
        optional = {"experiment"} if config == CONFIG_NAME else set()
        known = sorted({*optional, *_keys_at(config, [], "")} - {"hydra"})
        return f"{key}: no such config group or key" + among(key, known)
    parent, _, name = key.rpartition(".")
    choices = [text for text in overrides if re.match(r"[a-z_]+=[^.]", text) and text.split("=")[0] in groups()]
    if not choices:
        return f"{key}: unknown key" + (_elsewhere(config, [], key) or among(name, _keys_at(config, [], parent)))
    # Of a multirun the first of its jobs that lacks the key.
    jobs = list(expand(dict(text.split("=", 1) for text in choices)))
    for job in jobs:
        known = _keys_at(config, job, parent)
        if known and name not in known:
            which = f" with {' '.join(job)}" if len(jobs) > 1 else ""
            return f"{key}: unknown key{which}" + (_elsewhere(config, job, key) or among(name, known))
    return f"{key}: unknown key"


def _elsewhere(config: str, overrides: list[str], key: str) -> str:
    """Say which groups below the one named do have the key; empty if none has."""
    parent, _, name = key.rpartition(".")
    below = [f"{parent}.{group}" for group in _keys_at(config, overrides, parent)]
    having = [group for group in below if name in _keys_at(config, overrides, group)]
    return f"; write {' or '.join(f'{group}.{name}' for group in having)}" if having else ""


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
