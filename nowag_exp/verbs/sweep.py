"""``nowag-exp sweep``: all experiments of ``sweeps/NAME.yaml``."""

import argparse

from nowag_exp.output import extension, write

HELP = "all experiments of sweeps/NAME.yaml"
EPILOG = "example: nowag-exp sweep demo model=tiny paths.results=try"

HEADINGS = {"text": "{}\n\n", "md": "`{}`\n\n", "tex": "% {}\n", "csv": ""}
"""What the file of a table opens with; a line that is no row would keep programs from reading a CSV."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("name", metavar="NAME", help="a file in sweeps/, without .yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for every job; a,b adds an axis")


def main(options: argparse.Namespace) -> int:
    """Check every job, run what is not recorded, print the table."""
    from nowag_exp.compose import split_execution
    from nowag_exp.execution import build_executor, run_all
    from nowag_exp.experiment import Workbench
    from nowag_exp.progress import Reporter
    from nowag_exp.records.wide import FORMATS, render
    from nowag_exp.sweep import changes, plan, table_name

    how, what = split_execution(options.overrides)
    executor, bench, reporter = build_executor(how), Workbench(), Reporter()
    planned = plan(options.name, what, bench)
    for line in [f"sweep {options.name}: {planned.describe()}", *planned.notes()]:
        reporter.say(line)
    outcomes = run_all(planned.experiments, bench, reporter, options.name, executor)
    records = [outcome.record for outcome in outcomes if outcome.record]
    results = planned.experiments[0].paths.folder
    path = results / "tables" / table_name(options.name, what)
    made_by = " ".join(["nowag-exp sweep", options.name, *changes(what)])
    for form in FORMATS:
        text = HEADINGS[form].format(made_by) + render(records, form, results)
        write(path.with_name(f"{path.name}.{extension(form)}"), text)
    print(render(records, "text", results))
    print(f"tables:  {path}.{{{','.join(map(extension, FORMATS))}}}")
    print(f"records: {results / 'runs'} ({len(records)} of this sweep)")
    failed = [outcome for outcome in outcomes if outcome.record is None]
    for outcome in failed:
        reporter.say(f"failed: {outcome.experiment.describe()}: {outcome.failure} (traceback in {outcome.log_file})")
    return 1 if failed else 0
