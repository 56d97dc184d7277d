"""``python -m benchmarks.false_claims``: how often a test calls two settings different that are one, and what it finds.

The spread is real: runs of one setting that differ in their seed alone (``sweeps/seed_spread.yaml``), kept in
``seed_spread.csv``. Two groups of them, drawn at random and without overlap, are compared as if they were two settings.
Every difference that is then called shown is a false claim. Power is the share that is shown when one group is made
worse by a known amount on every window. The table in docs/how-sure.md is what this prints.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from tabulate import tabulate

from nowag_exp.evaluation.significance import LEVEL, Difference, over_seeds
from nowag_exp.records.pairing import compare_strata, seeds_of
from nowag_exp.records.record import load_records

DATA = Path(__file__).parent / "seed_spread.csv"
TRIALS = 1000
SEEDS = (3, 5)
EFFECTS = (0.02, 0.05, 0.1)
"""Of perplexity: how much larger."""

Values = Float[np.ndarray, "seeds units"]
"""One value a window or item, of each seed."""


@dataclass(frozen=True)
class Spread:
    """What seeds did to one metric of one setting.

    Attributes:
        setting: which.
        metric: ``perplexity`` (values are losses, in nats), ``kl`` or ``acc``.
        strata: the windows; of ``acc`` the items of each task.
    """

    setting: str
    metric: str
    strata: list[Values]

    @property
    def deviation(self) -> float:
        """Sample standard deviation of the seeds' means."""
        return float(np.std(np.mean([part.mean(axis=1) for part in self.strata], axis=0), ddof=1))


def load(path: Path = DATA) -> list[Spread]:
    """Read the stored runs."""
    table = pd.read_csv(path)
    found = []
    for (setting, metric), part in table.groupby(["setting", "metric"], sort=False):
        strata = [
            np.array([[float(value) for value in line.split()] for line in stratum.sort_values("seed")["values"]])
            for _, stratum in part.groupby("stratum", sort=True)
        ]
        found.append(Spread(str(setting), str(metric), strata))
    return found


def save(results: Path, path: Path = DATA) -> None:
    """Write what the records of the sweep hold."""
    from nowag_exp.records.items import load_items

    rows = []
    for record in load_records(results):
        setting = " ".join(filter(None, [record.labels.method, record.labels.settings]))
        (seed,) = set(seeds_of(record))
        for metric in record.metrics:
            if metric.name in ("perplexity", "kl") and metric.values is not None:
                rows.append(
                    (setting, metric.name, "windows", seed, " ".join(f"{value:.6g}" for value in metric.values))
                )
        for task, part in load_items(results, record).groupby("task", sort=True):
            rows.append((setting, "acc", str(task), seed, " ".join(str(int(value)) for value in part["acc"])))
    columns = ["setting", "metric", "stratum", "seed", "values"]
    pd.DataFrame(sorted(rows), columns=columns).to_csv(path, index=False, lineterminator="\n")


def share_shown(
    spread: Spread, n_seeds: int, generator: np.random.Generator, shift: float = 0, by_window: float = 0
) -> float:
    """Share of comparisons of two random groups of seeds in which a difference of the settings is called shown.

    Args:
        spread: the runs.
        n_seeds: of each group.
        generator: draws the groups.
        shift: added to every value of the second group.
        by_window: standard deviation of what is added to each window (or item) of the second group, zero on average:
            settings that differ on each text, and not over all texts.
    """
    n_runs = len(spread.strata[0])
    claims = 0
    for _ in range(TRIALS):
        drawn = generator.permutation(n_runs)[: 2 * n_seeds]
        moved = [shift + by_window * generator.normal(size=part.shape[1]) for part in spread.strata]
        a = [part[drawn[:n_seeds]] for part in spread.strata]
        b = [part[drawn[n_seeds:]] + more for part, more in zip(spread.strata, moved, strict=True)]
        claims += _tested(a, b).p_value < LEVEL
    return claims / TRIALS


def share_of_models(spread: Spread, generator: np.random.Generator) -> float:
    """Share of pairs of single seeds whose models are shown to differ, which is no claim about settings."""
    shown = 0
    for _ in range(TRIALS):
        one, other = generator.permutation(len(spread.strata[0]))[:2]
        found = compare_strata([part[one] for part in spread.strata], [part[other] for part in spread.strata])
        shown += found is not None and found.p_value < LEVEL
    return shown / TRIALS


def _tested(a: list[Values], b: list[Values]) -> Difference:
    windows = compare_strata([part.mean(axis=0) for part in a], [part.mean(axis=0) for part in b])
    assert windows is not None
    means = [list(np.mean([part.mean(axis=1) for part in side], axis=0)) for side in (a, b)]
    return over_seeds(windows, means)


def table(spreads: list[Spread]) -> str:
    """The table of docs/how-sure.md."""
    generator = np.random.default_rng(0)
    rows = []
    for spread in spreads:
        # As large over all windows as the seeds are.
        by_window = spread.deviation * math.sqrt(sum(part.shape[1] for part in spread.strata))
        row = [spread.setting, spread.metric, f"{spread.deviation:.2g}", f"{share_of_models(spread, generator):.1%}"]
        for n_seeds in SEEDS:
            row.append(f"{share_shown(spread, n_seeds, generator):.1%}")
            row.append(f"{share_shown(spread, n_seeds, generator, by_window=by_window):.1%}")
        for effect in EFFECTS if spread.metric == "perplexity" else ():
            shown = [f"{share_shown(spread, n, generator, shift=math.log1p(effect)):.0%}" for n in SEEDS]
            row.append(" / ".join(shown))
        rows.append(row + ["-"] * (4 + 2 * len(SEEDS) + len(EFFECTS) - len(row)))
    headers = ["setting", "metric", "s", "one seed, models"]
    headers += [text for n in SEEDS for text in (f"{n} seeds", f"{n} seeds, by window")]
    headers += [f"shown at {effect:.0%}" for effect in EFFECTS]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def main() -> None:
    """Print the table, or make the file that it is made of."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.false_claims", description=__doc__)
    parser.add_argument("--from", dest="results", type=Path, help="results folder of nowag-exp sweep seed_spread")
    options = parser.parse_args()
    if options.results is not None:
        save(options.results)
    print(table(load()))


if __name__ == "__main__":
    main()
