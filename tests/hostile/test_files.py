"""Files that are cut, changed, contradictory or made to harm: a message that names them, and nothing else happens."""

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.errors import NowagError
from nowag_exp.models import ModelSource
from nowag_exp.records.record import load_record, save_record
from nowag_exp.text import load_tokenizer

Problem = Callable[[Path], str]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny model's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOWAG_EXP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield build(compose(["model=tiny"])["model"], "model", ModelSource).folder()  # type: ignore[type-abstract]


@pytest.fixture
def own(tiny: Path, tmp_path: Path) -> Path:
    """A copy of it to be spoiled."""
    shutil.copytree(tiny, tmp_path / "own")
    (tmp_path / "own" / "source.json").unlink()
    return tmp_path / "own"


@pytest.fixture
def problem_of(bounded: Callable[[], AbstractContextManager[None]]) -> Problem:
    """Checks a model and loads it, whole and as a stream, as a run does.

    Gives the message if it is refused, and an empty one if it is taken.
    """

    def problem_of(folder: Path) -> str:
        source = build(compose(["model=local", f"model.path={folder}"])["model"], "model", ModelSource)  # type: ignore[type-abstract]
        try:
            with bounded():
                source.check()
                source.load(torch.device("cpu"))
                source.load(torch.device("cpu"), streamed=True).block(0)
                load_tokenizer(folder)
        except NowagError as error:
            said = str(error)
            assert said
            assert "\n" not in said
            assert len(said) < 2000
            return said
        return ""

    return problem_of


@pytest.fixture
def refused(problem_of: Problem) -> Problem:
    """As ``problem_of``, of what must not be taken."""

    def refused(folder: Path) -> str:
        problem = problem_of(folder)
        assert problem, "it was taken"
        return problem

    return refused


