"""``nowag-exp reproduce``: the experiments of a published table, and how they compare with it."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nowag_exp.reproduce.run import Prepared

HELP = "run what a published table takes, and compare"
EPILOG = (
    "example: nowag-exp reproduce nowag_pruning model=llama2_7b --plan\n"
    "without TABLE the tables are listed; exit code 1 if a value is a gap"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("table", nargs="?", metavar="TABLE", help="a file in results/published/tables/, without .yaml")
    parser.add_argument("--plan", action="store_true", help="print what would be run, and run nothing")
    parser.add_argument("--keep", action="store_true", help="of a table of our own: write the measured values into it")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="choose rows (model=a,b method=wanda), or set paths.results, data_dir, tracking, runtime, seeds, executor",
    )


def main(options: argparse.Namespace) -> int:
    """Plan, run, compare; a value that is a gap, or a failed job, makes the exit code 1."""
    from nowag_exp.published.tables import tables

    if options.table is None:
        for name, headline in tables().items():
            print(f"{name:<18} {headline}")
        return 0

    from nowag_exp.errors import RequestError
    from nowag_exp.execution import build_executor
    from nowag_exp.experiment import Workbench
    from nowag_exp.progress import Reporter
    from nowag_exp.published.tables import load_table
    from nowag_exp.reproduce import Verdict, parse_request, plan_jobs
    from nowag_exp.reproduce.keep import keep
    from nowag_exp.reproduce.render import render_head, render_plan, render_verdicts
    from nowag_exp.reproduce.run import execute, judge_all, look, prepare

    table, request = load_table(options.table), parse_request(options.overrides)
    if options.keep and options.plan:
        raise RequestError("--keep: writes measured values, and --plan measures none; give one of them")
    if options.keep and (table.own is None or request.selection):
        raise RequestError("--keep: writes all values of a table of our own, such as embedded; this is not that")
    if table.own is not None and request.seeds != [0]:
        raise RequestError(f"seeds={request.seeds}: the values of {table.name} are of seed 0; leave seeds out")
    executor = build_executor(request.execution)
    plan = plan_jobs(table, request)
    print(render_head(table, plan))
    if not plan.jobs:
        return 0
    prepared = prepare(plan, request)
    print(render_plan([(one.job, one.recorded) for one in prepared]))
    print(_forecast(prepared))
    if options.plan:
        return 0
    bench, reporter = Workbench(), Reporter()
    prepared = look(prepared, bench)
    reasons = dict.fromkeys(one.missing for one in prepared if one.missing is not None)
    for reason in reasons:
        count = sum(one.missing == reason for one in prepared)
        print(f"not run here, {count} experiment{'s' if count > 1 else ''}: {reason}")
    if all(one.missing is not None for one in prepared):
        print("nothing was run: this machine has not got what the table needs; above is what it would take")
        return 0
    outcomes = execute(prepared, bench, reporter, executor, table.name)
    results = next(experiment.paths.folder for one in prepared for experiment in one.experiments)
    lines = judge_all(prepared, outcomes, results)
    print(render_verdicts(lines))
    if options.keep and table.own is not None:
        keep(table.own, lines)
        print(f"wrote {table.own}")
        return 0
    failed = any(isinstance(outcome, str) for outcome in outcomes.values())
    return 1 if failed or any(line.verdict is Verdict.GAP for line in lines) else 0


def _forecast(prepared: "list[Prepared]") -> str:
    """What the experiments take, in words; of those alone whose data can be looked at, if some cannot."""
    from nowag_exp.errors import RequestError
    from nowag_exp.planning import forecast, render_forecast

    everything = [experiment for one in prepared for experiment in one.experiments]
    results = everything[0].paths.folder
    try:
        return render_forecast(forecast(everything, results))
    except RequestError as error:
        known = [experiment for one in prepared if one.missing is None for experiment in one.experiments]
        shown = render_forecast(forecast(known, results)) if known else ""
        return f"{shown}not counted, {len(everything) - len(known)} experiments: {error}"
