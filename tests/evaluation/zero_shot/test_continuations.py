from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st

from nowag_exp.errors import NowagError
from nowag_exp.evaluation.zero_shot import continuations
from nowag_exp.evaluation.zero_shot.continuations import Continuations
from nowag_exp.models import CausalLM
from nowag_exp.models.batch import sees

VOCABULARY = 258
Pairs = Sequence[tuple[list[int], list[int]]]


def ignore(index: int) -> None:
    pass


tokens = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=7)


@options(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    items=st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=4)), min_size=1, max_size=5),
    batch_tokens=st.sampled_from([1, 20, 1000]),
)
def test_answers_equal_one_plain_forward_a_text(
    model: CausalLM,
    plain_answers: Callable[..., Any],
    items: list[tuple[list[int], list[list[int]]]],
    batch_tokens: int,
) -> None:
    pairs = [(context, continuation) for context, choices in items for continuation in choices]
    found = Continuations(model, batch_tokens)(pairs, ignore)
    expected = plain_answers(model, pairs)
    assert [answer for answer, _ in found] == pytest.approx([answer for answer, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_the_likeliest_continuation_is_greedy_and_another_is_not(model: CausalLM) -> None:
    context = [5, 6, 7]
    with torch.no_grad():
        first = int(model.module(torch.tensor([context])).logits[0, -1].argmax())
        second = int(model.module(torch.tensor([[*context, first]])).logits[0, -1].argmax())
    pairs = [(context, [first, second]), (context, [first, (second + 1) % 258]), (context, [first])]
    assert [greedy for _, greedy in Continuations(model, 100)(pairs, ignore)] == [True, False, True]


def test_tokens_see_their_context_and_their_own_branch_up_to_themselves() -> None:
    # Two tokens of context, branches of two and of one, one of padding.
    seen = sees(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_choices_share_the_forward_of_their_context(model: CausalLM, forwards: Any) -> None:
    context = list(range(10))
    Continuations(model, 1000)([(context, [1, 2, 3]), (context, [4, 5])], ignore)
    assert forwards.shapes == [(1, 10 + 2 + 1)]


def test_choices_of_one_token_cost_no_more_than_their_context(model: CausalLM, forwards: Any) -> None:
    context = list(range(10))
    Continuations(model, 1000)([(context, [1]), (context, [2]), (context, [3])], ignore)
    assert forwards.shapes == [(1, 10)]


def test_choices_that_differ_in_their_last_token_share_a_branch(model: CausalLM, forwards: Any) -> None:
    context = list(range(10))
    Continuations(model, 1000)([(context, [1, 2, 3]), (context, [1, 2, 4])], ignore)
    assert forwards.shapes == [(1, 10 + 2)]


def test_what_was_answered_before_is_not_computed_again(model: CausalLM, forwards: Any) -> None:
    answers = Continuations(model, 1000)
    pairs: Pairs = [([1, 2], [3]), ([1, 2], [4, 5]), ([1, 2], [3])]
    first = answers(pairs, ignore)
    n_forwards = len(forwards.shapes)
    assert answers(pairs[::-1], ignore) == first[::-1]
    assert len(forwards.shapes) == n_forwards
    answers([([1, 2, 3], [3])], ignore)
    assert len(forwards.shapes) == n_forwards + 1


def test_batches_stay_within_their_tokens_and_take_the_longest_first(model: CausalLM, forwards: Any) -> None:
    pairs = [([1] * length, [2]) for length in (3, 9, 4, 30, 5, 8)]
    Continuations(model, 20)(pairs, ignore)
    assert forwards.shapes == [(1, 30), (2, 9), (3, 5)]


def test_a_gpu_starts_with_larger_batches(model: CausalLM, forwards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(CausalLM, "device", torch.device("cuda"))
        answers = Continuations(model, 10)
    answers([([n] * 8, [2]) for n in range(40)], ignore)
    assert forwards.shapes == [(20, 8), (20, 8)]


def test_every_pair_is_reported_once(model: CausalLM) -> None:
    answers = Continuations(model, 20)
    pairs: Pairs = [([1], [3]), ([1], [3]), ([2, 2], [4, 4]), ([1], [5, 6])]
    for _ in range(2):
        reported: list[int] = []
        answers(pairs, reported.append)
        assert sorted(reported) == [0, 1, 2, 3]


def test_logits_taken_in_slices_give_the_same(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [([1, 2, n], [n, 4, 5]) for n in range(9)]
    whole = Continuations(model, 1000)(pairs, ignore)
    monkeypatch.setattr(continuations, "LOGITS_AT_ONCE", 2 * VOCABULARY)
    assert [a for a, _ in Continuations(model, 1000)(pairs, ignore)] == pytest.approx([a for a, _ in whole], rel=1e-6)


def test_batches_that_do_not_fit_are_computed_in_parts_with_the_same_answers(
    model: CausalLM, plain_answers: Callable[..., Any], memory_of: Callable[[CausalLM, int], list[tuple[int, int]]]
) -> None:
    pairs = [([n] * 8, [n, n + 1]) for n in range(40)]
    parts = memory_of(model, 99)
    halvings: list[tuple[int, int]] = []
    model.on_halving = lambda too_many, taken: halvings.append((too_many, taken))
    answers = Continuations(model, 640)
    reported: list[int] = []
    assert [a for a, _ in answers(pairs, reported.append)] == pytest.approx(
        [a for a, _ in plain_answers(model, pairs)], abs=1e-4
    )
    assert sorted(reported) == list(range(40))
    # 40 and 20 rows of 9 tokens are too many, 10 fit; both blocks are run so.
    assert parts == [(10, 9)] * 8
    assert halvings == [(360, 180), (360, 90)]


def test_an_item_that_does_not_fit_by_itself_says_what_to_do(
    model: CausalLM, memory_of: Callable[[CausalLM, int], list[tuple[int, int]]]
) -> None:
    memory_of(model, 20)
    with pytest.raises(
        NowagError,
        match=r"30 tokens, a single window or item, do not fit into the memory of cpu beside the model; free memory, "
        r"or runtime\.offload=always, which holds one block at a time",
    ):
        Continuations(model, 640)([([1] * 30, [2])], ignore)


def test_another_error_is_not_taken_for_a_lack_of_memory(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(model, "_forward", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        Continuations(model, 640)([([1], [2])], ignore)


def test_an_answer_that_is_not_finite_raises(model: CausalLM) -> None:
    model.module.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NowagError, match=r"2 of 2 continuations have NaN or infinite log-likelihood; model\.norm"):
        Continuations(model, 640)([([1], [2]), ([1], [3, 4])], ignore)