def changed(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


NO_MODEL = "own: config.json does not describe a model "


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("num_hidden_layers", 10**9, NO_MODEL + "(ValueError: num_hidden_layers must be between 1 and 2000"),
        ("num_hidden_layers", -1, NO_MODEL + "(ValueError: num_hidden_layers must be between 1 and 2000, not -1"),
        ("num_hidden_layers", 2.5, "'num_hidden_layers': TypeError: Field 'num_hidden_layers' expected int, got float"),
        ("num_hidden_layers", "2", "'num_hidden_layers': TypeError: Field 'num_hidden_layers' expected int, got str"),
        ("hidden_size", 10**12, "own: model.embed_tokens.weight has shape (258, 64), config.json asks for (258, 1"),
        ("hidden_size", 0, NO_MODEL),
        ("intermediate_size", 10**15, "own: model.layers.0.mlp.gate_proj.weight has shape (192, 64), config.json asks"),
        ("vocab_size", 10**12, "own: model.embed_tokens.weight has shape (258, 64), config.json asks for (1000000000"),
        ("vocab_size", -5, NO_MODEL + "(RuntimeError: Trying to create tensor with negative dimension -5"),
        ("num_attention_heads", 0, NO_MODEL + "(ZeroDivisionError: "),
        ("num_key_value_heads", 10**9, "own: model.layers.0.self_attn.k_proj.weight has shape (32, 64), config.json"),
        ("head_dim", 10**12, "own: model.layers.0.self_attn.q_proj.weight has shape (64, 64), config.json asks for"),
        ("max_position_embeddings", "many", "Field 'max_position_embeddings' expected int, got str (value: 'many')"),
        ("rope_parameters", {"rope_type": "yarrn"}, NO_MODEL + "(KeyError: 'yarrn')"),
        ("rms_norm_eps", "small", "Field 'rms_norm_eps' expected float, got str (value: 'small')"),
        ("hidden_act", "os.system", NO_MODEL + "(KeyError: 'os.system')"),
        ("model_type", "../../../etc", "own/config.json: model_type='../../../etc' builds no model"),
        ("model_type", "llama\n" * 1000, "own/config.json: model_type='llama"),
        (
            "architectures",
            ["os.system"],
            "own/config.json: architectures=['os.system'] is not supported; give one of: Llama",
        ),
        ("dtype", "float7", "has no attribute 'float7'"),
        ("tie_word_embeddings", "perhaps", "Field 'tie_word_embeddings' expected bool, got str (value: 'perhaps')"),
        (
            "quantization_config",
            {"quant_method": "nowag_exp", "weights": {"../../x": {"format": "sparse"}}},
            "model own: is quantized already; give its original checkpoint",
        ),
        ("quantization_config", [], "model own: is quantized already; give its original checkpoint"),
    ],
)
def test_a_config_of_absurd_values_is_refused_with_what_is_wrong(
    own: Path, refused: Problem, key: str, value: object, problem: str
) -> None:
    changed(own / "config.json", lambda content: content.update({key: value}))
    assert problem in refused(own)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("auto_map", {"AutoModelForCausalLM": "evil.Evil"}, id="code that is never looked for"),
        pytest.param("transformers_version", None, id="a note that nothing depends on"),
    ],
)
def test_what_a_config_says_beside_the_model_is_passed_over(
    own: Path, problem_of: Problem, key: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changed(own / "config.json", lambda content: content.update({key: value}))
    (own / "evil.py").write_text("open('ran', 'w')")
    assert not problem_of(own)
    assert not (tmp_path / "ran").exists()


JSON_FILES = ["config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "cannot be read as JSON (Expecting value"),
        ("{", "cannot be read as JSON (Expecting property name"),
        ("[]", "must hold one JSON object"),
        ("null", "must hold one JSON object"),
        ("\ufeff{}", "cannot be read as JSON (Unexpected UTF-8 BOM"),
        ("[" * 100_000, "cannot be read as JSON (it is nested too deeply)"),
        ('{"a":' * 100_000, "cannot be read as JSON (it is nested too deeply)"),
        ('{"a":1,"b":{"c":2,"c":2}}', "cannot be read as JSON (the key 'c' occurs twice in one object)"),
    ],
    ids=["empty", "cut", "list", "null", "mark", "deep lists", "deep objects", "repeated key"],
)
@pytest.mark.parametrize("name", JSON_FILES)
def test_json_that_is_no_object_or_ambiguous_is_refused(
    own: Path, refused: Problem, name: str, text: str, problem: str
) -> None:
    (own / name).write_text(text, encoding="utf-8")
    assert f"{name}: {problem}" in refused(own)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(data=st.data())
def test_a_json_file_that_is_cut_anywhere_or_is_no_utf8_is_refused(
    own: Path, refused: Problem, data: st.DataObject
) -> None:
    path = own / data.draw(st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json"]))
    content = path.read_bytes()
    end = data.draw(st.integers(0, len(content.rstrip()) - 1))
    path.write_bytes(content[:end] + data.draw(st.sampled_from([b"", b"\xff" + content[end:]])))
    try:
        assert f"{path.name}: cannot be read as JSON (" in refused(own)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("shards", "problem"),
    [
        ({"model.norm.weight": "../secret.safetensors"}, "the index names '../secret.safetensors', which is no shard"),
        ({"model.norm.weight": "/etc/passwd"}, "the index names '/etc/passwd', which is no shard in this folder"),
        ({"model.norm.weight": "a/../../secret.safetensors"}, "the index names 'a/../../secret.safetensors', which"),
        ({"model.norm.weight": ""}, "the index names '', which is no shard in this folder"),
        ({"model.norm.weight": "\0"}, r"the index names '\x00', which is no shard in this folder"),
        ({"model.norm.weight": 3}, "model.safetensors.index.json: has no weight_map from tensors to shards"),
        ({"model.norm.weight": None}, "model.safetensors.index.json: has no weight_map from tensors to shards"),
        ({}, "model.safetensors.index.json: has no weight_map from tensors to shards"),
        ([], "model.safetensors.index.json: has no weight_map from tensors to shards"),
    ],
)
def test_an_index_that_leads_outside_or_nowhere_is_refused(
    own: Path, refused: Problem, shards: object, problem: str
) -> None:
    save_file({"model.norm.weight": torch.ones(64)}, own.parent / "secret.safetensors")
    (own / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    said = refused(own)
    assert str(own) in said
    assert problem in said


def test_an_index_that_places_a_tensor_elsewhere_is_refused(own: Path, refused: Problem) -> None:
    tensors = load_file(own / "model.safetensors")
    (own / "model.safetensors").unlink()
    save_file({NORM: tensors.pop(NORM)}, own / "a.safetensors")
    save_file(tensors, own / "b.safetensors")
    places = {**dict.fromkeys(tensors, "b.safetensors"), NORM: "b.safetensors", "x": "a.safetensors"}
    (own / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert "a.safetensors: holds model.norm.weight, which is in b.safetensors as well, or should be" in refused(own)


def test_a_tensor_in_two_shards_is_refused(own: Path, refused: Problem) -> None:
    tensors = load_file(own / "model.safetensors")
    (own / "model.safetensors").unlink()
    save_file(tensors, own / "a.safetensors")
    save_file({NORM: torch.zeros(64)}, own / "b.safetensors")
    places = {**dict.fromkeys(tensors, "a.safetensors"), NORM: "b.safetensors"}
    (own / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert "a.safetensors: holds model.norm.weight, which is in b.safetensors as well" in refused(own)


def header(path: Path, change: Callable[[str], str]) -> None:
    """Write a shard's header anew, its data as they are."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    text = change(content[8 : 8 + length].decode()).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def described(change: Callable[[dict[str, dict[str, Any]]], object]) -> Callable[[str], str]:
    """A change of what a header says, as one of its text."""

    def of_text(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return of_text


NORM = "model.norm.weight"
NOT_WHOLE = "model.safetensors: is not a whole safetensors file (Error while deserializing header: "


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda found: found[NORM].update(shape=[10**18]), NOT_WHOLE + "overflow computing buffer size"),
        (lambda found: found[NORM].update(shape=[2**62, 4]), NOT_WHOLE + "overflow computing buffer size"),
        (lambda found: found[NORM].update(shape=[-64]), NOT_WHOLE + "invalid JSON in header: invalid value: integer"),
        (lambda found: found[NORM].update(shape=[]), NOT_WHOLE + "invalid shape"),
        (lambda found: found[NORM].update(dtype="OBJECT"), "unknown variant `OBJECT`"),
        (lambda found: found[NORM].update(data_offsets=[0, 10**18]), NOT_WHOLE + "invalid offset for tensor `model."),
        (lambda found: found[NORM].update(data_offsets=[10, 0]), NOT_WHOLE + "invalid offset for tensor `model.norm"),
        (lambda found: found[NORM].update(data_offsets=[-1, 255]), NOT_WHOLE + "invalid JSON in header: invalid value"),
        (lambda found: found.pop(NORM), NOT_WHOLE + "incomplete metadata, file not fully covered"),
        (lambda found: found.update({"model.norm.weigth": found.pop(NORM)}), "own: model.norm.weight is missing"),
        (
            lambda found: found.update({"../../x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
            "own: holds '../../x', for which the model that config.json describes has no place",
        ),
    ],
)
def test_a_header_that_contradicts_its_data_is_refused(
    own: Path, refused: Problem, change: Callable[[dict[str, dict[str, Any]]], object], problem: str
) -> None:
    before = sorted(path.name for path in own.parent.rglob("*"))
    header(own / "model.safetensors", described(change))
    assert problem in refused(own)
    assert sorted(path.name for path in own.parent.rglob("*")) == before, "nothing is written anywhere"


def test_a_header_that_describes_a_tensor_twice_is_refused(own: Path, refused: Problem) -> None:
    other = {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 256]}  # The library takes the last, which fits.
    header(own / "model.safetensors", lambda text: text.replace("{", f'{{"{NORM}": {json.dumps(other)}, ', 1))
    assert "model.safetensors: has a header that contradicts itself (the key 'model.norm.weight'" in refused(own)


def test_notes_in_a_header_are_passed_over(own: Path, problem_of: Problem) -> None:
    header(own / "model.safetensors", described(lambda found: found.update({"__metadata__": {"format": "../../evil"}})))
    assert not problem_of(own)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 2000, -1])
def test_weights_that_are_cut_are_refused(own: Path, refused: Problem, length: int) -> None:
    content = (own / "model.safetensors").read_bytes()
    (own / "model.safetensors").write_bytes(content[:length])
    assert NOT_WHOLE in refused(own)


@pytest.mark.parametrize(
    ("length", "problem"),
    [
        (2**63, "header too large"),
        (2**64 - 1, "header too large"),
        (10**9, "header too large"),
        (0, "invalid JSON in header: EOF"),
    ],
)
def test_a_header_of_absurd_length_is_refused(own: Path, refused: Problem, length: int, problem: str) -> None:
    content = (own / "model.safetensors").read_bytes()
    (own / "model.safetensors").write_bytes(struct.pack("<Q", length) + content[8:])
    assert NOT_WHOLE + problem in refused(own)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(data=st.data())
def test_random_bytes_in_any_file_are_refused_by_name_or_harmless(
    own: Path, problem_of: Problem, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(sorted(file for file in own.iterdir() if file.is_file())))
    content = path.read_bytes()
    start = data.draw(st.integers(0, min(len(content) - 1, 4000)))  # Where headers are.
    path.write_bytes(content[:start] + data.draw(st.binary(min_size=1, max_size=12)) + content[start + 4 :])
    try:
        problem = problem_of(own)
    finally:
        path.write_bytes(content)
    # Either is right: another digit or letter makes another weight, token or note, and as good a file.
    assert not problem or str(own) in problem or "model own: " in problem


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(data=st.data())
def test_a_record_of_random_bytes_is_named(
    make_record: Callable[..., object], tmp_path: Path, data: st.DataObject
) -> None:
    path = save_record(tmp_path, make_record("a1", "wanda", [3.0]))  # type: ignore[arg-type]
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(start, len(content)))
    spoiled = content[:start] + data.draw(st.binary(max_size=20)) + content[end:]
    path.write_bytes(spoiled)
    if spoiled == content:
        return
    with pytest.raises(NowagError, match=r"a1\.json: "):
        load_record(path)


def test_a_record_nested_without_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "a1.json").write_text("[" * 1_000_000)
    with pytest.raises(NowagError, match=r"a1\.json: is damaged"):
        load_record(tmp_path / "a1.json")
