"""What every method must do; methods are found through conf/method, so a new one is tested by being there."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch.testing import assert_close

import nowag_exp.methods
from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.layout import groups
from nowag_exp.ledger import Ledger
from nowag_exp.methods import Method, Needs, SiteStatistics

METHODS = sorted(groups()["method"])


def make(name: str) -> Method:
    return build(compose([f"method={name}"])["method"], "method", Method)


@pytest.fixture
def site() -> tuple[dict[str, torch.Tensor], SiteStatistics]:
    generator = torch.Generator().manual_seed(0)
    weights = {"q": torch.randn(24, 32, generator=generator), "k": torch.randn(8, 32, generator=generator)}
    activations = torch.randn(50, 32, generator=generator, dtype=torch.float64)
    return weights, SiteStatistics(50, activations.square().sum(dim=0))


def test_every_method_file_has_a_config_and_is_found() -> None:
    assert {"dense", "magnitude", "wanda", "nowag_p"} <= set(METHODS)
    files = {path.stem for path in Path(nowag_exp.methods.__file__).parent.glob("*.py")}
    modules = {type(make(name)).__module__.rpartition(".")[2] for name in METHODS}
    assert files - modules == {"__init__", "base", "pruning"}, "a method without a YAML in conf/method"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_compresses_each_linear_of_a_site_and_leaves_its_input_alone(name, site) -> None:
    weights, statistics = site
    method = make(name)
    before = {linear: weight.clone() for linear, weight in weights.items()}
    result = method.compress(weights, None if method.needs is Needs.NOTHING else statistics, Ledger())
    assert list(result) == list(weights)
    for linear, compressed in result.items():
        assert compressed.shape == tuple(weights[linear].shape)
        assert compressed.decompress().shape == weights[linear].shape
        assert compressed.decompress().dtype == weights[linear].dtype
        assert 0 < compressed.n_nonzero <= weights[linear].numel()
        stored = save({key: tensor.contiguous() for key, tensor in compressed.tensors().items()})
        header = 8 + int.from_bytes(stored[:8], "little")
        assert compressed.bits == 8 * (len(stored) - header), "bits are those of the tensors in a file"
        assert_close(weights[linear], before[linear], rtol=0, atol=0)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_the_same_result_twice_and_one_linear_does_not_change_another(name, site) -> None:
    weights, statistics = site
    method = make(name)
    seen = None if method.needs is Needs.NOTHING else statistics
    together = method.compress(weights, seen, Ledger())
    alone = method.compress({"k": weights["k"]}, seen, Ledger())
    assert torch.equal(together["k"].decompress(), alone["k"].decompress())
    assert torch.equal(together["q"].decompress(), method.compress(weights, seen, Ledger())["q"].decompress())


@pytest.mark.parametrize("name", METHODS)
def test_the_identity_of_a_method_carries_its_version_and_settings(name) -> None:
    method = make(name)
    settings = set(compose([f"method={name}"])["method"]) - {"_target_"}
    if method.needs is Needs.NOTHING:
        settings -= {"propagate"}
    assert set(method.identity()) == {"class", "version"} | settings
    assert method.identity()["version"] >= 1
    assert method.identity()["class"] == type(method).__name__
