"""``nowag-exp plan``: what a sweep will take, before anything runs."""

import argparse

HELP = "what a sweep will take, before anything runs"
EPILOG = "example: nowag-exp plan pruning_table model=llama2_7b"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("name", metavar="NAME", help="a file in sweeps/, without .yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for nowag-exp sweep")


def main(options: argparse.Namespace) -> int:
    """Print the jobs, what they share, and what they take. Downloads nothing from the hub."""
    from nowag_exp.compose import split_execution
    from nowag_exp.experiment import Workbench
    from nowag_exp.planning import forecast, render_forecast
    from nowag_exp.sweep import plan

    bench = Workbench()
    planned = plan(options.name, split_execution(options.overrides)[1], bench, absent_ok=True)
    print("\n".join([f"sweep {options.name}: {planned.describe()}", *planned.notes()]))
    print(render_forecast(forecast(planned.experiments, planned.experiments[0].paths.folder, bench)), end="")
    return 0
