import pytest
import torch
from torch import Tensor

from nowag_exp.formats import CodebookWeight
from nowag_exp.ledger import Ledger
from nowag_exp.methods import KMeansVQ, Needs, NoWagVQ, SiteStatistics
from nowag_exp.ops.normalise import normalise

SETTINGS = {
    "propagate": "dense",
    "d": 4,
    "bits": 1.0,
    "init": "kmeans++",
    "restarts": 1,
    "iterations": 50,
    "tolerance": 0.0,
    "seed": 0,
}


def nowag_vq(**settings: object) -> NoWagVQ:
    return NoWagVQ(**{"name": "nowag_vq", "normalise": "both", **SETTINGS, **settings})


def kmeans_vq(**settings: object) -> KMeansVQ:
    return KMeansVQ(**{"name": "kmeans_vq", "weighted": True, **SETTINGS, **settings})


def case(d_out: int = 40, d_in: int = 18, seed: int = 0) -> tuple[Tensor, SiteStatistics]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(d_out, d_in, generator=generator) * torch.linspace(0.1, 2, d_in)
    return weight, SiteStatistics(10, torch.rand(d_in, generator=generator, dtype=torch.float64) * 5)


def quantized(method: NoWagVQ | KMeansVQ, weight: Tensor, statistics: SiteStatistics | None) -> CodebookWeight:
    compressed = method.compress({"w": weight}, statistics, Ledger())["w"]
    assert isinstance(compressed, CodebookWeight)
    return compressed


def nowag_loss(weight: Tensor, quantized_normalised: Tensor, statistics: SiteStatistics) -> float:
    """The paper's objective, as a loop: ``Σ_ij (W̄ - Ŵ)²_ij · H_jj``."""
    errors = (normalise(weight).weight - quantized_normalised).double() ** 2
    return sum(float(errors[:, j].sum()) * float(statistics.hessian_diagonal[j]) for j in range(weight.shape[1]))


def test_nowag_vq_stores_the_nearest_codeword_of_each_subvector_of_the_normalised_weight() -> None:
    weight, statistics = case()
    held = quantized(nowag_vq(), weight, statistics)
    words = held.codebook.double()
    importance = torch.nn.functional.pad(statistics.hessian_diagonal, (0, 2))
    points = torch.nn.functional.pad(normalise(weight).weight.double(), (0, 2))
    values = held.decompress().double() / held.row_norms.double()[:, None] / held.column_norms.double()
    for row in range(40):
        for group in range(5):
            span = slice(4 * group, 4 * group + 4)
            costs = ((points[row, span] - words) ** 2 * importance[span]).sum(dim=1)
            inside = slice(4 * group, min(4 * group + 4, 18))
            chosen = ((values[row, inside] - points[row, inside]) ** 2 * importance[inside]).sum()
            assert float(chosen) == pytest.approx(float(costs.min()), rel=1e-3, abs=1e-9)


def test_weighting_and_normalising_each_lower_the_loss_they_are_made_for() -> None:
    weight, statistics = case(d_out=200, d_in=32)
    norms = normalise(weight)

    def loss(held: CodebookWeight) -> float:
        return nowag_loss(weight, held.decompress() / norms.row_norms[:, None] / norms.column_norms, statistics)

    losses = [
        loss(quantized(method, weight, statistics)) for method in (nowag_vq(), kmeans_vq(), kmeans_vq(weighted=False))
    ]
    assert losses[0] < losses[1]
    assert losses[0] < losses[2]

    def weighted_error(held: CodebookWeight) -> float:
        return float(((weight - held.decompress()) ** 2 * statistics.hessian_diagonal).sum())

    assert weighted_error(quantized(kmeans_vq(), weight, statistics)) < weighted_error(
        quantized(kmeans_vq(weighted=False), weight, None)
    )


def test_more_bits_and_more_restarts_never_make_it_worse() -> None:
    weight, statistics = case(d_out=300, d_in=16)
    norms = normalise(weight)

    def loss(**settings: object) -> float:
        held = quantized(nowag_vq(**settings), weight, statistics)
        return nowag_loss(weight, held.decompress() / norms.row_norms[:, None] / norms.column_norms, statistics)

    assert loss(bits=2.0) < loss(bits=1.0) < loss(bits=0.5)
    # The first restart is the single run; fp16 rounding of the codebook moves the loss by about 1e-3.
    assert loss(restarts=5, init="random") <= loss(restarts=1, init="random") * 1.002


