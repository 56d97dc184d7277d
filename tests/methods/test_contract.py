"""What every method must do; methods are found through conf/method, so a new one is tested by being there."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch.testing import assert_close

import nowag_exp.methods
from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.formats import FORMATS
from nowag_exp.layout import groups
from nowag_exp.ledger import Ledger
from nowag_exp.methods import Method, Needs, SiteStatistics

METHODS = sorted(groups()["method"])


def make(name: str) -> Method:
    steps = ["method.iterations=5"] if name.endswith("_vq") else []
    return build(compose([f"method={name}", "model=llama2_7b", *steps])["method"], "method", Method)


@pytest.fixture
def site() -> tuple[dict[str, torch.Tensor], SiteStatistics]:
    generator = torch.Generator().manual_seed(0)
    # 128 inputs: groups of 128 and more than 4096 subvectors of 6, as the defaults of conf/method ask for.
    weights = {"q": torch.randn(200, 128, generator=generator), "k": torch.randn(190, 128, generator=generator)}
    activations = torch.randn(300, 128, generator=generator)
    second_moment = activations.T @ activations
    return weights, SiteStatistics(300, activations.double().square().sum(dim=0), second_moment)


def test_every_method_file_has_a_config_and_is_found() -> None:
    promised = "dense magnitude wanda nowag_p sparsegpt gptq rtn nowag_vq kmeans_vq"
    assert set(promised.split()) <= set(METHODS)
    files = {path.stem for path in Path(nowag_exp.methods.__file__).parent.glob("*.py")}
    modules = {type(make(name)).__module__.rpartition(".")[2] for name in METHODS}
    shared = {"__init__", "base", "normalising", "pruning", "rounding", "second_order", "vector_quantization"}
    assert files - modules == shared, "a method without a YAML in conf/method"


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
        assert torch.isfinite(compressed.decompress()).all()
        back = FORMATS[compressed.kind].restore(compressed.layout(), compressed.tensors())
        assert torch.equal(back.decompress(), compressed.decompress())
        assert 0 < compressed.n_nonzero <= weights[linear].numel()
        stored = save({key: tensor.contiguous() for key, tensor in compressed.tensors().items()})
        header = 8 + int.from_bytes(stored[:8], "little")
        assert compressed.bits == 8 * (len(stored) - header), "bits are those of the tensors in a file"
        assert method.count_bits(*compressed.shape) in (None, compressed.bits)
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
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_method_takes_half_precision_weights(name, dtype, site) -> None:
    weights, statistics = site
    method = make(name)
    halves = {linear: weight.to(dtype) for linear, weight in weights.items()}
    for linear, compressed in method.compress(halves, statistics, Ledger()).items():
        assert torch.isfinite(compressed.decompress().to(dtype)).all(), linear


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_dead_inputs_and_zero_rows(name, site) -> None:
    weights, statistics = site
    squares, moment = statistics.sum_of_squares.clone(), statistics.second_moment.clone()
    squares[[3, 90]] = 0
    moment[[3, 90]] = 0
    moment[:, [3, 90]] = 0
    weights["q"][5] = 0
    for linear, compressed in make(name).compress(weights, SiteStatistics(300, squares, moment), Ledger()).items():
        assert torch.isfinite(compressed.decompress()).all(), linear


@pytest.mark.parametrize("name", METHODS)
def test_the_identity_of_a_method_carries_its_version_and_settings(name) -> None:
    method = make(name)
    settings = set(compose([f"method={name}"])["method"]) - {"_target_"}
    if method.needs is Needs.NOTHING:
        settings -= {"propagate"}
    if name == "sparsegpt":
        settings -= {"group_size", "symmetric", "search"}  # of the grid, which there is none of without bits
    settings -= {"normalise"}  # What the paper does is not mentioned.
    assert set(method.identity()) == {"class", "version"} | settings
    assert method.identity()["version"] >= 1
    assert method.identity()["class"] == type(method).__name__
