"""How long ``nowag-exp --help`` takes, against importing Hydra; the floor is an interpreter that does nothing."""

import statistics
import sys
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.children import COMMAND, run_child
from benchmarks.timing import Comparison, Wanted, compare
from nowag_exp.errors import NowagError

HEAVY = ("torch", "transformers", "numpy", "pandas", "hydra", "omegaconf", "pydantic", "rich", "datasets", "lm_eval")

ROUNDS = (5, 15)


def run(bench: Bench) -> Iterator[Comparison]:
    check_imports()
    rounds = ROUNDS[bench.full]
    empty = statistics.median(run_child((sys.executable, "-c", "")).seconds for _ in range(rounds))
    yield compare(
        "nowag-exp --help, against python -c 'import hydra'",
        lambda: run_child((*COMMAND, "--help")),
        lambda: run_child((sys.executable, "-c", "import hydra")),
        rounds,
        empty,
        Wanted(ratio=round(1 / 3, 2)),
    )


def check_imports() -> None:
    """Hold the command to importing nothing heavy before a verb needs it.

    Raises:
        NowagError: naming what is.
    """
    code = (
        "import sys\nfrom nowag_exp.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\nsys.exit(', '.join(loaded) or 0)"
    )
    try:
        run_child((sys.executable, "-c", code))
    except NowagError as error:
        raise NowagError(
            f"nowag-exp --help imports what it does not need ({error}); import it inside the verb"
        ) from error
