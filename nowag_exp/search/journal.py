"""The journal of a search: which settings were tried, shared by all processes that work on it, and kept for the next.

Optuna keeps it: a file of one JSON object a line, appended to under a lock. Here is what it leaves open: whose trial it
is, which trials a dead process left unfinished, and the same suggestions from a resumed search as from one that never
stopped.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from nowag_exp.errors import RequestError
from nowag_exp.files import file_lock, is_locked

try:
    import optuna
    from optuna.samplers import BaseSampler, RandomSampler, TPESampler
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise RequestError(
        "a search needs optuna, which is not installed; run: pip install 'nowag-exp[sweep]' (from a checkout: "
        "pip install '.[sweep]')"
    ) from error

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
MOST_WORKERS = 1000

WORKER, TWIN = "worker", "equal_to"
"""Of a trial: which process runs it, and which one it is over again."""

AGAIN = "tried_again"
"""Of the study: numbers of the trials that were left unfinished, and are tried again under other numbers."""


class Journal:
    """One study.

    Args:
        path: of the file.
        minimise: whether less is better.
        distributions: what a trial chooses, by key.
        sampler: ``tpe`` or ``random``.
        seed: of the sampler.

    Raises:
        RequestError: if the file is damaged.
    """

    def __init__(self, path: Path, minimise: bool, distributions: Mapping[str, Any], sampler: str, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.path, self._distributions = path, dict(distributions)
        self.lock = file_lock(path)
        self._worker: tuple[int, FileLock] | None = None
        self._asked: dict[int, optuna.Trial] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.lock:
                self._study = optuna.create_study(
                    storage=JournalStorage(JournalFileBackend(str(path), _AppendLock(path))),
                    study_name=path.stem,
                    direction="minimize" if minimise else "maximize",
                    sampler=_Repeatable(sampler, seed),
                    load_if_exists=True,
                )
        except (ValueError, KeyError) as error:
            raise RequestError(
                f"{path}: is damaged ({error}); remove it: what is recorded costs nothing when it is tried again"
            ) from error

    @contextmanager
    def working(self) -> Iterator[None]:
        """Take part in the search while the body runs; first, what dead processes left or failed at is put up again."""
        with self.lock:
            self.put_up_abandoned(failed=True)
            self._worker = self._free_worker()
        try:
            yield
        finally:
            self._worker[1].release()

    def trials(self) -> list[FrozenTrial]:
        """All of them, but for those that are tried again under another number."""
        again = set(self._study.user_attrs.get(AGAIN, []))
        return [trial for trial in self._study.get_trials(deepcopy=False) if trial.number not in again]

    def ask(self) -> FrozenTrial:
        """The next suggestion, marked as this process's."""
        assert self._worker is not None, "ask only while working"
        trial = self._study.ask(self._distributions)
        self._asked[trial.number] = trial
        trial.set_user_attr(WORKER, self._worker[0])
        return self.trial(trial.number)

    def trial(self, number: int) -> FrozenTrial:
        """One trial as it stands."""
        return self._study.get_trials(deepcopy=False)[number]

    def suggest(self, params: Mapping[str, Any]) -> None:
        """Make this the next suggestion."""
        self._study.enqueue_trial(dict(params))

    def note(self, number: int, **attributes: Any) -> None:
        """Write down what is known of a trial that this process asked for, before it is told how it ended."""
        for name, value in attributes.items():
            self._asked[number].set_user_attr(name, value)

    def tell_value(self, number: int, value: float) -> None:
        """It has run, and this came out."""
        self._study.tell(number, value)

    def tell_unfit(self, number: int, reason: str) -> None:
        """It was not run, for this reason; the sampler learns to leave its neighbourhood alone."""
        self.note(number, reason=reason)
        self._study.tell(number, state=TrialState.PRUNED)

    def tell_failed(self, number: int, reason: str) -> None:
        """It failed, or was not run since it is another one over again; the sampler learns nothing."""
        self.note(number, reason=reason)
        self._study.tell(number, state=TrialState.FAIL)

    def put_up_abandoned(self, failed: bool) -> None:
        """Try again what was running in a process that is no more, and if asked what failed in one."""
        states = (TrialState.RUNNING, TrialState.FAIL) if failed else (TrialState.RUNNING,)
        with self.lock:
            self._put_up_again([trial for trial in self.trials() if trial.state in states and self._is_lost(trial)])

    def put_up_again(self, numbers: Sequence[int]) -> None:
        """Try finished trials again, under other numbers."""
        with self.lock:
            self._put_up_again([trial for trial in self.trials() if trial.number in numbers])

    def _put_up_again(self, trials: Sequence[FrozenTrial]) -> None:
        if not trials:
            return
        again = [*self._study.user_attrs.get(AGAIN, []), *(trial.number for trial in trials)]
        self._study.set_user_attr(AGAIN, again)
        for trial in trials:
            if trial.state not in FINISHED:
                self._study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                self._study.enqueue_trial(trial.params)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        """Whether it was run by a process that is no more."""
        if TWIN in trial.user_attrs:
            return False  # It was not run.
        worker = trial.user_attrs.get(WORKER)
        return worker is None or not self._is_alive(worker)

    def _is_alive(self, worker: int) -> bool:
        is_this_one = self._worker is not None and worker == self._worker[0]
        return is_this_one or is_locked(self._worker_path(worker))

    def _free_worker(self) -> tuple[int, FileLock]:
        for worker in range(MOST_WORKERS):
            lock = file_lock(self._worker_path(worker))
            try:
                lock.acquire(timeout=0)
                return worker, lock
            except Timeout:
                continue
        raise RequestError(f"{self.path}: {MOST_WORKERS} processes work on this search; start no more")

    def _worker_path(self, worker: int) -> Path:
        return self.path.with_suffix(f".worker{worker}")


class _AppendLock:
    """Optuna's own locks are files that a killed process leaves behind; this one the system frees."""

    def __init__(self, path: Path) -> None:
        self._lock = file_lock(path.with_suffix(".append"))

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


class _Repeatable(BaseSampler):
    """A sampler whose generator starts anew with each trial.

    Its seed follows from that of the search and from how many trials came before, those that are tried again left out.
    So one process that is resumed suggests what it would have suggested without the interruption. Several at once do
    not: what is suggested depends on what has ended by then.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._name, self._seed = name, seed
        self._now: BaseSampler = RandomSampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        again = study.user_attrs.get(AGAIN, [])
        rank = trial.number - sum(number < trial.number for number in again)
        seed = int(np.random.SeedSequence([self._seed % 2**32, rank]).generate_state(1)[0])
        self._now = TPESampler(seed=seed) if self._name == "tpe" else RandomSampler(seed=seed)
        self._now.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return self._now.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        return self._now.sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        return self._now.sample_independent(study, trial, name, distribution)
