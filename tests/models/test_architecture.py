"""Sizes of the models that come with the package, against their papers and against a checkpoint."""

from pathlib import Path

import pytest

from nowag_exp.compose import compose
from nowag_exp.config import build, build_experiment
from nowag_exp.errors import ConfigError
from nowag_exp.models import Architecture, CausalLM, ModelSource

PARAMETERS = {
    "llama2_7b": 6.738e9,
    "llama2_13b": 13.016e9,
    "llama2_70b": 68.977e9,
    "llama3_8b": 8.030e9,
    "llama3_70b": 70.554e9,
    "llama32_1b": 1.236e9,
}
"""As their model cards count them."""


def source(*overrides: str) -> ModelSource:
    return build(compose(list(overrides))["model"], "model", ModelSource)


@pytest.mark.parametrize(("name", "n_parameters"), PARAMETERS.items())
def test_the_sizes_in_a_yaml_give_the_known_number_of_parameters(name: str, n_parameters: float) -> None:
    assert source(f"model={name}").sizes().n_parameters == pytest.approx(n_parameters, rel=1e-3)


def test_sizes_read_from_a_checkpoint_are_those_of_its_tensors(model: CausalLM) -> None:
    sizes = source("model=tiny").sizes()
    assert sizes.n_parameters == sum(parameter.numel() for parameter in model.module.parameters())
    for path, shape in sizes.linears().items():
        assert tuple(model.block(1).get_submodule(path).weight.shape) == shape
    assert sizes.block_weights * sizes.n_blocks == sizes.n_parameters - sum(
        parameter.numel() for _, parameter in model.other_parameters()
    )


def test_a_tied_head_is_counted_once() -> None:
    untied = Architecture.of(CONFIG)
    tied = Architecture.of({**CONFIG, "tie_word_embeddings": True})
    assert untied.n_parameters - tied.n_parameters == 10 * 8


CONFIG = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 10,
}


def test_what_a_configuration_leaves_out_is_what_transformers_takes() -> None:
    assert Architecture.of(CONFIG) == Architecture(
        hidden_size=8,
        intermediate_size=16,
        n_blocks=3,
        n_heads=4,
        n_kv_heads=4,
        head_dim=2,
        vocabulary=10,
        tied=False,
    )


def test_the_sizes_are_no_part_of_the_fingerprint(workplace: Path, tiny_run: list[str]) -> None:
    def fingerprint(*overrides: str) -> str:
        return build_experiment(compose([*tiny_run, "model=llama2_7b", *overrides])).fingerprint

    assert fingerprint() == fingerprint("model.architecture.n_blocks=31")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.architecture.n_blocks=0", r"model\.architecture\.n_blocks: must be at least 1; got 0"),
        ("model.architecture.n_kv_heads=5", r"model\.architecture\.n_kv_heads: must divide the 32 heads; got 5"),
        ("model.architecture.n_heads=8.5", r"model\.architecture\.n_heads: "),
        ("~model.architecture.n_heads", r"model\.architecture\.n_heads: is not set"),
    ],
)
def test_sizes_that_cannot_be_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source("model=llama2_7b", override)
