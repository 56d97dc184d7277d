import pytest
import torch
from torch import Tensor

from nowag_exp.errors import NowagError
from nowag_exp.formats import IntegerWeight, SparseIntegerWeight, SparseWeight
from nowag_exp.ledger import Ledger
from nowag_exp.methods import GPTQ, RTN, Needs, SiteStatistics, SparseGPT
from nowag_exp.methods.second_order import SecondOrder

SOLVER = {"propagate": "dense", "dampening": 0.01, "block_size": 8, "on_failure": "raise"}
GRID = {"group_size": None, "symmetric": False, "search": "minmax"}


def gptq(**settings: object) -> GPTQ:
    own = {"name": "gptq", "bits": 3, "act_order": False, "static_groups": False}
    return GPTQ(**{**SOLVER, **GRID, **own, **settings})


def sparsegpt(**settings: object) -> SparseGPT:
    own = {"name": "sparsegpt", "sparsity": 0.5, "pattern": "unstructured", "bits": None}
    return SparseGPT(**{**SOLVER, **GRID, **own, **settings})


def rtn(**settings: object) -> RTN:
    return RTN(**{**GRID, "name": "rtn", "propagate": "dense", "bits": 3, **settings})


def site(n_tokens: int = 200, seed: int = 0) -> tuple[dict[str, Tensor], SiteStatistics]:
    generator = torch.Generator().manual_seed(seed)
    weights = {"q": torch.randn(12, 32, generator=generator), "k": torch.randn(6, 32, generator=generator)}
    mix = torch.randn(32, 32, generator=generator) / 4
    x = torch.randn(n_tokens, 32, generator=generator) @ mix + torch.randn(n_tokens, 1, generator=generator)
    return weights, SiteStatistics(n_tokens, x.double().square().sum(dim=0), x.T @ x)


def output_error(weight: Tensor, values: Tensor, statistics: SiteStatistics) -> float:
    """``tr((W - Ŵ) H (W - Ŵ)ᵀ)``: what an error does to the output of the linear on the calibration tokens."""
    difference = (weight - values).double()
    return float(torch.einsum("ij,jk,ik->", difference, statistics.hessian.double(), difference))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("settings", [{}, {"group_size": 8}, {"act_order": True}, {"symmetric": True}])
def test_gptq_does_less_to_the_output_than_round_to_nearest(bits: int, settings: dict[str, object]) -> None:
    weights, statistics = site()
    ours = gptq(bits=bits, **settings).compress(weights, statistics, Ledger())
    grid = {key: value for key, value in settings.items() if key != "act_order"}
    nearest = rtn(bits=bits, **grid).compress(weights, None, Ledger())
    for linear, weight in weights.items():
        assert isinstance(ours[linear], IntegerWeight)
        assert output_error(weight, ours[linear].decompress(), statistics) < output_error(
            weight, nearest[linear].decompress(), statistics
        )


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4:8"])
def test_sparsegpt_does_less_to_the_output_than_dropping_the_same_weights(pattern: str) -> None:
    weights, statistics = site()
    for linear, held in sparsegpt(pattern=pattern).compress(weights, statistics, Ledger()).items():
        assert isinstance(held, SparseWeight)
        assert held.n_kept == weights[linear].numel() // 2
        assert held.layout()["pattern"] == pattern
        dropped = weights[linear] * held.mask()
        assert output_error(weights[linear], held.decompress(), statistics) < output_error(
            weights[linear], dropped, statistics
        )


@pytest.mark.parametrize("group_size", [None, 8])
def test_joint_sparsegpt_keeps_codes_of_the_kept_weights_alone(group_size: int | None) -> None:
    weights, statistics = site()
    joint = sparsegpt(pattern="2:4", bits=4, group_size=group_size)
    rounded = rtn(bits=4, group_size=group_size).compress(weights, None, Ledger())
    for linear, held in joint.compress(weights, statistics, Ledger()).items():
        assert isinstance(held, SparseIntegerWeight)
        values = held.decompress()
        assert int((values != 0).sum()) <= held.n_kept == values.numel() // 2
        dropped_and_rounded = rounded[linear].decompress() * (values != 0)
        assert output_error(weights[linear], values, statistics) < output_error(
            weights[linear], dropped_and_rounded, statistics
        )
    assert joint.describe() == ("2:4, 4 bits" if group_size is None else "2:4, 4 bits, groups of 8")


