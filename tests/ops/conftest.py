"""The twins of an operation's kernels; those for GPUs are interpreted."""

from importlib import import_module
from types import ModuleType

import pytest


@pytest.fixture(params=["for the CPU", "triton", "reference"])
def kernels(request: pytest.FixtureRequest) -> ModuleType:
    """Each module with the kernels of ``OPERATION``, which the test's module names."""
    from nowag_exp.ops.kernels.choice import ON_CPU

    operation = request.module.OPERATION
    if request.param == "triton":
        pytest.importorskip("triton")
    made_with = ON_CPU[operation] if request.param == "for the CPU" else request.param
    return import_module(f"nowag_exp.ops.kernels.{operation}_{made_with}")
