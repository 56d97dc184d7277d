"""The decorator that every class named in a YAML carries: a frozen, keyword-only, strictly typed dataclass."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

T = TypeVar("T")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A hash, and nothing else: it becomes part of paths."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}$")]
"""A name, and nothing else: it becomes part of paths."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make ``cls`` a settings class: unknown, missing and mistyped values are refused, nothing is coerced.

    Range checks go in ``__post_init__`` and raise ``ValueError("field: what is wrong")``; the message opens with the
    field so that ``build()`` can report the full config key.
    """
    make: Callable[..., Any] = dataclass(
        frozen=True,
        kw_only=True,
        config=ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, allow_inf_nan=False),
    )
    return make(cls)
