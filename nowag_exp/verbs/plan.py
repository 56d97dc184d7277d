"""``nowag-exp plan``: what a sweep will take, before anything runs."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nowag_exp.experiment import Workbench

HELP = "what a sweep will take, before anything runs"
EPILOG = "example: nowag-exp plan pruning_table model=llama2_7b"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("name", metavar="NAME", help="a file in sweeps/, without .yaml")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="as for nowag-exp sweep")


def main(options: argparse.Namespace) -> int:
    """Print the jobs, what they share, and what they take. Downloads nothing from the hub."""
    from nowag_exp.compose import split_execution
    from nowag_exp.experiment import Workbench
    from nowag_exp.planning import forecast, render_forecast
    from nowag_exp.search import is_search
    from nowag_exp.sweep import plan

    bench, what = Workbench(), split_execution(options.overrides)[1]
    if is_search(options.name):
        return _search(options.name, what, bench)
    planned = plan(options.name, what, bench, absent_ok=True)
    print("\n".join([f"sweep {options.name}: {planned.describe()}", *planned.notes()]))
    print(render_forecast(forecast(planned.experiments, planned.experiments[0].paths.folder, bench)), end="")
    return 0


def _search(name: str, overrides: list[str], bench: "Workbench") -> int:
    """What is tried in a search follows from what has come out, so one trial stands for all."""
    from nowag_exp.planning import forecast, render_forecast
    from nowag_exp.progress import Reporter
    from nowag_exp.search import Search, read_search

    search = Search(read_search(name, overrides), bench, Reporter())
    print(f"search {name}: {search.describe()}")
    print(f"one of its trials; all {search.request.trials} take about as many times that, but for what they share:")
    print(render_forecast(forecast([search.example], search.results, bench)), end="")
    return 0