def test_one_factorisation_serves_several_sparsities_and_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    import nowag_exp.methods.second_order as module

    made = []
    factorise = module.hessian_factor
    monkeypatch.setattr(module, "hessian_factor", lambda *args: made.append(args[1]) or factorise(*args))
    weights, statistics = site()
    for method in (gptq(bits=2), gptq(bits=4), sparsegpt(), sparsegpt(sparsity=0.3), gptq(block_size=16)):
        method.compress(weights, statistics, Ledger())
    assert made == [0.01]
    gptq(dampening=0.1).compress(weights, statistics, Ledger())
    gptq(act_order=True).compress(weights, statistics, Ledger())
    gptq(act_order=True, bits=2).compress(weights, statistics, Ledger())
    assert made == [0.01, 0.1, 0.01]


def test_a_factor_that_was_kept_gives_what_a_fresh_one_gives() -> None:
    weights, statistics = site()
    gptq(bits=2).compress(weights, statistics, Ledger())
    again = gptq().compress(weights, statistics, Ledger())["q"].decompress()
    assert torch.equal(again, gptq().compress(weights, site()[1], Ledger())["q"].decompress())


def test_a_linear_alone_gives_what_it_gives_beside_others() -> None:
    weights, statistics = site()
    for method in (gptq(), gptq(group_size=8), sparsegpt(), sparsegpt(pattern="2:4", bits=3)):
        together = method.compress(weights, statistics, Ledger())
        for linear, weight in weights.items():
            alone = method.compress({linear: weight}, statistics, Ledger())[linear].decompress()
            torch.testing.assert_close(alone, together[linear].decompress(), rtol=1e-4, atol=1e-5)


def indefinite() -> tuple[dict[str, Tensor], SiteStatistics]:
    """Fewer tokens than inputs: without dampening the Hessian has no inverse."""
    return site(n_tokens=8)


@pytest.mark.parametrize("make", [gptq, sparsegpt])
def test_a_hessian_that_is_not_positive_definite_names_the_linears_and_what_would_do(make) -> None:
    weights, statistics = indefinite()
    with pytest.raises(
        NowagError, match=r"^q and k: the Hessian .* method\.dampening=0; method\.dampening=(\S+) would"
    ):
        make(dampening=0.0).compress(weights, statistics, Ledger())
    make(dampening=0.01).compress(weights, statistics, Ledger())


@pytest.mark.parametrize("make", [gptq, sparsegpt])
def test_dampening_is_raised_on_request_and_written_down(make) -> None:
    weights, statistics = indefinite()
    ledger = Ledger()
    compressed = make(dampening=0.0, on_failure="increase_dampening").compress(weights, statistics, ledger)
    assert all(torch.isfinite(held.decompress()).all() for held in compressed.values())
    (entry,) = ledger.entries
    assert (entry.kind, entry.where) == ("raised_dampening", "q and k")
    assert entry.detail.startswith("from 0 to 0.0")
    # Every job says so, also one that finds the factor made already.
    make(dampening=0.0, on_failure="increase_dampening").compress(weights, statistics, ledger)
    assert len(ledger.entries) == 2


def test_dead_inputs_get_weight_zero() -> None:
    weights, statistics = site()
    statistics.sum_of_squares[[2, 9]] = 0
    statistics.second_moment[[2, 9]] = 0
    statistics.second_moment[:, [2, 9]] = 0
    for method in (gptq(), sparsegpt(), gptq(act_order=True)):
        for held in method.compress(weights, statistics, Ledger()).values():
            assert not held.decompress()[:, [2, 9]].any()


