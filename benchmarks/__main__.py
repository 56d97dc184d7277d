"""``python -m benchmarks``: all comparisons on SmolLM2-135M, about eight minutes on 2 cores."""

import sys

import torch

from benchmarks import forward, kmeans, masks, solver, zero_shot
from benchmarks.timing import HEADER
from nowag_exp.compose import compose
from nowag_exp.config import build_experiment
from nowag_exp.layout import among

PARTS = {module.__name__.removeprefix("benchmarks."): module for module in (masks, forward, kmeans, solver, zero_shot)}


def main() -> int:
    names = sys.argv[1:] or list(PARTS)
    if unknown := set(names) - set(PARTS):
        print(f"{', '.join(sorted(unknown))}: no such part{among(min(unknown), list(PARTS))}", file=sys.stderr)
        return 2
    model = build_experiment(compose([])).model.load(torch.device("cpu"))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n{HEADER}")
    below = 0
    for name in names:
        for comparison in PARTS[name].run(model):
            print(comparison.line(), flush=True)
            below += comparison.ratio < comparison.wanted
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
