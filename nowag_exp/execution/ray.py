"""Ray Core: a cluster that runs already, or one made of this machine."""

import os
import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from nowag_exp import interrupt
from nowag_exp.config import Experiment
from nowag_exp.engines.ray import connect
from nowag_exp.errors import RequestError
from nowag_exp.execution.base import INSTEAD, Executor, crashed, ended, free_first
from nowag_exp.execution.job import Job, run_job
from nowag_exp.experiment import Workbench
from nowag_exp.extras import require
from nowag_exp.files import CACHE_VARIABLE
from nowag_exp.progress import Reporter
from nowag_exp.runner import Outcome
from nowag_exp.settings import settings

if TYPE_CHECKING:
    import ray

POLL = 0.2
PASSED_ON = (CACHE_VARIABLE, "HF_HOME", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
"""Environment of this process that jobs need as well, to find what it found."""

REACHABLE = 5.0
"""Seconds that a cluster has to answer before it counts as unreachable."""


@settings
class Ray(Executor):
    """Runs each job as a Ray task in a process of its own; Ray places it, and starts it again if its machine is lost.

    Results must be on a file system that all nodes share, and the same versions installed on them.

    Attributes:
        address: of a running cluster, ``HOST:PORT``; ``auto`` for the one of this machine; ``null`` starts one here.
        cpus: of a job.
        gpus: of a job; ``null`` for one where the cluster has GPUs. Ray shows a job no others.
        retries: how often Ray starts a job again whose process or node was lost; it goes on where it stopped.
    """

    name: str
    address: str | None
    cpus: float
    gpus: float | None
    retries: int

    def __post_init__(self) -> None:
        if self.cpus <= 0:
            raise ValueError(f"cpus: must be more than 0; got {self.cpus:g}")
        if self.gpus is not None and self.gpus < 0:
            raise ValueError(f"gpus: must be 0 or more, or null for one where there are any; got {self.gpus:g}")
        if self.retries < 0:
            raise ValueError(f"retries: must be 0 or more; got {self.retries}")

    def check(self) -> None:
        require("ray", f"executor={self.name}", INSTEAD)
        if self.address is None or self.address == "auto":
            return
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        try:
            if not host:
                raise ValueError("it has no port")
            socket.create_connection((host, int(port)), timeout=REACHABLE).close()
        except (OSError, ValueError) as error:
            raise RequestError(
                f"executor.address={self.address}: no Ray cluster answers there ({error}); give the HOST:PORT that "
                "'ray start --head' printed, or leave it out to start one on this machine"
            ) from error

    def run(
        self, experiments: Iterable[Experiment], bench: Workbench, reporter: Reporter, group: str | None
    ) -> Iterator[Outcome]:
        import ray

        was_connected = ray.is_initialized()
        os.environ.setdefault("RAY_task_oom_retries", str(self.retries))
        connect(self.address, f"executor.address={self.address}")
        try:
            yield from self._run(free_first(experiments), group)
        finally:
            if not was_connected:
                ray.shutdown()

    def _run(self, experiments: Iterator[Experiment], group: str | None) -> Iterator[Outcome]:
        import ray

        cluster = ray.cluster_resources()
        gpus = self.gpus if self.gpus is not None else float(cluster.get("GPU", 0) > 0)
        room = int(cluster.get("CPU", 1) // self.cpus)
        if gpus:
            room = min(room, int(cluster.get("GPU", 0) // gpus))
        if room < 1:
            raise RequestError(
                f"executor: a job asks for {self.cpus:g} CPUs and {gpus:g} GPUs, but the cluster has "
                f"{cluster.get('CPU', 0):g} and {cluster.get('GPU', 0):g}; set executor.cpus and executor.gpus"
            )
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        task = ray.remote(
            num_cpus=self.cpus,
            num_gpus=gpus,
            max_calls=1,  # A process a job.
            max_retries=self.retries,
            runtime_env={"env_vars": {**environment, "OMP_NUM_THREADS": str(max(1, int(self.cpus)))}},
        )(run_job)
        running: dict[ray.ObjectRef, Experiment] = {}
        try:
            while True:
                while len(running) < room and (experiment := next(experiments, None)) is not None:
                    running[task.remote(Job.of(experiment, group))] = experiment
                if not running:
                    return
                done, _ = ray.wait(list(running), num_returns=1, timeout=POLL)
                interrupt.check()
                for reference in done:
                    yield _outcome(running.pop(reference), reference)
        except BaseException:
            _stop(running)
            raise


def _outcome(experiment: Experiment, reference: Any) -> Outcome:
    import ray

    try:
        return ended(experiment, ray.get(reference))
    except ray.exceptions.OutOfMemoryError:
        return crashed(
            experiment, "Ray killed it because its machine ran out of memory; raise executor.cpus, or threads"
        )
    except ray.exceptions.RayError as error:
        return crashed(experiment, next(iter(str(error).splitlines()), type(error).__name__))


def _stop(running: "dict[ray.ObjectRef, Experiment]") -> None:
    """Ask the jobs to stop after their current blocks, and wait for that; a second Ctrl-C ends them."""
    import ray

    for reference in running:
        ray.cancel(reference, force=False)
    try:
        ray.wait(list(running), num_returns=len(running)) if running else None
    except KeyboardInterrupt:
        for reference in running:
            ray.cancel(reference, force=True)
