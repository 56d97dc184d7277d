"""Two settings that are one are not called different more often than is said, on runs that were really made."""

import numpy as np
import pytest

from benchmarks import false_claims

ALLOWED = 0.07
SPREADS = [spread for spread in false_claims.load() if spread.metric == "perplexity"]


@pytest.mark.parametrize("spread", SPREADS, ids=lambda spread: spread.setting)
@pytest.mark.parametrize("n_seeds", [3, 5])
def test_of_a_thousand_comparisons_of_one_setting_with_itself_few_claim_a_difference(
    spread: false_claims.Spread, n_seeds: int
) -> None:
    assert false_claims.share_shown(spread, n_seeds, np.random.default_rng(1)) <= ALLOWED


def test_a_test_of_models_alone_would_call_seeds_of_one_setting_different(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(false_claims, "TRIALS", 200)
    assert all(false_claims.share_of_models(spread, np.random.default_rng(1)) > 0.3 for spread in SPREADS)


def test_a_large_difference_is_shown_more_often_with_more_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(false_claims, "TRIALS", 100)
    (wanda,) = (spread for spread in SPREADS if spread.setting.startswith("wanda"))
    few, many = (false_claims.share_shown(wanda, n, np.random.default_rng(1), shift=0.1) for n in (3, 5))
    assert 0.4 < few < many
