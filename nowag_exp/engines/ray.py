"""The nodes of a Ray cluster."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from nowag_exp.engines.base import Engine, in_order
from nowag_exp.engines.site import Done, SiteJob, SiteResult, compress_detached
from nowag_exp.errors import NowagError, RequestError, one_line
from nowag_exp.extras import require
from nowag_exp.methods.base import Method
from nowag_exp.ops.kernels.choice import Kernels, in_use, use

if TYPE_CHECKING:
    import ray

CPU = torch.device("cpu")


class Room(NamedTuple):
    """What a site is given.

    Attributes:
        n_workers: sites that the cluster has room for at a time.
        cpus: of each.
        gpus: of each, 0 or 1.
    """

    n_workers: int
    cpus: float
    gpus: int


class Ray(Engine):
    """A task a site. Weights and statistics travel through Ray's object store, so nodes need no common file system.

    A site uses as many threads as torch has in this process, as their number may change last digits, and has so many
    CPUs to itself; with GPUs each has one. Ray starts a site again, up to 3 times, whose process or node was lost.

    ``RAY_ADDRESS`` names a cluster that runs; without it one is made of this machine, and ends with this process.

    Args:
        use_gpus: whether sites are compressed on the cluster's GPUs, where it has some.
    """

    def __init__(self, use_gpus: bool) -> None:
        self.use_gpus = use_gpus

    def check(self) -> None:
        require("ray", "runtime.engine=ray", "runtime.engine=local")

    def run(self, method: Method, jobs: Iterator[SiteJob]) -> Iterator[SiteResult]:
        self.check()
        import ray

        if not ray.is_initialized():
            connect(os.environ.get("RAY_ADDRESS"), "runtime.engine=ray")
        threads = torch.get_num_threads()
        room = self._room(threads)
        # max_calls: Ray would otherwise start a process for each site on a GPU, and import torch in it.
        task = ray.remote(num_cpus=room.cpus, num_gpus=room.gpus, max_calls=0)(_compress)
        sent: dict[ray.ObjectRef, tuple[str, torch.device]] = {}

        def start(job: SiteJob) -> "ray.ObjectRef":
            reference = task.remote(method, job.to(CPU), threads, in_use(), bool(room.gpus))
            sent[reference] = job.linears, job.device
            return reference

        def wait(reference: "ray.ObjectRef") -> Done:
            linears, device = sent[reference]
            done = _get(reference, linears)
            del sent[reference]
            return Done(done.result.to(device), done.factors)

        try:
            yield from in_order(method, jobs, room.n_workers, start, wait)
        finally:
            for reference in sent:
                ray.cancel(reference)

    def _room(self, threads: int) -> Room:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1] if self.use_gpus else []
        if with_gpus:
            cpus = min(node.get("CPU", 0) / node["GPU"] for node in with_gpus)
            return Room(sum(int(node["GPU"]) for node in with_gpus), min(threads, cpus), 1)
        n_workers = sum(int(node.get("CPU", 0) // threads) for node in nodes)
        if not n_workers:
            most = max(node.get("CPU", 0) for node in nodes)
            raise RequestError(
                f"runtime.engine=ray: a site takes {threads} CPUs, as many as torch has threads here, but the largest "
                f"node of the cluster has {most:g}; set runtime.threads={max(1, int(most))}"
            )
        return Room(n_workers, threads, 0)


def connect(address: str | None, setting: str) -> None:
    """Connect this process to a cluster.

    Args:
        address: of one that runs; ``None`` starts one on this machine.
        setting: what asks for it.

    Raises:
        RequestError: if it cannot be reached.
    """
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Its announced default; it warns otherwise.
    # Otherwise it starts what runs out of memory again and again, for ever.
    os.environ.setdefault("RAY_task_oom_retries", "3")
    # Without an address Ray would join whatever cluster somebody started on this machine last.
    where: dict[str, Any] = (
        {"address": "local", "include_dashboard": False} if address is None else {"address": address}
    )
    try:
        ray.init(**where, ignore_reinit_error=True, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RequestError(f"{setting}: Ray cannot be reached ({one_line(error)})") from error


def _compress(method: Method, job: SiteJob, threads: int, kernels: Kernels, on_gpu: bool) -> Done:
    """In a worker."""
    torch.set_num_threads(threads)
    use(kernels)
    return compress_detached(method, job, torch.device("cuda") if on_gpu else CPU)


def _get(reference: "ray.ObjectRef", linears: str) -> Done:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, NowagError):
            raise error.cause from error
        raise NowagError(f"{linears}: {one_line(error.cause)}") from error
    except ray.exceptions.RayError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise NowagError(f"{linears}: the process that compressed it was lost again and again ({reason})") from error
