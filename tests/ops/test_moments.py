import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nowag_exp.ops.moments import add_products, mirror


def test_two_tokens_worked_by_hand() -> None:
    # x = (1, 2) and (3, 0): x xᵀ = (1 2; 2 4) and (9 0; 0 0).
    total = torch.zeros(2, 2)
    add_products(total, torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    mirror(total)
    assert total.tolist() == [[10, 2], [2, 4]]


@settings(deadline=None)
@given(d=st.sampled_from([1, 127, 128, 129, 300, 2100]), parts=st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_any_width_and_any_batches_give_the_whole_product(d: int, parts: list[int]) -> None:
    tokens = torch.randn(sum(parts), d, generator=torch.Generator().manual_seed(d))
    total = torch.zeros(d, d)
    for rows in tokens.split(parts):
        add_products(total, rows)
    mirror(total)
    exact = tokens.double().T @ tokens.double()
    torch.testing.assert_close(total.double(), exact, rtol=1e-5, atol=1e-5)
    assert torch.equal(total, total.T), "symmetric to the last bit"
