"""Sparsity patterns: ``unstructured``, or ``N:M`` for N weights kept of each M consecutive inputs. Imports nothing."""

import re
from typing import NamedTuple

UNSTRUCTURED = "unstructured"


class NOfM(NamedTuple):
    """``n`` weights kept of each ``m`` consecutive inputs."""

    n: int
    m: int

    @property
    def sparsity(self) -> float:
        """Fraction removed."""
        return 1 - self.n / self.m


def parse_pattern(pattern: str) -> NOfM | None:
    """Read ``unstructured`` (``None``) or ``N:M``.

    Raises:
        ValueError: if it is neither, or not ``0 < N <= M``.
    """
    if pattern == UNSTRUCTURED:
        return None
    match = re.fullmatch(r"([1-9][0-9]*):([1-9][0-9]*)", pattern)
    if match is None or int(match[1]) > int(match[2]):
        raise ValueError(
            f"pattern: must be '{UNSTRUCTURED}' or 'N:M' with 0 < N <= M (N kept of each M consecutive inputs), "
            f"such as '2:4'; got '{pattern}'"
        )
    return NOfM(int(match[1]), int(match[2]))
