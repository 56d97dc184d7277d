"""YAML that anybody may have written: plain values, no key twice, no larger than it looks."""

from pathlib import Path
from typing import Any

import yaml

from nowag_exp.errors import RequestError

MOST_BYTES = 1_000_000
MOST_NODES = 20_000
"""Keys and values of one file, those counted again that an alias repeats."""

DEEPEST = 100

LONGEST_INTEGER = 100
"""Characters; Python cannot even print one of some thousand digits."""


class _Loader(yaml.SafeLoader):
    """PyYAML's own, which knows no Python objects; what it would take, but few mean, is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._n_nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark, is_alias, before = self.peek_event().start_mark, self.check_event(yaml.AliasEvent), self._n_nodes
        if self._depth == DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"it is nested more than {DEEPEST} deep", problem_mark=mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise yaml.MarkedYAMLError(problem="an alias repeats what it stands in", problem_mark=mark)
        self._n_nodes += self._sizes[id(node)] if is_alias else 1
        self._sizes.setdefault(id(node), self._n_nodes - before)
        if self._n_nodes > MOST_NODES:
            raise yaml.MarkedYAMLError(problem=f"it holds more than {MOST_NODES:,} values", problem_mark=mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        found: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in found:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value[:100]!r} is there twice", problem_mark=key.start_mark
                    )
                found.add((key.tag, key.value))
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > LONGEST_INTEGER:
            raise yaml.MarkedYAMLError(
                problem=f"an integer has more than {LONGEST_INTEGER} characters", problem_mark=node.start_mark
            )
        return super().construct_yaml_int(node)


# PyYAML looks up the function, not the method.
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse_yaml(text: str, where: str) -> Any:
    """Plain values that a text holds.

    Args:
        text: YAML.
        where: it stands; opens the message.

    Raises:
        RequestError: naming the line, if it is none, has a key twice, asks for a Python object, is nested too deeply,
            or holds too much.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f"line {mark.line + 1}: "
        raise RequestError(f"{where}: is not YAML ({line}{error.problem}); correct it there") from error
    # PyYAML checks no values: !!bool x is a KeyError.
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RequestError(f"{where}: is not YAML ({' '.join(str(error).split())[:300]}); correct it") from error


def read_yaml(path: Path, where: str) -> Any:
    """Plain values that a file holds.

    Args:
        path: of the file.
        where: what messages call it.

    Raises:
        RequestError: as :func:`parse_yaml`; also if it cannot be read, is not UTF-8 or is too large.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RequestError(f"{where}: is larger than {MOST_BYTES / 1e6:.0f} MB, which no such file is")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{where}: cannot be read ({error.strerror}); give a readable file") from error
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise RequestError(
            f"{where}: is not UTF-8 text (byte {error.start} is 0x{byte:02x}); save it as UTF-8"
        ) from error
    return parse_yaml(text, where)
