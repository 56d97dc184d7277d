"""Items that only one of the dense and the compressed model answers right: equal accuracies may hide many."""

from dataclasses import replace

import torch

from nowag_exp.evaluation.metrics import Metric, mean_and_error
from nowag_exp.evaluation.zero_shot.harness import SuiteOutcome


def with_flips(outcome: SuiteOutcome, dense: SuiteOutcome) -> SuiteOutcome:
    """Hold a suite against the same suite of the dense model, item by item.

    Adds the column ``flips`` (0 or 1) to the items, and the metric ``flips`` of the whole suite: their share, with the
    numbers of items ``lost`` (only the dense model was right) and ``won`` in its details. By ``acc``.
    """
    items, before = outcome.items, dense.items
    assert outcome.token_hash == dense.token_hash
    changed = items["acc"] - before["acc"]
    value, error = mean_and_error(torch.tensor(changed.abs().to_numpy(), dtype=torch.float64))
    flips = Metric(
        name="flips",
        protocol=outcome.suite,
        value=value,
        standard_error=error,
        token_hash=outcome.token_hash,
        n=len(items),
        values=None,
        details={"lost": int((changed < 0).sum()), "won": int((changed > 0).sum())},
    )
    return replace(outcome, metrics=[*outcome.metrics, flips], items=items.assign(flips=changed.abs()))
