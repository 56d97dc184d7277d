"""The experiments of a sweep through an executor, with progress and outcomes in the order of the sweep."""

from collections.abc import Iterator, Mapping

from nowag_exp import interrupt
from nowag_exp.config import Experiment
from nowag_exp.execution.base import Executor
from nowag_exp.execution.inline import Inline
from nowag_exp.experiment import Workbench, in_order, recorded
from nowag_exp.progress import Reporter
from nowag_exp.runner import Outcome, run_logged

INLINE = Inline(name="inline")

TAIL = 5
"""Lines of the log that are shown of a job whose process died."""


def run_all(
    experiments: list[Experiment],
    bench: Workbench,
    reporter: Reporter,
    group: str | None = None,
    executor: Executor = INLINE,
    seconds: Mapping[str, float] | None = None,
) -> list[Outcome]:
    """Run checked experiments model by model, those first whose stages serve most others.

    Args:
        experiments: checked, each once.
        bench: what this process has loaded.
        reporter: shows progress.
        group: name of the sweep, for the tracker.
        executor: runs them.
        seconds: that each is expected to take, by fingerprint, for the time left; ``None`` if that is not known.

    Returns:
        Their outcomes, in the order given.

    Raises:
        KeyboardInterrupt: if asked to stop, saying what is done.
    """
    grouped = in_order(experiments)
    number = {experiment.fingerprint: number for number, experiment in enumerate(grouped)}
    weights = None if seconds is None else [seconds[fingerprint] for fingerprint in number]
    outcomes: dict[str, Outcome] = {}
    with interrupt.graceful(), reporter.live(), reporter.stage("experiments", len(grouped), weights) as tick:
        try:
            for outcome in _outcomes(grouped, executor, bench, reporter, group):
                fingerprint = outcome.experiment.fingerprint
                outcomes[fingerprint] = outcome
                say_outcome(outcome, f"[{len(outcomes)}/{len(grouped)}] ", reporter)
                tick(number[fingerprint])
        except KeyboardInterrupt:
            done = sum(recorded(experiment) is not None for experiment in grouped)
            reporter.say(f"stopped: {done} of {len(grouped)} experiments are recorded")
            raise
    return [outcomes[experiment.fingerprint] for experiment in experiments]


def _outcomes(
    experiments: list[Experiment], executor: Executor, bench: Workbench, reporter: Reporter, group: str | None
) -> Iterator[Outcome]:
    """Those that are recorded first: no engine is started for what computes nothing."""
    to_run = []
    for experiment in experiments:
        if recorded(experiment):
            yield run_logged(experiment, bench, reporter, group)
        else:
            to_run.append(experiment)
    if to_run:
        yield from executor.run(to_run, bench, reporter, group)


def say_outcome(outcome: Outcome, prefix: str, reporter: Reporter) -> None:
    """Say in one line how an experiment ended, and how the log ends if its process died."""
    reporter.say(f"{prefix}{outcome.experiment.describe()}: {_result(outcome)}")
    if outcome.crashed:
        for line in _tail(outcome):
            reporter.say(f"    {line}")


def _tail(outcome: Outcome) -> list[str]:
    try:
        text = outcome.log_file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return [f"its log {outcome.log_file} cannot be read ({error.strerror})"]
    return text.splitlines()[-TAIL:]


def _result(outcome: Outcome) -> str:
    if outcome.record is None:
        return f"FAILED, {outcome.failure}"
    shown = [
        metric for metric in outcome.record.metrics if metric.name == "perplexity" or metric.protocol.endswith("/mean")
    ]
    shown = shown or outcome.record.metrics[:1]
    return ", ".join(f"{metric.name} {metric.value:.3f} on {metric.protocol}" for metric in shown)
