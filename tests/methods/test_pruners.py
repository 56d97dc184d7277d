import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nowag_exp.formats import SparseWeight
from nowag_exp.ledger import Ledger
from nowag_exp.methods import Magnitude, NoWagP, SiteStatistics, Wanda


def _load_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", Path(__file__).with_name("reference.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _load_reference()


def random_case(
    seed: int, d_out: int = 12, d_in: int = 16, n_tokens: int = 40
) -> tuple[Tensor, Tensor, SiteStatistics]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(d_out, d_in, generator=generator)
    activations = torch.randn(n_tokens, d_in, generator=generator) * torch.linspace(0.1, 3, d_in)
    return weight, activations, SiteStatistics(n_tokens, activations.double().square().sum(dim=0))


def mask_of(method: Magnitude | Wanda | NoWagP, weight: Tensor, statistics: SiteStatistics | None) -> list[list[bool]]:
    compressed = method.compress({"w": weight}, statistics, Ledger())["w"]
    assert isinstance(compressed, SparseWeight)
    return compressed.mask().tolist()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9])
def test_unstructured_masks_equal_the_slow_references(seed: int, sparsity: float) -> None:
    weight, activations, statistics = random_case(seed)
    settings = {"sparsity": sparsity, "pattern": "unstructured", "propagate": "dense"}
    assert mask_of(Magnitude(name="magnitude", **settings), weight, None) == reference.magnitude_mask(weight, sparsity)
    assert mask_of(Wanda(name="wanda", **settings), weight, statistics) == reference.wanda_mask(
        weight, activations, sparsity
    )
    assert mask_of(NoWagP(name="nowag_p", normalise="both", **settings), weight, statistics) == reference.nowag_p_mask(
        weight, activations, sparsity
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8)])
def test_n_of_m_masks_equal_the_slow_references(seed: int, n: int, m: int) -> None:
    weight, activations, statistics = random_case(seed)
    settings = {"sparsity": 1 - n / m, "pattern": f"{n}:{m}", "propagate": "dense"}
    norms = activations.double().square().sum(dim=0).sqrt()
    assert mask_of(Magnitude(name="m", **settings), weight, None) == reference.n_of_m(weight.abs().tolist(), n, m)
    assert mask_of(Wanda(name="w", **settings), weight, statistics) == reference.n_of_m(
        (weight.double().abs() * norms).tolist(), n, m
    )
    assert mask_of(NoWagP(name="p", normalise="both", **settings), weight, statistics) == reference.n_of_m(
        reference.nowag_p_scores(weight, activations), n, m
    )


def test_wanda_two_by_two_worked_by_hand() -> None:
    # ‖X‖ = (1, 3): scores are [[4, 3], [1, 6]]; each row keeps its better one.
    statistics = SiteStatistics(1, torch.tensor([1.0, 9.0], dtype=torch.float64))
    wanda = Wanda(name="wanda", sparsity=0.5, pattern="unstructured", propagate="dense")
    assert mask_of(wanda, torch.tensor([[4.0, 1.0], [1.0, -2.0]]), statistics) == [[True, False], [False, True]]


