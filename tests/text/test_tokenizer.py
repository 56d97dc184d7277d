"""Tokenizers that transformers reads with the help of other packages: read where they are, named where they are not."""

import base64
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowag_exp.errors import RequestError
from nowag_exp.models.tiny import byte_tokenizer
from nowag_exp.text import Tokenizer, load_tokenizer

# In a process of its own: sentencepiece describes the same messages, and no process may have both.
SENTENCEPIECE = """
import sys
from transformers.utils.sentencepiece_model_pb2_new import ModelProto
model = ModelProto()
pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((f"<0x{i:02X}>", 6) for i in range(256))]
for score, (piece, kind) in enumerate([*pieces, *((piece, 1) for piece in ("▁", "a", "b", "ab", "▁ab"))]):
    model.pieces.add(piece=piece, score=-score, type=kind)
model.trainer_spec.model_type, model.trainer_spec.byte_fallback = 2, True
sys.stdout.buffer.write(model.SerializeToString())
"""


@pytest.fixture(scope="module")
def sentencepiece() -> bytes:
    """A tokenizer of bytes and five pieces, as Llama-2 has one."""
    return subprocess.run([sys.executable, "-c", SENTENCEPIECE], capture_output=True, check=True).stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Pretend that packages are not installed, whether or not they are, and that the others are."""
    from transformers import AutoTokenizer  # noqa: F401 - looks for packages when it is imported, and must find ours.
    from transformers.utils import import_utils

    def forget() -> None:
        for name in ("sentencepiece", "protobuf", "tiktoken"):
            found = getattr(import_utils, f"is_{name}_available")
            if hasattr(found, "cache_clear"):
                found.cache_clear()

    plain = importlib.util.find_spec

    def _lacking(*missing: str) -> None:
        def find_spec(name: str, package: str | None = None) -> object:
            return None if name in missing else plain("json" if name in known else name, package)

        known = ("sentencepiece", "google.protobuf", "tiktoken")
        monkeypatch.setattr(importlib.util, "find_spec", find_spec)
        # Nor can they be imported, by transformers either, nor what of them is loaded already.
        for name in {
            *missing,
            *(loaded for loaded in sys.modules if loaded.startswith(tuple(f"{m}." for m in missing))),
        }:
            monkeypatch.setitem(sys.modules, name, None)
        forget()

    yield _lacking
    monkeypatch.undo()
    forget()


RANKS = b"".join(base64.b64encode(bytes([i])) + f" {i}\n".encode() for i in range(256))


@pytest.mark.parametrize(
    ("missing", "named", "others"),
    [
        (("sentencepiece",), "pip install sentencepiece,", "tiktoken"),
        (("google.protobuf",), "pip install protobuf,", "tiktoken"),
        (("sentencepiece", "google.protobuf", "tiktoken"), "pip install sentencepiece protobuf,", "pip install tiktok"),
    ],
)
def test_a_sentencepiece_model_alone_names_the_packages_that_it_lacks(
    folder: Path, sentencepiece: bytes, lacking: Callable[..., None], missing: tuple[str, ...], named: str, others: str
) -> None:
    (folder / "tokenizer.model").write_bytes(sentencepiece)
    lacking(*missing)
    with pytest.raises(RequestError) as refused:
        load_tokenizer(folder)
    way_out = str(refused.value).rpartition(";")[2]
    assert named in way_out
    assert "tokenizer.model" in way_out
    assert "tokenizer.json" in way_out
    assert others not in way_out
    assert "download" not in way_out


def test_a_tiktoken_file_alone_names_its_own_package(folder: Path, lacking: Callable[..., None]) -> None:
    (folder / "tokenizer.model").write_bytes(RANKS)
    lacking("tiktoken")
    with pytest.raises(RequestError, match=r"pip install tiktoken, or .*tokenizer\.json"):
        load_tokenizer(folder)


def test_with_the_packages_a_broken_model_is_a_broken_download(folder: Path, lacking: Callable[..., None]) -> None:
    (folder / "tokenizer.model").write_bytes(b"\x00broken")
    lacking()
    with pytest.raises(RequestError, match="download the model again"):
        load_tokenizer(folder)


def test_no_package_is_asked_for_where_a_tokenizer_json_is_beside(folder: Path, lacking: Callable[..., None]) -> None:
    byte_tokenizer().save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(b"\x00broken")
    assert len(load_tokenizer(folder).encode("aé")) == 3
    lacking("sentencepiece")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(RequestError, match="download the model again"):
        load_tokenizer(folder)


def test_with_its_package_a_sentencepiece_model_alone_is_read(folder: Path, sentencepiece: bytes) -> None:
    (folder / "tokenizer.model").write_bytes(sentencepiece)
    assert load_tokenizer(folder).encode("é") == [3 + byte for byte in "é".encode()]


@given(text=st.text(max_size=20), vocabulary=st.integers(1, 300))
def test_a_held_tokenizer_gives_the_same_tokens_or_names_one_that_the_model_does_not_have(
    text: str, vocabulary: int
) -> None:
    ids = list(text.encode("utf-8", errors="replace"))
    held = Tokenizer(encode=lambda text: list(text.encode("utf-8", errors="replace")), bos=5).held(vocabulary, "tiny")
    assert held.bos == 5
    if all(token < vocabulary for token in ids):
        assert held.encode(text) == ids
    else:
        with pytest.raises(RequestError, match=f"model tiny: .* token {max(ids)}, .* vocab_size {vocabulary}"):
            held.encode(text)
