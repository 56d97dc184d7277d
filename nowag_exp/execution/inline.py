"""One job after the other, in this process."""

from collections.abc import Iterable, Iterator

from nowag_exp.config import Experiment
from nowag_exp.execution.base import Executor, free_first
from nowag_exp.experiment import Workbench
from nowag_exp.progress import Reporter
from nowag_exp.runner import Outcome, run_logged
from nowag_exp.settings import settings


@settings
class Inline(Executor):
    """Runs in this process, which keeps the loaded model from one job to the next."""

    name: str

    def run(
        self, experiments: Iterable[Experiment], bench: Workbench, reporter: Reporter, group: str | None
    ) -> Iterator[Outcome]:
        for experiment in free_first(experiments):
            yield run_logged(experiment, bench, reporter, group)
