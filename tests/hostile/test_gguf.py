"""GGUF files that are cut, contradict themselves or ask for more than they hold: refused by name, within a bound."""

import shutil
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nowag_exp.errors import RequestError
from nowag_exp.models import gguf_file
from nowag_exp.models.gguf_file import read_gguf

WIDTH, MLP, HEADS = 32, 64, 2
QUERY = "blk.0.attn_q.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A Llama of one block, with a tokenizer of bytes."""
    path = tmp_path_factory.mktemp("gguf") / "sound.gguf"
    tokens = [chr(256 + i) for i in range(255)] + [chr(256) + chr(257), "<s>", "<|endoftext|>"]
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([f"{tokens[0]} {tokens[1]}"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    square, up, down = (WIDTH, WIDTH), (MLP, WIDTH), (WIDTH, MLP)
    linears = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square}
    linears |= {"ffn_gate": up, "ffn_up": up, "ffn_down": down}
    shapes = {f"blk.0.{name}.weight": shape for name, shape in linears.items()}
    shapes |= dict.fromkeys(("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"), (WIDTH,))
    shapes |= {"token_embd.weight": (len(tokens), WIDTH)}
    draw = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(name, draw.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


Problem = Callable[[bytes], str]


@pytest.fixture
def problem_of(tmp_path: Path, bounded: Callable[[], AbstractContextManager[None]]) -> Problem:
    """Converts a file of this content; gives the message if it is refused, and an empty one if it is taken."""

    def problem_of(content: bytes) -> str:
        folder = tmp_path / "one" / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "packaged.gguf").write_bytes(content)
        problem = ""
        try:
            with bounded():
                read_gguf(folder / "packaged.gguf", "it.gguf in some-data==1.2")
        except RequestError as error:
            problem = str(error)
            assert problem.startswith("it.gguf in some-data==1.2: is no GGUF file that can be converted (")
            assert "\n" not in problem
            assert len(problem) < 2000
        assert [path.name for path in tmp_path.rglob("*")] == ["one", "folder", "packaged.gguf"], "nothing is written"
        return problem

    return problem_of


def test_a_sound_file_is_converted_to_the_weights_that_it_holds(sound: bytes, tmp_path: Path) -> None:
    (tmp_path / "packaged.gguf").write_bytes(sound)
    model, tokenizer = read_gguf(tmp_path / "packaged.gguf", "it")
    held = np.random.default_rng(0)
    for _ in range(2):  # The first two are those of queries and keys; keys are stored as the others.
        held.normal(size=(WIDTH, WIDTH))
    values = held.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    assert torch.equal(model.model.layers[0].self_attn.v_proj.weight, torch.from_numpy(values))
    assert len(tokenizer) == 258


COUNTS = {"tensors": 8, "values": 16}
FIRST_KEY = 24
SIZES, KIND, OFFSET = 4, 20, 24
"""Where they stand behind the name of a matrix."""


def at(sound: bytes, offset: int, number: int, form: str = "<Q") -> bytes:
    """The file with a number written over what stands there."""
    return sound[:offset] + struct.pack(form, number) + sound[offset + struct.calcsize(form) :]


def behind(sound: bytes, name: str) -> int:
    """Where what follows a name begins."""
    return sound.index(name.encode()) + len(name)


def shaped(sound: bytes, *sizes: int) -> bytes:
    """With another shape of the queries."""
    for i, size in enumerate(sizes):
        sound = at(sound, behind(sound, QUERY) + SIZES + 8 * i, size)
    return sound


def with_value(sound: bytes, key: str, kind: int, value: bytes) -> bytes:
    """With one more value before all others."""
    (n_values,) = struct.unpack("<Q", sound[16:24])
    entry = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value
    return at(sound, 16, n_values + 1)[:FIRST_KEY] + entry + sound[FIRST_KEY:]


ENDS = "ValueError: it ends before what it describes at byte "
ARRAY, BYTE, NUMBER = 9, 0, 4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda sound: b"", "(ValueError: cannot mmap an empty file"),
        (lambda sound: b"GGUF", ENDS),
        (lambda sound: b"PK\x03\x04" + sound[4:], "(ValueError: GGUF magic invalid"),
        (lambda sound: at(sound, 4, 99, "<I"), "appears to be version 99 which we cannot handle"),
        (lambda sound: sound[:100], ENDS),
        (lambda sound: sound[: len(sound) // 2], ENDS),
        (lambda sound: at(sound, COUNTS["tensors"], 2**63), ""),
        (lambda sound: at(sound, COUNTS["values"], 2**63), ""),
        (lambda sound: at(sound, COUNTS["values"], 10**6), ""),
        (lambda sound: at(sound, COUNTS["tensors"], 0), "it describes a model of 18592 weights, and holds 0"),
        (lambda sound: at(sound, FIRST_KEY, 2**63), ENDS),
        (lambda sound: at(sound, FIRST_KEY, 2**64 - 1), ENDS),
        (lambda sound: with_value(sound, "x", ARRAY, struct.pack("<IQ", BYTE, 2**63)), ENDS),
        (lambda sound: with_value(sound, "x", ARRAY, struct.pack("<IQ", ARRAY, 1) * 5000), "RecursionError"),
        (lambda sound: with_value(sound, "llama.block_count", NUMBER, struct.pack("<I", 1)), "Duplicate llama.block_c"),
        (
            lambda sound: sound.replace(b"llama.context_length", b"llama.residual_scale"),
            "does not read its llama.residual_scale=64",
        ),
        (lambda sound: sound.replace(b"llama", b"qwen3"), "it would be built as Qwen3ForCausalLM"),
        (lambda sound: sound.replace(b"blk.0.attn_q", b"blk.0.attn_k"), "duplicated tensor with name blk.0.attn_k.wei"),
        (lambda sound: sound.replace(QUERY.encode(), b"../../../../../evil"), "it has no weights for model.layers.0."),
        (
            lambda sound: sound.replace(b"smollm", b"gpt-99"),
            "its pre-tokenizer is 'gpt-99'; smollm alone is known here",
        ),
        (lambda sound: shaped(sound, 2**62, 2**62), ""),
        (lambda sound: shaped(sound, 2**32, 2**32), ""),
        (lambda sound: shaped(sound, 10**12), ENDS),
        (lambda sound: shaped(sound, WIDTH, WIDTH // 2), "it describes a model of 18592 weights, and holds 18080"),
        (lambda sound: at(sound, behind(sound, QUERY), 2**31, "<I"), ENDS),
        (lambda sound: at(sound, behind(sound, QUERY) + KIND, 999, "<I"), "(999) is not a valid GGMLQuantizationType"),
        (lambda sound: at(sound, behind(sound, QUERY) + OFFSET, 2**62), ENDS),
        (lambda sound: at(sound, behind(sound, QUERY) + OFFSET, 2**64 - 32), ""),
        (
            lambda sound: at(sound, behind(sound, "llama.block_count") + 4, 2**31, "<I"),
            "must be between 1 and 2000, not",
        ),
        (lambda sound: at(sound, behind(sound, "llama.block_count") + 4, 2, "<I"), "weights, and holds 18592"),
        (lambda sound: at(sound, behind(sound, "llama.embedding_length") + 4, 2**31, "<I"), "calculation overflowed"),
        (lambda sound: at(sound, behind(sound, "llama.vocab_size") + 4, 2**31, "<I"), "weights, and holds 18592"),
        (lambda sound: at(sound, behind(sound, "attention.head_count") + 4, 0, "<I"), "ZeroDivisionError"),
    ],
)
def test_a_file_that_is_cut_or_contradicts_itself_is_refused(
    sound: bytes, problem_of: Problem, change: Callable[[bytes], bytes], problem: str
) -> None:
    assert change(sound) != sound
    said = problem_of(change(sound))
    assert said, "it was taken"
    assert problem in said


def test_more_texts_than_are_allowed_are_refused_while_they_are_read(
    sound: bytes, problem_of: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_file, "MOST_PIECES", 10_000)
    many = with_value(sound, "x", ARRAY, struct.pack("<IQ", BYTE, 10_000) + bytes(10_000))
    assert "ValueError: its header holds more than 10,000 numbers and texts" in problem_of(many)


def test_tensors_that_multiply_what_a_file_holds_are_refused(sound: bytes, problem_of: Problem) -> None:
    # The embedding stands last; without its own bytes it has those of the linears.
    shared = at(sound, behind(sound, "token_embd.weight") + OFFSET, 0)[: -4 * 258 * WIDTH]
    assert "ValueError: its tensors share bytes" in problem_of(shared)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_flipped_bytes_are_refused_by_name_or_harmless(sound: bytes, problem_of: Problem, data: st.DataObject) -> None:
    spoiled = bytearray(sound)
    header = sound.index(b"token_embd") + 100
    for _ in range(data.draw(st.integers(1, 4))):
        spoiled[data.draw(st.integers(0, header))] = data.draw(st.integers(0, 255))
    problem_of(bytes(spoiled))  # Either is right: another letter of a name or token makes as good a file.
