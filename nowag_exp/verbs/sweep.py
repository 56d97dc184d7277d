"""``nowag-exp sweep``: all experiments of ``sweeps/NAME.yaml``, or a search among them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nowag_exp.output import extension, write

if TYPE_CHECKING:
    from nowag_exp.config import Experiment
    from nowag_exp.execution import Executor
    from nowag_exp.experiment import Workbench
    from nowag_exp.progress import Reporter
    from nowag_exp.records.record import RunRecord

HELP = "all experiments of sweeps/NAME.yaml"
EPILOG = "example: nowag-exp sweep demo model=tiny paths.results=try"

HEADINGS = {"text": "{}\n\n", "md": "`{}`\n\n", "tex": "% {}\n", "csv": ""}
"""What the file of a table opens with; a line that is no row would keep programs from reading a CSV."""

ENDINGS = {"text": "\n{}\n", "md": "\n{}\n", "tex": "% {}\n", "csv": ""}
"""What says that rows are missing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("name", metavar="NAME", help="a file in sweeps/, without .yaml")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="for every job; a,b adds an axis")


def main(options: argparse.Namespace) -> int:
    """Check every job, run what is not recorded, print the table."""
    from nowag_exp.compose import split_execution
    from nowag_exp.execution import build_executor, run_all
    from nowag_exp.experiment import Workbench
    from nowag_exp.progress import Reporter
    from nowag_exp.records.wide import render
    from nowag_exp.search import is_search
    from nowag_exp.sweep import plan

    how, what = split_execution(options.overrides)
    executor, bench, reporter = build_executor(how), Workbench(), Reporter()
    if is_search(options.name):
        return _search(options.name, what, executor, bench, reporter)
    planned = plan(options.name, what, bench)
    for line in [f"sweep {options.name}: {planned.describe()}", *planned.notes()]:
        reporter.say(line)
    # Jobs take seconds or hours: counted alike, they would tell no honest time left.
    seconds = _expected(planned.experiments, bench) if reporter.draws and planned.n_to_run > 1 else None
    outcomes = run_all(planned.experiments, bench, reporter, options.name, executor, seconds)
    records = [outcome.record for outcome in outcomes if outcome.record]
    results = planned.experiments[0].paths.folder
    print(render(records, "text", results))
    _write_tables(options.name, what, records, results, n_failed=len(outcomes) - len(records))
    failed = [outcome for outcome in outcomes if outcome.record is None]
    for outcome in failed:
        reporter.say(f"failed: {outcome.experiment.describe()}: {outcome.failure} (traceback in {outcome.log_file})")
    return 1 if failed else 0


def _expected(experiments: "list[Experiment]", bench: "Workbench") -> dict[str, float] | None:
    """Seconds that each is expected to take, by fingerprint; ``None`` if that of one is unknown."""
    from nowag_exp.planning import forecast

    jobs = forecast(experiments, experiments[0].paths.folder, bench).jobs
    known = {job.experiment.fingerprint: job.seconds for job in jobs if job.seconds is not None}
    return known if len(known) == len(jobs) else None


def _search(name: str, overrides: list[str], executor: "Executor", bench: "Workbench", reporter: "Reporter") -> int:
    """Run trials until there are enough, print them from the best to the worst."""
    from nowag_exp.search import Search, read_search, render_trials

    with Search(read_search(name, overrides), bench, reporter) as search:
        reporter.say(f"search {name}: {search.describe()}")
        search.run(executor)
        trials = search.trials()
        records = [search.record(trial) for trial in trials if trial.outcome == "done"]
        n_failed = sum(trial.outcome == "failed" for trial in trials)
        _write_tables(name, overrides, records, search.results, n_failed)
        print()
        print(render_trials(search), end="")
    return 1 if n_failed else 0


def _write_tables(name: str, overrides: list[str], records: "list[RunRecord]", results: Path, n_failed: int) -> None:
    """The table of the records in every format, and where they are."""
    from nowag_exp.records.wide import FORMATS, render
    from nowag_exp.sweep import changes, table_name

    path = results / "tables" / table_name(name, overrides)
    made_by = " ".join(["nowag-exp sweep", name, *changes(overrides)])
    for form in FORMATS:
        text = HEADINGS[form].format(made_by) + render(records, form, results)
        if n_failed:
            text += ENDINGS[form].format(f"failed, so not in this table: {n_failed} of {len(records) + n_failed}")
        write(path.with_name(f"{path.name}.{extension(form)}"), text)
    print(f"tables:  {path}.{{{','.join(map(extension, FORMATS))}}}")
    print(f"records: {results / 'runs'} ({len(records)} of this sweep)")
