"""The same experiment again, from nothing: whose number do today's code and machine give?"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nowag_exp.errors import NowagError, RequestError
from nowag_exp.execution import run_all
from nowag_exp.experiment import Workbench, check
from nowag_exp.explain.attribution import Found, experiment_of, find_metric, headline, strata
from nowag_exp.explain.differences import changes, flatten, listed
from nowag_exp.progress import Reporter
from nowag_exp.records.record import RunRecord

SHARE = 0.01
"""Of the gap between A and B: nearer than that to one of them counts as that one's number."""


@dataclass(frozen=True)
class Distance:
    """How far today's value of a metric is from both.

    Attributes:
        metric: name and protocol.
        today: the value.
        to_a: largest difference on one window, or of one item.
        to_b: likewise.
        gap: the same between A and B.
    """

    metric: str
    today: float
    to_a: float
    to_b: float
    gap: float

    @property
    def whose(self) -> str:
        """``A``, ``B``, ``both`` or ``neither``: within ``SHARE`` of the gap."""
        near_a, near_b = (distance <= SHARE * self.gap for distance in (self.to_a, self.to_b))
        return "both" if near_a and near_b else "A" if near_a else "B" if near_b else "neither"


@dataclass(frozen=True)
class Rerun:
    """What came out.

    Attributes:
        distances: of each metric that all three have on the same tokens.
        differs_from_a: what of versions and machine is another one today than it was for A.
        differs_from_b: likewise.
        same_fingerprint: whether today's code takes the experiment for the same as A's.
    """

    distances: list[Distance]
    differs_from_a: str
    differs_from_b: str
    same_fingerprint: bool


def rerun(a: Found, b: Found, bench: Workbench, reporter: Reporter) -> Rerun:
    """Run A's experiment in an empty results folder, which is removed again.

    Raises:
        RequestError: if it cannot be run here, or shares no tokens with both.
        NowagError: if it fails.
    """
    with tempfile.TemporaryDirectory(prefix="nowag-exp-") as folder:
        results = Path(folder)
        experiment = experiment_of(a[1].config, results)
        check(experiment, bench)
        (outcome,) = run_all([experiment], bench, reporter)
        if outcome.record is None:
            raise NowagError(f"A's experiment failed when it was run again: {outcome.failure}")
        today = (results, outcome.record)
        distances = []
        for metric in headline(outcome.record):
            of_a, of_b = find_metric(a[1], metric), find_metric(b[1], metric)
            if of_a is None or of_b is None:
                continue
            now, then_a, then_b = (
                np.concatenate(strata(found, one)) for found, one in ((today, metric), (a, of_a), (b, of_b))
            )
            far = (float(np.abs(x - y).max()) for x, y in ((now, then_a), (now, then_b), (then_a, then_b)))
            distances.append(Distance(f"{metric.name} {metric.protocol}", metric.value, *far))
    if not distances:
        raise RequestError("today's tokens are not those of both records, so nothing can be told from a rerun")
    return Rerun(
        distances,
        _provenance(a[1], outcome.record),
        _provenance(b[1], outcome.record),
        experiment.fingerprint == a[1].fingerprint,
    )


def _provenance(then: RunRecord, now: RunRecord) -> str:
    return listed(changes(flatten(then.provenance), flatten(now.provenance)))


def render_rerun(found: Rerun) -> str:
    """As text that ends in a line break."""
    lines = []
    for distance in found.distances:
        verdict = {
            "A": "A's number",
            "B": "B's number",
            "both": "A's and B's number",
            "neither": "neither A's nor B's number",
        }[distance.whose]
        lines.append(
            f"{distance.metric}: today's code on this machine gives {verdict}, {distance.today:.6g}: at most "
            f"{distance.to_a:.2g} from A and {distance.to_b:.2g} from B on one window or item, where A and B are "
            f"{distance.gap:.2g} apart (counted as the same: within {SHARE:.0%} of that)"
        )
    whose = {distance.whose for distance in found.distances}
    for name, differs in (("A", found.differs_from_a), ("B", found.differs_from_b)):
        if whose & {"A", "B", "neither"} and name not in whose:
            what = differs or "nothing that is recorded: something is not deterministic, or the record was changed"
            lines.append(f"so {name} is attributed to what it was made with; then and today: {what}")
    if not found.same_fingerprint:
        lines.append("A's experiment has another fingerprint today: our code or its files have changed since")
    return "\n".join(lines) + "\n"
