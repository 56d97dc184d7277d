"""JSON that ends in a checksum of its own: a digit that flips in a number or in a hash is noticed."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

CHECKSUM = re.compile(rb'"checksum": "([0-9a-f]{64})"\n}\n$')
"""How such a file ends: sha256 of the file without these 64 digits."""


def with_checksum(content: Mapping[str, Any]) -> str:
    """An object as stable text: same content, same bytes.

    Raises:
        ValueError: if a number in it is not finite.
    """
    text = json.dumps({**content, "checksum": ""}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    end = '"\n}\n'
    return text.removesuffix(end) + hashlib.sha256(text.encode()).hexdigest() + end


def is_as_written(content: bytes) -> bool:
    """Whether a file is, byte for byte, what :func:`with_checksum` gave."""
    checksum = CHECKSUM.search(content)
    if checksum is None:
        return False
    start, end = checksum.span(1)
    return hashlib.sha256(content[:start] + content[end:]).hexdigest().encode() == checksum[1]
