"""A process a job on this machine, started afresh, so that a crash or a leak is the job's own."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict
from queue import SimpleQueue

import torch

from nowag_exp import interrupt
from nowag_exp.config import Experiment
from nowag_exp.errors import RequestError
from nowag_exp.execution.base import Executor, crashed, ended, free_first
from nowag_exp.execution.job import STOPPED, Job
from nowag_exp.experiment import DEFAULT_THREADS, Workbench
from nowag_exp.progress import Reporter
from nowag_exp.runner import Outcome, log_file_of
from nowag_exp.settings import settings

POLL = 0.2
"""Seconds between two looks at whether somebody asked to stop."""


@settings
class Processes(Executor):
    """Runs each job in a process of its own, started by ``subprocess``; each has a GPU to itself where there are any.

    Attributes:
        workers: jobs at a time; ``null`` for one a GPU, or one where there is none.
    """

    name: str
    workers: int | None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers: must be at least 1, or null for one a GPU; got {self.workers}")

    def check(self) -> None:
        n_gpus = len(_gpus())
        if n_gpus and self.workers is not None and self.workers > n_gpus:
            raise RequestError(
                f"executor.workers={self.workers}: each job has a GPU to itself, and there are {n_gpus}; set at most "
                f"{n_gpus}, or hide the GPUs (CUDA_VISIBLE_DEVICES=)"
            )

    def run(
        self, experiments: Iterable[Experiment], bench: Workbench, reporter: Reporter, group: str | None
    ) -> Iterator[Outcome]:
        gpus = _gpus()
        n_workers = self.workers or max(1, len(gpus))
        places: SimpleQueue[dict[str, str]] = SimpleQueue()
        for number in range(n_workers):
            places.put(_environment(gpus[number] if gpus else None, n_workers))
        waiting = free_first(experiments)
        running: dict[Future[Outcome], _Process] = {}
        with ThreadPoolExecutor(n_workers) as threads:
            try:
                while True:
                    while len(running) < n_workers and (experiment := next(waiting, None)) is not None:
                        process = _Process(experiment, group, places)
                        running[threads.submit(process.run)] = process
                    if not running:
                        return
                    done, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
                    interrupt.check()
                    for future in done:
                        del running[future]
                        yield future.result()
            except BaseException:
                for process in running.values():
                    process.stop()
                try:
                    wait(running)
                except KeyboardInterrupt:  # Asked a second time.
                    for process in running.values():
                        process.kill()
                raise


class _Process:
    """One job: started, waited for, and its place given back."""

    def __init__(self, experiment: Experiment, group: str | None, places: "SimpleQueue[dict[str, str]]") -> None:
        self.experiment, self.places = experiment, places
        self.job = Job.of(experiment, group)
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def run(self) -> Outcome:
        """Start it and wait for its end; that this cannot be done is an outcome too."""
        try:
            code, answer = self._run()
        except OSError as error:
            return crashed(self.experiment, f"it could not be started ({error})")
        if code:
            return crashed(self.experiment, _reason(code))
        try:
            return ended(self.experiment, json.loads(answer)["failure"])
        except ValueError:
            return crashed(self.experiment, "it ended without an answer; something in it called exit")

    def _run(self) -> tuple[int, str]:
        log_file, place = log_file_of(self.experiment), self.places.get()
        log_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log_file.open("a", encoding="utf-8") as log:
                # A session of its own: Ctrl-C is for this process, which asks the job to stop once.
                process = self._process = subprocess.Popen(
                    [sys.executable, "-m", "nowag_exp.execution.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env={**os.environ, **place},
                    start_new_session=True,
                )
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError, ValueError):  # It died at once, or was stopped: its exit code says which.
                process.stdin.write(json.dumps(asdict(self.job)) + "\n")
                process.stdin.flush()
            if self._stopped:
                self.stop()
            with process.stdout:
                answer = process.stdout.read()
            code = process.wait()
            self.stop()
        finally:
            self.places.put(place)
        return code, answer

    def stop(self) -> None:
        """Ask it to stop after the current block, and wait for that."""
        self._stopped = True
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def kill(self) -> None:
        """End it now."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()


def _reason(code: int) -> str:
    if code == STOPPED:
        return "it was stopped"
    if code == -signal.SIGKILL:
        return "killed (SIGKILL), by the system if memory ran out"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` has them."""
    if not torch.cuda.is_available():
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    names = [name.strip() for name in chosen.split(",")]
    return list(itertools.takewhile(lambda name: name and not name.startswith("-"), names))  # As CUDA reads it.


def _environment(gpu: str | None, n_workers: int) -> dict[str, str]:
    """What a worker's process has that this one has not: one GPU, and its share of the cores."""
    threads = max(1, DEFAULT_THREADS // n_workers)
    return {"CUDA_VISIBLE_DEVICES": gpu or "", "OMP_NUM_THREADS": str(threads)}
