"""JSON with a checksum of its own: no byte of it can change unnoticed."""

import hashlib
import json
import math

import pytest

from nowag_exp.checksum import is_as_written, with_checksum

CONTENT = {"perplexity": 5.12, "settings": {"ä": [1, None]}}


def test_the_content_is_as_it_was_and_the_checksum_is_of_the_text_without_it() -> None:
    text = with_checksum(CONTENT)
    said = json.loads(text)
    checksum = said.pop("checksum")
    assert said == CONTENT
    assert checksum == hashlib.sha256(text.replace(checksum, "").encode()).hexdigest()
    assert is_as_written(text.encode())


def test_any_flipped_byte_and_any_cut_is_noticed() -> None:
    content = with_checksum(CONTENT).encode()
    for place in range(len(content)):
        assert not is_as_written(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert not is_as_written(content[:place])


def test_a_number_that_json_has_no_word_for_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        with_checksum({"perplexity": math.inf})