def test_nowag_p_two_by_two_worked_by_hand() -> None:
    # r1 = (5, 2) gives [[0.6, 0], [0.8, 1]]; r2 = (0.6, √1.64) gives W̄² = [[1, 0], [0.39, 0.61]]; H = (1, 1) keeps the
    # 1 and the 0.61. With H = (1, 0.5) the last one scores 0.30 and the 0.39 stays in its place.
    weight = torch.tensor([[3.0, 0.0], [4.0, 2.0]])
    method = NoWagP(name="nowag_p", normalise="both", sparsity=0.5, pattern="unstructured", propagate="dense")
    even = SiteStatistics(2, torch.tensor([1.0, 1.0], dtype=torch.float64))
    uneven = SiteStatistics(2, torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert mask_of(method, weight, even) == [[True, False], [False, True]]
    assert mask_of(method, weight, uneven) == [[True, False], [True, False]]


@pytest.mark.parametrize(
    ("normalise", "kept"),
    [
        # W̄² of [[3, 0], [4, 2]], its second column times 5, as H = (1, 5) counts it.
        ("both", [[True, False], [False, True]]),  # [[1, 0], [0.39, 3.05]]
        ("columns", [[False, False], [True, True]]),  # [[0.36, 0], [0.64, 5]]
        ("rows", [[True, False], [False, True]]),  # [[1, 0], [0.8, 1]]
        ("none", [[False, False], [True, True]]),  # [[9, 0], [16, 20]]
    ],
)
def test_nowag_p_with_each_norm_alone_worked_by_hand(normalise: str, kept: list[list[bool]]) -> None:
    method = NoWagP(name="nowag_p", normalise=normalise, sparsity=0.5, pattern="unstructured", propagate="dense")
    statistics = SiteStatistics(2, torch.tensor([1.0, 5.0], dtype=torch.float64))
    assert mask_of(method, torch.tensor([[3.0, 0.0], [4.0, 2.0]]), statistics) == kept


def test_without_normalisation_nowag_p_is_the_squared_score_of_wanda_compared_over_the_whole_matrix() -> None:
    weight, activations, statistics = random_case(0)
    method = NoWagP(name="nowag_p", normalise="none", sparsity=0.5, pattern="unstructured", propagate="dense")
    scaled = weight.double() * activations.double().square().sum(dim=0).sqrt()
    assert mask_of(method, weight, statistics) == reference.magnitude_mask(scaled, 0.5)


def test_what_the_paper_does_is_not_in_the_identity_so_that_older_results_are_found() -> None:
    settings = {"name": "nowag_p", "sparsity": 0.5, "pattern": "unstructured", "propagate": "dense"}
    both, rows = (NoWagP(normalise=by, **settings) for by in ("both", "rows"))
    assert both.identity() == {"class": "NoWagP", "version": 2, **settings}
    assert rows.identity() == {**both.identity(), "normalise": "rows"}
    assert [both.describe(), rows.describe()] == ["50%", "50%, by rows"]


@pytest.mark.parametrize(("sparsity", "pattern"), [(0.5, "unstructured"), (0.5, "2:4"), (0.75, "1:4")])
def test_masks_of_weights_with_many_ties_equal_the_references_and_the_ties_are_counted(
    sparsity: float, pattern: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-3, 4, (12, 16), generator=generator).float()
    ledger = Ledger()
    method = Magnitude(name="magnitude", sparsity=sparsity, pattern=pattern, propagate="dense")
    mask = method.compress({"w": weight}, None, ledger)["w"].mask().tolist()  # type: ignore[attr-defined]
    if pattern == "unstructured":
        assert mask == reference.magnitude_mask(weight, sparsity)
    else:
        n, m = map(int, pattern.split(":"))
        assert mask == reference.n_of_m(weight.abs().tolist(), n, m)
    assert [(entry.kind, entry.where) for entry in ledger.entries] == [("tied_scores", "w")]
    assert 0 < ledger.entries[0].count < 12 * 16 * sparsity


@given(seed=st.integers(0, 2**16), scale=st.sampled_from([0.25, 2.0, 8.0]))
def test_nowag_p_hardly_changes_when_the_weight_is_scaled(seed: int, scale: float) -> None:
    # Exact but for ε = 1e-5 in the norms, which moves scores by about 1e-5 relative: at most a near-tie or two flip.
    weight, _, statistics = random_case(seed)
    method = NoWagP(name="nowag_p", normalise="both", sparsity=0.5, pattern="unstructured", propagate="dense")
    before, after = (torch.tensor(mask_of(method, factor * weight, statistics)) for factor in (1.0, scale))
    assert int((before != after).sum()) <= 4


@given(seed=st.integers(0, 2**16))
def test_permuting_rows_permutes_the_mask(seed: int) -> None:
    weight, _, statistics = random_case(seed)
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))
    for method in (
        Wanda(name="wanda", sparsity=0.5, pattern="2:4", propagate="dense"),
        Wanda(name="wanda", sparsity=0.5, pattern="unstructured", propagate="dense"),
    ):
        mask = torch.tensor(mask_of(method, weight, statistics))
        assert torch.equal(torch.tensor(mask_of(method, weight[order], statistics)), mask[order])


def test_kept_weights_keep_their_value_in_16_bits() -> None:
    weight, _, statistics = random_case(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        typed = weight.to(dtype)
        compressed = NoWagP(name="p", normalise="both", sparsity=0.5, pattern="2:4", propagate="dense").compress(
            {"w": typed}, statistics, Ledger()
        )["w"]
        assert isinstance(compressed, SparseWeight)
        stored = torch.float16 if dtype is torch.float32 else dtype
        values = compressed.decompress()
        assert values.dtype == stored
        assert torch.equal(values, typed.to(stored) * compressed.mask())


def test_the_defaults_of_the_papers_are_in_conf() -> None:
    from nowag_exp.compose import compose

    def propagate(method: str) -> str:
        return compose([f"method={method}"])["method"]["propagate"]

    assert propagate("wanda") == "compressed"
    assert propagate("nowag_p") == "dense"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity: must be in \[0, 1\)"),
        ({"sparsity": -0.1}, r"sparsity: must be in \[0, 1\)"),
        ({"sparsity": float("nan")}, r"sparsity\n *Input should be a finite number"),
        ({"pattern": "4:2"}, "0 < N <= M"),
        ({"pattern": "0:4"}, "0 < N <= M"),
        ({"pattern": "2:4:8"}, "must be 'unstructured' or 'N:M'"),
        ({"pattern": "half"}, "must be 'unstructured' or 'N:M'"),
        ({"pattern": "1:4"}, "0.5 contradicts pattern=1:4, which removes 0.75"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    values = {"name": "wanda", "sparsity": 0.5, "pattern": "unstructured", "propagate": "dense", **settings}
    with pytest.raises(ValueError, match=message):
        Wanda(**values)
