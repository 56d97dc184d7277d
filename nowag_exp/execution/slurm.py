"""Slurm, through submitit: the jobs of a sweep are one array."""

import itertools
import shutil
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from nowag_exp import interrupt
from nowag_exp.config import Experiment
from nowag_exp.errors import RequestError, one_line
from nowag_exp.execution.base import INSTEAD, Executor, crashed, ended
from nowag_exp.execution.job import Job, run_job
from nowag_exp.experiment import Workbench
from nowag_exp.extras import require
from nowag_exp.progress import Reporter
from nowag_exp.runner import Outcome
from nowag_exp.settings import settings

if TYPE_CHECKING:
    import submitit


MOST_TIMEOUTS = 1000
"""Times that a job may run out of time and be queued again: each time it has come further."""


class Task:
    """A job that Slurm can queue again: one that ran out of time or was preempted goes on where it stopped."""

    def __call__(self, job: Job) -> str | None:
        # SIGTERM is for submitit, which asks for a new submission when Slurm takes the machine away.
        return run_job(job, (signal.SIGINT,))

    def checkpoint(self, job: Job) -> "submitit.helpers.DelayedSubmission":
        """What submitit is to submit when Slurm takes the machine away."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Task(), job)


@settings
class Slurm(Executor):
    """Submits each job with submitit and waits for all of them; queues, arrays and requeueing are Slurm's.

    Results must be on a file system that all nodes share.

    Attributes:
        cluster: ``slurm``, or ``local`` to run the same on this machine without any Slurm, to try it.
        parallel: jobs that run at a time; one on a ``local`` cluster with GPUs, where nothing would keep them apart.
        cpus: of a job.
        gpus: of a job.
        memory_gb: of a job.
        minutes: a job may take; one that takes longer is queued again and goes on.
        parameters: other ones of sbatch, such as ``{partition: gpu, account: me}``.
        poll_seconds: between two looks at the queue.
    """

    name: str
    cluster: Literal["slurm", "local"]
    parallel: int
    cpus: int
    gpus: int
    memory_gb: float
    minutes: int
    parameters: dict[str, str | int]
    poll_seconds: float

    def __post_init__(self) -> None:
        for name in ("parallel", "cpus", "memory_gb", "minutes", "poll_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be more than 0; got {getattr(self, name)}")
        if self.gpus < 0:
            raise ValueError(f"gpus: must be 0 or more; got {self.gpus}")

    def check(self) -> None:
        require("submitit", f"executor={self.name}", INSTEAD)
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise RequestError(
                "executor=slurm: there is no sbatch on this machine; start the sweep on a login node, or try "
                "executor.cluster=local"
            )

    def run(
        self, experiments: Iterable[Experiment], bench: Workbench, reporter: Reporter, group: str | None
    ) -> Iterator[Outcome]:
        waiting, running = iter(experiments), list[tuple["submitit.Job[Any]", Experiment]]()
        # A list becomes one array, whose size Slurm limits by itself; of anything else as many as may run at a time.
        limit = len(experiments) if isinstance(experiments, Sequence) else self.parallel
        if self.cluster == "local":
            limit = 1 if self.gpus and torch.cuda.is_available() else self.parallel
        try:
            while True:
                if batch := list(itertools.islice(waiting, limit - len(running))):
                    running += self._submit(batch, group, reporter)
                if not running:
                    return
                done = [pair for pair in running if pair[0].done()]
                for pair in done:
                    running.remove(pair)
                    yield _outcome(*pair)
                if not done:
                    time.sleep(self.poll_seconds)
                interrupt.check()
        except BaseException:
            for job, _ in running:
                job.cancel(check=False)
            if running:
                reporter.say(f"{self.cluster}: cancelled {len(running)} jobs; they go on from what they kept last")
            raise

    def _submit(
        self, batch: list[Experiment], group: str | None, reporter: Reporter
    ) -> list[tuple["submitit.Job[Any]", Experiment]]:
        jobs = self._engine(batch[0]).map_array(Task(), [Job.of(experiment, group) for experiment in batch])
        reporter.say(f"{self.cluster}: submitted {', '.join(job.job_id for job in jobs)}")
        return list(zip(jobs, batch, strict=True))

    def _engine(self, experiment: Experiment) -> "submitit.Executor":
        import submitit

        folder = Path(experiment.paths.folder.absolute()) / "logs" / "slurm"
        engine = submitit.AutoExecutor(folder=folder, cluster=self.cluster, slurm_max_num_timeout=MOST_TIMEOUTS)
        common = {
            "timeout_min": self.minutes,
            "gpus_per_node": self.gpus,
            "cpus_per_task": self.cpus,
            "mem_gb": self.memory_gb,
            "name": "nowag-exp",
        }
        on_slurm = {"slurm_array_parallelism": self.parallel, "slurm_additional_parameters": self.parameters}
        engine.update_parameters(**common, **(on_slurm if self.cluster == "slurm" else {}))
        return engine


def _outcome(job: "submitit.Job[Any]", experiment: Experiment) -> Outcome:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        return ended(experiment, job.result())
    except (FailedJobError, UncompletedJobError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return crashed(experiment, f"{lines[0] if lines else one_line(error)} (see {job.paths.stderr})")
