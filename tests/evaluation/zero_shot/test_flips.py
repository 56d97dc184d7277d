"""Items that only one of two models answers right."""

import math

import pandas as pd
import pytest

from nowag_exp.evaluation import Metric
from nowag_exp.evaluation.zero_shot import SuiteOutcome, with_flips


def outcome(right: list[int]) -> SuiteOutcome:
    items = pd.DataFrame({"task": "easy", "item_hash": [f"h{i}" for i in range(len(right))], "acc": right})
    return SuiteOutcome("quiz", [Metric("acc", "quiz/easy", 0.5, 0.1, "f00", len(right), None, {})], items, "f00")


def test_flips_worked_by_hand() -> None:
    dense, compressed = outcome([1, 1, 1, 0, 0, 1, 0, 0]), outcome([0, 0, 1, 1, 0, 1, 0, 0])
    found = with_flips(compressed, dense)
    assert found.items["flips"].tolist() == [1, 1, 0, 1, 0, 0, 0, 0]
    accuracy, flips = found.metrics
    assert accuracy == compressed.metrics[0]
    assert (flips.name, flips.protocol, flips.n) == ("flips", "quiz", 8)
    assert flips.details == {"lost": 2, "won": 1}
    assert flips.value == 3 / 8
    # Sample variance of three ones among eight: 3/8 * 5/8 * 8/7.
    assert flips.standard_error == pytest.approx(math.sqrt(3 / 8 * 5 / 8 * 8 / 7 / 8))


def test_a_model_does_not_flip_against_itself() -> None:
    found = with_flips(outcome([1, 0, 1]), outcome([1, 0, 1]))
    assert found.metrics[-1].value == 0
    assert found.metrics[-1].details == {"lost": 0, "won": 0}
