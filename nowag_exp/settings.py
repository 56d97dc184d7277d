"""The decorator that every class named in a YAML carries: a frozen, keyword-only, strictly typed dataclass."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

T = TypeVar("T")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A hash, and nothing else: it becomes part of paths."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}$")]
"""A name, and nothing else: it becomes part of paths."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy, torch and Python's generator all take."""

LONGEST_NAME = 255
"""Bytes that file systems allow for the name of one file or folder."""


def _of_possible_names(path: str) -> str:
    longest = max((len(os.fsencode(part)) for part in Path(path).parts), default=0)
    if longest > LONGEST_NAME:
        raise PydanticCustomError(
            "long_name",
            "must be the path of a file or folder, whose names have at most {most} bytes, not {longest}",
            {"most": LONGEST_NAME, "longest": longest},
        )
    return path


PathText = Annotated[str, AfterValidator(_of_possible_names)]
"""A path or a glob, as text: equal on all systems."""


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