def test_rtn_rounds_to_the_nearest_value_of_its_grid() -> None:
    # Row 0: -1 to 2.5, 8 values, scale 0.5, zero 2. Row 1: all positive, so the grid starts at 0; scale 1.
    weight = torch.tensor([[-1.0, 0.2, 0.3, 2.5], [7.0, 2.4, 2.6, 0.5]])
    held = rtn(bits=3).compress({"w": weight}, None, Ledger())["w"]
    assert held.decompress().tolist() == [[-1.0, 0.0, 0.5, 2.5], [7.0, 2.0, 3.0, 0.0]]
    assert rtn().needs is Needs.NOTHING


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (gptq, {"bits": 1}, "bits: must be from 2 to 8; got 1"),
        (rtn, {"bits": 9}, "bits: must be from 2 to 8; got 9"),
        (sparsegpt, {"bits": 9}, "bits: must be from 2 to 8; got 9"),
        (gptq, {"group_size": 0}, "group_size: must be at least 1 column, or null"),
        (gptq, {"act_order": True, "group_size": 8}, r"act_order: with groups it needs method\.static_groups=true"),
        (gptq, {"dampening": -0.1}, "dampening: must be at least 0"),
        (gptq, {"dampening": float("nan")}, r"dampening\n *Input should be a finite number"),
        (gptq, {"block_size": 0}, "block_size: must be from 1 to 128 columns; got 0"),
        (gptq, {"block_size": 256}, "block_size: must be from 1 to 128 columns; got 256"),
        (sparsegpt, {"block_size": 0}, "block_size: must be at least 1"),
        (sparsegpt, {"sparsity": 1.0}, r"sparsity: must be in \[0, 1\)"),
        (sparsegpt, {"pattern": "1:4"}, "0.5 contradicts pattern=1:4"),
        (gptq, {"on_failure": "ignore"}, "on_failure"),
    ],
)
def test_settings_out_of_range_are_refused(make, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_groups_that_do_not_fill_a_row_are_refused_with_one_that_does() -> None:
    for method in (gptq(group_size=128), rtn(group_size=128), sparsegpt(bits=4, group_size=128)):
        assert method.check_shapes({"mlp.down_proj": (576, 1536)}) is None
        problem = method.check_shapes({"mlp.down_proj": (576, 1536), "self_attn.q_proj": (576, 576)})
        assert problem is not None
        assert problem.startswith("group_size: 128 does not divide the 576 inputs of self_attn.q_proj; choose one that")
        assert "such as 192" in problem
    assert sparsegpt(group_size=128).check_shapes({"q": (576, 576)}) is None, "used with bits only"


def test_settings_that_change_nothing_do_not_make_another_experiment() -> None:
    assert sparsegpt().identity() == sparsegpt(group_size=8, symmetric=True, search="mse").identity()
    assert sparsegpt(pattern="2:4").identity() == sparsegpt(pattern="2:4", block_size=4).identity()
    assert sparsegpt().identity() != sparsegpt(block_size=4).identity()
    assert sparsegpt(bits=4).identity() != sparsegpt(bits=4, group_size=8).identity()


def test_a_hessian_that_no_dampening_helps_is_named() -> None:
    weights, statistics = site()
    statistics.second_moment[0, 1] = statistics.second_moment[1, 0] = 1e30
    for on_failure in ("raise", "increase_dampening"):
        with pytest.raises(
            NowagError, match=r"^q and k: .* not positive definite with any dampening; check the checkpoint"
        ):
            gptq(on_failure=on_failure).compress(weights, statistics, Ledger())


def test_the_defaults_of_the_papers_are_in_conf() -> None:
    from nowag_exp.compose import compose
    from nowag_exp.config import build
    from nowag_exp.methods import Method

    for name in ("gptq", "sparsegpt"):
        method = build(compose([f"method={name}"])["method"], "method", Method)
        assert isinstance(method, SecondOrder)
        assert (method.dampening, method.block_size, method.propagate) == (0.01, 128, "compressed")
        assert method.on_failure == "raise"
