"""A forecast: each experiment taken apart, what is shared counted once, the rest priced."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from nowag_exp.config import Experiment
from nowag_exp.experiment import DEFAULT_THREADS, Workbench, choose_device, in_order, recorded
from nowag_exp.memory import device_bytes, hidden_bytes, host_bytes
from nowag_exp.models import Architecture
from nowag_exp.planning.checkpoint import checkpoint_bytes
from nowag_exp.planning.history import History
from nowag_exp.planning.pieces import Dissector, Piece
from nowag_exp.planning.prices import Prices
from nowag_exp.planning.unseen import download_bytes
from nowag_exp.records.provenance import provenance
from nowag_exp.records.record import load_records
from nowag_exp.records.store import Store
from nowag_exp.residence import is_streamed
from nowag_exp.text import HubText

Source = Literal["recorded", "measured", "both", "nothing to do", "unknown"]


@dataclass(frozen=True)
class JobForecast:
    """What one experiment will take.

    Attributes:
        recorded: whether there is a record of an equal one, so that nothing is computed; ``None`` if that cannot be
            told without a network.
        seconds: of what it computes itself, what an earlier one leaves for it not counted; ``None`` if unknown.
        source: where the seconds come from: costs of records, a measurement on this machine, or some from each.
        gpu_bytes: at the peak, where the model computes, a GPU or main memory.
        ram_bytes: at the peak, in main memory.
        disk_bytes: what it adds to the results folder, but for its record of some 100 kB.
    """

    experiment: Experiment
    recorded: bool | None
    seconds: float | None
    source: Source
    gpu_bytes: float
    ram_bytes: float
    disk_bytes: float


@dataclass(frozen=True)
class Shared:
    """Work that is done once for several experiments.

    Attributes:
        what: in words.
        n_jobs: experiments that are to run and need it.
        kept: whether the store has it already.
        seconds: ``None`` if unknown.
    """

    what: str
    n_jobs: int
    kept: bool
    seconds: float | None


@dataclass(frozen=True)
class Download:
    """What the hub must give first.

    Attributes:
        what: the model or data set.
        n_bytes: ``None`` if unknown.
        is_model: whether these are weights.
    """

    what: str
    n_bytes: float | None
    is_model: bool


@dataclass(frozen=True)
class Forecast:
    """What a list of experiments will take, one after the other.

    Attributes:
        jobs: in the order in which they run.
        shared: what several of them need, or the store has.
        downloads: what is not on this machine.
        device: where it was measured, in words.
    """

    jobs: list[JobForecast]
    shared: list[Shared]
    downloads: list[Download]
    device: str

    @property
    def seconds(self) -> float | None:
        """Of all jobs; ``None`` if that of one is unknown."""
        known = [job.seconds for job in self.jobs]
        return None if None in known else sum(filter(None, known))

    @property
    def gpu_bytes(self) -> float:
        """The most that one of the jobs to run needs."""
        return max((job.gpu_bytes for job in self.jobs if not job.recorded), default=0.0)

    @property
    def ram_bytes(self) -> float:
        """The most that one of the jobs to run needs."""
        return max((job.ram_bytes for job in self.jobs if not job.recorded), default=0.0)

    @property
    def disk_bytes(self) -> float:
        """Of all jobs."""
        return sum(job.disk_bytes for job in self.jobs)

    @property
    def weights_bytes(self) -> float:
        """Of all models that are to be downloaded."""
        return sum(download.n_bytes or 0.0 for download in self.downloads if download.is_model)


@functools.cache
def _prices(device: torch.device, threads: int) -> Prices:
    return Prices(device, threads)


def forecast(experiments: list[Experiment], results: Path, bench: Workbench | None = None) -> Forecast:
    """Say what experiments will take, without running any; nothing is asked of the hub but which commit a branch is.

    Args:
        experiments: need not be checked; their models and texts need not be on this machine.
        results: folder whose records and store are looked up.
        bench: what this process has loaded.

    Raises:
        RequestError: if a file that should be here is wrong, or a GPU is asked for that is not there.
    """
    return _Forecaster(results, bench or Workbench()).forecast(experiments)


class _Forecaster:
    def __init__(self, results: Path, bench: Workbench) -> None:
        self._results = results
        self._dissector = Dissector(bench, Store(results / "store"))
        self._records = load_records(results)
        self._histories: dict[tuple[str, int], History] = {}
        self._makers: dict[str, frozenset[str]] = {}
        self._shared: dict[frozenset[str], Shared] = {}

    def forecast(self, experiments: list[Experiment]) -> Forecast:
        ordered = in_order(experiments)
        jobs = [self._job(experiment) for experiment in ordered]
        found = [shared for shared in self._shared.values() if shared.n_jobs > 1 or shared.kept]
        to_run = [job.experiment for job in jobs if not job.recorded]
        return Forecast(jobs, found, self._downloads(to_run), self._describe(ordered))

    def _recorded(self, experiment: Experiment) -> bool | None:
        return recorded(experiment) is not None if self._dissector.resolves(experiment) else None

    def _job(self, experiment: Experiment) -> JobForecast:
        sizes = self._dissector.sizes(experiment)
        device = choose_device(experiment)
        gpu, ram = self._memory(experiment, sizes, device)
        known = self._recorded(experiment)
        if known:
            return JobForecast(experiment, True, 0.0, "nothing to do", gpu, ram, 0.0)
        history = self._history(experiment, device)
        total: float | None = 0.0
        disk = checkpoint_bytes(experiment, sizes) if experiment.checkpoint.save else 0.0
        sources: set[Source] = set()
        for piece in self._dissector.pieces(experiment):
            seconds, source = self._price(experiment, piece, history)
            if piece.keys and self._is_done(piece, seconds):
                continue
            disk += piece.disk_bytes
            total = None if total is None or seconds is None else total + seconds
            sources.add(source)
        source = "unknown" if total is None else "both" if len(sources) > 1 else sources.pop()
        return JobForecast(experiment, known, total, source, gpu, ram, disk)

    @staticmethod
    def _memory(experiment: Experiment, sizes: Architecture, device: torch.device) -> tuple[float, float]:
        """At the peak, where the model computes and in main memory; streamed if it has to be, on this machine."""
        text = experiment.calibration
        n_waiting = 0 if text is None else text.n_sequences * text.context_length
        streamed = is_streamed(experiment, sizes, device)
        ram = host_bytes(experiment, sizes, device.type == "cuda", streamed)
        return device_bytes(experiment, sizes, streamed), ram + hidden_bytes(experiment, sizes, n_waiting)

    def _is_done(self, piece: Piece, seconds: float | None) -> bool:
        """Whether a piece is kept or an earlier job leaves it; it is counted for who needs it."""
        done = piece.kept or piece.keys <= self._makers.keys()
        if not done:
            self._makers |= dict.fromkeys(piece.keys, piece.keys)
        # Second moments bring the diagonals with them, so a pass may serve a job that asked for less.
        maker = piece.keys if piece.kept else self._makers[min(piece.keys)]
        before = self._shared.get(maker, Shared(piece.what, 0, piece.kept, seconds))
        self._shared[maker] = replace(before, n_jobs=before.n_jobs + 1)
        return done

    def _price(self, experiment: Experiment, piece: Piece, history: History) -> tuple[float | None, Source]:
        if piece.work is None:
            return None, "unknown"
        estimated = history.price(piece.work)
        ratio = history.ratio(experiment, piece.stage)
        return (estimated, "measured") if ratio is None else (estimated * ratio, "recorded")

    def _history(self, experiment: Experiment, device: torch.device) -> History:
        threads = experiment.runtime.threads or DEFAULT_THREADS
        key = (str(device), threads)
        if key not in self._histories:
            here = {**provenance(device), "threads": threads}
            self._histories[key] = History(self._records, here, self._dissector, _prices(device, threads))
        return self._histories[key]

    def _downloads(self, experiments: list[Experiment]) -> list[Download]:
        found: dict[str, Download] = {}

        def add(what: str, n_bytes: float | None, is_model: bool = False) -> None:
            found.setdefault(what, Download(what, n_bytes, is_model))

        for experiment in experiments:
            if not self._dissector.is_here(experiment):
                # The weights on the hub are in 16 bits.
                add(f"model {experiment.model.label}", 2.0 * self._dissector.sizes(experiment).n_parameters, True)
            for text in experiment.texts.values():
                if isinstance(text, HubText) and not text.is_here():
                    files = text.files[0] if len(text.files) == 1 else f"{len(text.files)} files"
                    add(f"data set {text.repo}, {files}", download_bytes(text))
            for suite in experiment.evaluation.zero_shot:
                if not suite.is_here():
                    add(f"tasks of {suite.name}: {', '.join(suite.tasks)}", None)
        return list(found.values())

    def _describe(self, experiments: list[Experiment]) -> str:
        devices: dict[str, None] = {}
        for experiment in experiments:
            device = choose_device(experiment)
            threads = experiment.runtime.threads or DEFAULT_THREADS
            name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{threads} CPU threads"
            devices[name] = None
        return ", ".join(devices)
