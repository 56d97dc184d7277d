"""Files that are cut, changed, contradictory or made to harm: a message that names them, and nothing else happens."""

import json
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from nowag_exp.cli import main
from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.errors import NowagError
from nowag_exp.models import ModelSource
from nowag_exp.records.record import load_record, save_record
from nowag_exp.text import load_tokenizer

GENEROUS = 3_000_000_000
"""Bytes of addresses that a refusal may take beside what the process has; the models here take 1 MB."""


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


@contextmanager
def little_memory() -> Iterator[None]:
    """The operating system refuses more than a stated bound."""
    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + GENEROUS, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def look_at(folder: Path) -> None:
    """Check a model and load it, whole and as a stream, as a run does."""
    source = build(compose(["model=local", f"model.path={folder}"])["model"], "model", ModelSource)  # type: ignore[type-abstract]
    with little_memory():
        source.check()
        source.load(torch.device("cpu"))
        source.load(torch.device("cpu"), streamed=True).block(0)
        load_tokenizer(folder)


def problem_of(folder: Path) -> str:
    """The message, if it is refused; empty if it is taken."""
    try:
        look_at(folder)
    except NowagError as error:
        said = str(error)
        assert said
        assert "\n" not in said
        assert len(said) < 2000
        return said
    return ""


def refused(folder: Path) -> str:
    problem = problem_of(folder)
    assert problem, "it was taken"
    return problem


def changed(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", 2.5),
        ("num_hidden_layers", "2"),
        ("hidden_size", 10**12),
        ("hidden_size", 0),
        ("intermediate_size", 10**15),
        ("vocab_size", 10**12),
        ("vocab_size", -5),
        ("num_attention_heads", 0),
        ("num_key_value_heads", 10**9),
        ("head_dim", 10**12),
        ("max_position_embeddings", "many"),
        ("rope_parameters", {"rope_type": "\x00"}),
        ("rms_norm_eps", "small"),
        ("hidden_act", "os.system"),
        ("model_type", "../../../etc"),
        ("architectures", ["os.system"]),
        ("auto_map", {"AutoModelForCausalLM": "evil.Evil"}),
        ("dtype", "float7"),
        ("tie_word_embeddings", "perhaps"),
        ("quantization_config", {"quant_method": "nowag_exp", "weights": {"../../x": {"format": "sparse"}}}),
        ("quantization_config", []),
        ("transformers_version", None),
    ],
)
def test_a_config_of_absurd_values(own: Path, key: str, value: object) -> None:
    changed(own / "config.json", lambda content: content.update({key: value}))
    (own / "evil.py").write_text("open('ran', 'w')")
    problem = problem_of(own)
    assert not problem or str(own) in problem or "model own: " in problem
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\ufeff{}", "[" * 100_000, '{"a":' * 100_000, "{" + '"a":1,' * 10 + '"a":1}']
)
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_json_that_is_none_or_nested_without_end(own: Path, name: str, text: str) -> None:
    (own / name).write_text(text, encoding="utf-8")
    problem = problem_of(own)
    assert not problem or name in problem or str(own) in problem


@pytest.mark.parametrize(
    "shards",
    [
        {"model.norm.weight": "../secret.safetensors"},
        {"model.norm.weight": "/etc/passwd"},
        {"model.norm.weight": "model.safetensors/../../secret.safetensors"},
        {"model.norm.weight": ""},
        {"model.norm.weight": "\0"},
        {"model.norm.weight": 3},
        {"model.norm.weight": None},
        {},
        [],
    ],
)
def test_an_index_that_leads_outside_or_nowhere(own: Path, shards: object) -> None:
    save_file({"model.norm.weight": torch.ones(64)}, own.parent / "secret.safetensors")
    (own / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert str(own) in refused(own)


def header(path: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    """Write a shard's header anew, its data as they are."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    described = json.loads(content[8 : 8 + length])
    change(described)
    text = json.dumps(described).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found[NORM].update(shape=[10**18]),
        lambda found: found[NORM].update(shape=[2**62, 4]),
        lambda found: found[NORM].update(shape=[-64]),
        lambda found: found[NORM].update(shape=[]),
        lambda found: found[NORM].update(dtype="OBJECT"),
        lambda found: found[NORM].update(data_offsets=[0, 10**18]),
        lambda found: found[NORM].update(data_offsets=[10, 0]),
        lambda found: found[NORM].update(data_offsets=[-1, 255]),
        lambda found: found.pop(NORM),
        lambda found: found.update({"model.norm.weigth": found.pop(NORM)}),
        lambda found: found.update({"../../x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
        lambda found: found.update({"__metadata__": {"format": "../../evil"}}),
    ],
)
def test_a_header_that_contradicts_its_data(
    own: Path, change: Callable[[dict[str, dict[str, object]]], object]
) -> None:
    before = sorted(path.name for path in own.parent.rglob("*"))
    header(own / "model.safetensors", change)
    problem = problem_of(own)
    assert not problem or str(own) in problem
    assert sorted(path.name for path in own.parent.rglob("*")) == before, "nothing is written anywhere"


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 2000, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_that_is_cut(own: Path, name: str, length: int) -> None:
    content = (own / name).read_bytes().rstrip()
    if length >= len(content):
        return  # Not cut at all.
    (own / name).write_bytes(content[:length])
    problem = refused(own)
    assert name in problem or str(own) in problem


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9, 0])
def test_a_header_of_absurd_length(own: Path, length: int) -> None:
    content = (own / "model.safetensors").read_bytes()
    (own / "model.safetensors").write_bytes(struct.pack("<Q", length) + content[8:])
    assert "model.safetensors" in refused(own)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12, deadline=None)
@given(data=st.data())
def test_random_bytes_in_any_file_are_refused_by_name_or_harmless(own: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(file for file in own.iterdir() if file.is_file())))
    content = path.read_bytes()
    start = data.draw(st.integers(0, min(len(content) - 1, 4000)))  # Where headers are.
    path.write_bytes(content[:start] + data.draw(st.binary(min_size=1, max_size=12)) + content[start + 4 :])
    try:
        problem = problem_of(own)
    finally:
        path.write_bytes(content)
    assert not problem or str(own) in problem


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


def test_a_gzip_bomb_is_refused_before_it_fills_memory(
    workplace: Path, tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    import gzip

    with gzip.open(workplace / "bomb.json.gz", "wb", compresslevel=9) as file:
        line = b'{"text": "' + b"a" * 1_000_000 + b'"}\n'
        for _ in range(4000):
            file.write(line)
    assert (workplace / "bomb.json.gz").stat().st_size < 5_000_000
    with little_memory():
        code = main(
            ["run", *tiny_run, "method=dense", "calibration.path=bomb.json.gz", "evaluation.files.path=bomb.json.gz"]
        )
    assert code == 2
    assert "bomb.json.gz" in capsys.readouterr().err