def test_kmeans_vq_without_weights_needs_no_calibration() -> None:
    assert kmeans_vq().needs is Needs.DIAGONAL
    assert kmeans_vq(weighted=False).needs is Needs.NOTHING
    assert "propagate" not in kmeans_vq(weighted=False).identity()
    assert kmeans_vq(weighted=False).describe() == "d=4 1 bits unweighted"


def test_the_seed_and_the_linears_name_fix_the_result() -> None:
    weight, statistics = case(d_out=100)
    first, again, other = (
        nowag_vq(seed=seed).compress({name: weight}, statistics, Ledger())[name].decompress()
        for seed, name in ((0, "a"), (0, "a"), (1, "a"))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bits_are_exactly_indices_codebook_and_norms() -> None:
    weight, statistics = case()
    # 40 rows of 5 groups, 4 bits each; 16 codewords of 4; 40 + 18 norms.
    assert quantized(nowag_vq(), weight, statistics).bits == 40 * 5 * 4 + 16 * (16 * 4 + 40 + 18)
    assert quantized(kmeans_vq(), weight, statistics).bits == 40 * 5 * 4 + 16 * (16 * 4)


def test_codewords_that_nothing_uses_are_in_the_ledger() -> None:
    ledger = Ledger()
    weight = torch.ones(16, 8)
    weight[8:] = 2.0
    kmeans_vq(weighted=False).compress({"w": weight}, None, ledger)
    (entry,) = ledger.entries
    assert (entry.kind, entry.where) == ("empty_codewords", "w")
    assert (entry.detail, entry.count) == ("no subvector is nearest to in the end", 14)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 1.1}, r"bits: d \* bits must be a whole number .*4 \* 1.1 is 4.4; with d=4 bits can be 0.25, 0.5"),
        ({"bits": 5.0}, r"from 1 to 16; 4 \* 5.0 is 20.0"),
        ({"bits": 0.0}, "4 \\* 0.0 is 0.0"),
        ({"d": 0}, "d: must be from 1 to 16; got 0"),
        ({"d": 17}, "d: must be from 1 to 16; got 17"),
        ({"d": 3, "bits": 0.6}, r"3 \* 0.6 is 1.7\d+; with d=3 bits can be 0.333333, 0.666667, 1"),
        ({"restarts": 0}, "restarts: must be at least 1"),
        ({"iterations": 0}, "iterations: must be at least 1"),
        ({"tolerance": -0.1}, r"tolerance: must be in \[0, 1\)"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"init": "kmeans"}, "kmeans"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nowag_vq(**settings)


def test_bits_that_the_message_offers_are_taken_and_name_one_experiment() -> None:
    typed, exact = nowag_vq(d=3, bits=0.666667), nowag_vq(d=3, bits=2 / 3)
    assert typed.index_bits == exact.index_bits == 2
    assert typed.identity() == exact.identity()


def test_more_codewords_than_subvectors_are_refused_with_the_most_that_fit() -> None:
    method = nowag_vq(d=6, bits=2.0)
    assert method.check_shapes({"self_attn.q_proj": (4096, 4096)}) is None
    problem = method.check_shapes({"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64)})
    assert problem is not None
    assert problem.startswith(
        "bits: d=6 and bits=2 make 4096 codewords, but self_attn.k_proj has only 352 subvectors of 6"
    )
    assert "at most 2^8 = 256 codewords fit it" in problem


def test_without_normalisation_nowag_vq_is_kmeans_vq() -> None:
    weight, statistics = case()
    ours, plain = (quantized(method, weight, statistics) for method in (nowag_vq(normalise="none"), kmeans_vq()))
    assert ours.layout() == plain.layout()
    assert ours.tensors().keys() == plain.tensors().keys()
    for name, tensor in ours.tensors().items():
        assert torch.equal(tensor, plain.tensors()[name])


@pytest.mark.parametrize(("by", "absent"), [("columns", "row_norms"), ("rows", "column_norms")])
def test_one_norm_alone_is_applied_alone(by: str, absent: str) -> None:
    weight, statistics = case()
    held = quantized(nowag_vq(normalise=by), weight, statistics)
    assert torch.equal(held.tensors()[absent], torch.ones_like(held.tensors()[absent]))
    norms = normalise(weight, by)
    # The codebook is of the normalised weight: with 16 codewords of 4 its values are closer to that than to 0.
    values = held.decompress() / norms.row_norms[:, None] / norms.column_norms
    assert torch.linalg.vector_norm(values - norms.weight) < torch.linalg.vector_norm(norms.weight)
    assert nowag_vq(normalise=by).describe() == f"d=4 1 bits, by {by}"
