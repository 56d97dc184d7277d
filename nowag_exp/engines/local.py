"""The GPUs of this process, or its one device."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import torch

from nowag_exp.engines.base import Engine, in_order
from nowag_exp.engines.site import Done, SiteJob, SiteResult, compress_detached, compress_site
from nowag_exp.methods.base import Method
from nowag_exp.ops.kernels.choice import computing_on


class Local(Engine):
    """One site after the other on one device; on several, a thread each.

    Args:
        devices: at least one.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.devices = list(devices)

    def run(self, method: Method, jobs: Iterator[SiteJob]) -> Iterator[SiteResult]:
        if len(self.devices) > 1:
            yield from self._spread(method, jobs)
            return
        for job in jobs:
            with computing_on(self.devices[0]):
                result = compress_site(method, job.to(self.devices[0])).to(job.device)
            yield result

    def _spread(self, method: Method, jobs: Iterator[SiteJob]) -> Iterator[SiteResult]:
        free: SimpleQueue[torch.device] = SimpleQueue()
        for device in self.devices:
            free.put(device)

        def work(job: SiteJob) -> Done:
            device = free.get()
            try:
                # Each thread has a current device of its own.
                with computing_on(device):
                    return compress_detached(method, job, device)
            finally:
                free.put(device)

        pool = ThreadPoolExecutor(len(self.devices), thread_name_prefix="site")
        try:
            yield from in_order(method, jobs, len(self.devices), lambda job: pool.submit(work, job), Future.result)
        finally:
            pool.shutdown(cancel_futures=True)
