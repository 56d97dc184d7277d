"""The experiments of a sweep through an executor, with progress and outcomes in the order of the sweep."""

from nowag_exp.config import Experiment
from nowag_exp.execution.base import Executor
from nowag_exp.execution.inline import Inline
from nowag_exp.experiment import Workbench
from nowag_exp.progress import Reporter
from nowag_exp.runner import Outcome

INLINE = Inline(name="inline")


def run_all(
    experiments: list[Experiment],
    bench: Workbench,
    reporter: Reporter,
    group: str | None = None,
    executor: Executor = INLINE,
) -> list[Outcome]:
    """Run checked experiments grouped by model, each model in the order given; ``group`` is for the tracker."""
    order = {experiment.model: None for experiment in experiments}
    grouped = [experiment for model in order for experiment in experiments if experiment.model == model]
    outcomes: dict[str, Outcome] = {}
    with reporter.live(), reporter.stage("experiments", len(grouped)) as tick:
        for outcome in executor.run(grouped, bench, reporter, group):
            outcomes[outcome.experiment.fingerprint] = outcome
            reporter.say(f"[{len(outcomes)}/{len(grouped)}] {outcome.experiment.describe()}: {_result(outcome)}")
            tick()
    return [outcomes[experiment.fingerprint] for experiment in grouped]


def _result(outcome: Outcome) -> str:
    if outcome.record is None:
        return f"FAILED, {outcome.failure}"
    shown = [
        metric for metric in outcome.record.metrics if metric.name == "perplexity" or metric.protocol.endswith("/mean")
    ]
    shown = shown or outcome.record.metrics[:1]
    return ", ".join(f"{metric.name} {metric.value:.3f} on {metric.protocol}" for metric in shown)
