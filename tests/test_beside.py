"""Tokenizer, chat templates and generation settings go wherever the weights go, and are recorded with them."""

import importlib.util
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects
from transformers import (
    AutoTokenizer,
    CodeLlamaTokenizer,
    GenerationConfig,
    GPT2Tokenizer,
    LlamaTokenizer,
    tokenization_utils_base,
    tokenization_utils_tokenizers,
    utils,
)
from transformers.utils import hub

from nowag_exp.compose import compose
from nowag_exp.config import build, build_experiment
from nowag_exp.errors import RequestError
from nowag_exp.experiment import Workbench, recorded, run
from nowag_exp.formats.beside import changes_numbers, files_beside_weights
from nowag_exp.formats.export import export
from nowag_exp.models import Checkpoint, ModelSource, damage
from nowag_exp.models.checkpoint import ALL_PATTERNS
from nowag_exp.progress import Reporter

TEMPLATES = {
    "default": "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}",
    "tool_use": "{% for m in messages %}[{{ m.content }}]{% endfor %}",
}
MESSAGES = [{"role": "user", "content": "Where are you from?"}]
GENERATION = {"do_sample": True, "temperature": 0.25, "top_k": 7}


@pytest.fixture
def folder(workplace: Path) -> Path:
    """The tiny model as one to talk to: with two chat templates, and settings to generate with."""
    tiny = build(compose(["model=tiny"])["model"], "model", ModelSource)
    folder = Path(shutil.copytree(tiny.folder(), workplace / "chat"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATES
    tokenizer.save_pretrained(folder)
    GenerationConfig(**GENERATION).save_pretrained(folder)
    assert Path(folder, hub.CHAT_TEMPLATE_DIR, "tool_use.jinja").is_file(), "as transformers itself saves them"
    return folder


def talk(folder: Path) -> tuple[Any, ...]:
    """What a user gets out of a folder beside its weights."""
    tokenizer, generation = AutoTokenizer.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
    said = [
        tokenizer.apply_chat_template(MESSAGES, chat_template=name, tokenize=False) for name in ("default", "tool_use")
    ]
    return (*said, *(getattr(generation, key) for key in GENERATION))


SAID = ("<s><user>Where are you from?", "[Where are you from?]", True, 0.25, 7)

NAMES = {
    tokenization_utils_base.FULL_TOKENIZER_FILE,
    tokenization_utils_base.TOKENIZER_CONFIG_FILE,
    tokenization_utils_base.SPECIAL_TOKENS_MAP_FILE,
    tokenization_utils_base.ADDED_TOKENS_FILE,
    tokenization_utils_tokenizers.TIKTOKEN_LEGACY_NAME,
    *(name for kind in (LlamaTokenizer, CodeLlamaTokenizer, GPT2Tokenizer) for name in kind.vocab_files_names.values()),
    hub.CHAT_TEMPLATE_FILE,
    hub.LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE,
    f"{hub.CHAT_TEMPLATE_DIR}/tool_use.jinja",
    "chat_templates/tool_use.jinja",
    utils.GENERATION_CONFIG_NAME,
    utils.PROCESSOR_NAME,
    utils.FEATURE_EXTRACTOR_NAME,
    utils.VIDEO_PROCESSOR_NAME,
    utils.AUDIO_TOKENIZER_NAME,
}


def test_every_file_that_transformers_reads_beside_weights_is_listed(tmp_path: Path) -> None:
    for name in (*NAMES, "README.md", "original/params.json", "model.safetensors", "config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert {path.relative_to(tmp_path).as_posix() for path in files_beside_weights(tmp_path)} == NAMES


def test_every_file_that_transformers_reads_is_downloaded_from_a_hub() -> None:
    there = [*NAMES, "config.json", "model.safetensors", "README.md", "pytorch_model.bin", "modeling.py"]
    fetched = set(filter_repo_objects(there, allow_patterns=list(ALL_PATTERNS)))
    assert fetched == {*NAMES, "config.json", "model.safetensors"}
    assert all(any(fnmatch(name, pattern) for pattern in ALL_PATTERNS) for name in NAMES)


def test_a_model_talks_alike_after_it_was_saved_and_exported(folder: Path, tiny_run: list[str]) -> None:
    at = [
        *tiny_run,
        "model=local",
        f"model.path={folder}",
        "method=rtn",
        "method.symmetric=true",
        "method.group_size=32",
    ]
    overrides = [*at, "model.context_length=64", "evaluation.files.n_windows=1", "checkpoint.save=true"]
    experiment = build_experiment(compose(overrides))
    record = run(experiment, Workbench(), Reporter())
    saved = experiment.checkpoint_folder
    assert talk(folder) == talk(saved) == SAID
    targets = ["dense", *(["compressed-tensors"] if importlib.util.find_spec("compressed_tensors") else [])]
    for to in targets:
        assert talk(export(saved, to).folder) == SAID

    template = f"{hub.CHAT_TEMPLATE_DIR}/tool_use.jinja"
    assert {template, hub.CHAT_TEMPLATE_FILE, "generation_config.json"} <= record.inputs.model_files.keys()
    assert template in json.loads((saved / "manifest.json").read_text())["files"]
    assert recorded(experiment) == record
    for name in (template, "generation_config.json"):
        content = (folder / name).read_text()
        (folder / name).write_text(content.replace("0.25", "0.5") + " ")
        assert recorded(experiment) is None, "what is asked for is not what was saved"
        (folder / name).write_text(content)
    (saved / template).write_text("other")
    assert str(saved / template) in str(damage(saved))


def test_templates_and_settings_change_no_number_so_no_identity_but_are_held_while_they_are_used(folder: Path) -> None:
    checkpoint = Checkpoint(folder)
    identity, hashes = checkpoint.identity(), checkpoint.hashes()
    others = {name for name in hashes if not changes_numbers(name)}
    template = f"{hub.CHAT_TEMPLATE_DIR}/tool_use.jinja"
    assert others == {template, hub.CHAT_TEMPLATE_FILE, "generation_config.json"} == hashes.keys() - identity.keys()
    checkpoint.require_unchanged()
    for name in sorted(others):
        content = (folder / name).read_text()
        for change in (lambda path: path.write_text("{ }"), Path.unlink):
            change(folder / name)
            assert Checkpoint(folder).identity() == identity
            with pytest.raises(RequestError, match=f"{name}: changed while the model was in use"):
                checkpoint.require_unchanged()
        (folder / name).write_text(content)
    checkpoint.require_unchanged()
