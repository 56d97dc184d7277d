"""Engines that run the experiments of a sweep; each a thin adapter over one that exists."""

from nowag_exp.compose import EXECUTION_NAME, compose
from nowag_exp.config import build
from nowag_exp.execution.base import Executor
from nowag_exp.execution.driver import run_all
from nowag_exp.execution.inline import Inline
from nowag_exp.execution.processes import Processes
from nowag_exp.execution.ray import Ray
from nowag_exp.execution.slurm import Slurm

__all__ = ["Executor", "Inline", "Processes", "Ray", "Slurm", "build_executor", "run_all"]


def build_executor(overrides: list[str]) -> Executor:
    """The executor that ``executor=NAME`` and ``executor.KEY=VALUE`` ask for, checked.

    Raises:
        ConfigError: if there is no such executor or setting.
        RequestError: if its engine cannot be used here.
    """
    executor = build(compose(overrides, EXECUTION_NAME)["executor"], "executor", Executor)  # type: ignore[type-abstract]
    executor.check()
    return executor
