"""Which kernels compute: those compiled for the device, or their plain torch twins.

The twins of an operation are modules with the same functions. ``<operation>_reference`` is in plain torch, runs on any
device, and says what the functions compute; the compiled ones are tested against it.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

import torch

Kernels = Literal["auto", "reference"]

ON_CPU = {"kmeans": "numba", "solver": "numba", "codebook": "numba", "selection": "numpy"}
"""By operation: what its kernels for the CPU are made with. Those for CUDA are in Triton."""

_in_use: Kernels = "auto"


def use(kernels: Kernels) -> None:
    """Set the kernels of this process: compiled ones where there are some, or the plain twins everywhere."""
    global _in_use
    _in_use = kernels


def in_use() -> Kernels:
    """What :func:`use` set, for processes that work for this one."""
    return _in_use


def kernels_for(operation: str, device: torch.device) -> ModuleType:
    """Import the kernels of an operation for a device. Compilers are imported only here: each takes half a second."""
    made_with = "reference"
    if _in_use == "auto" and device.type == "cpu":
        made_with = ON_CPU[operation]
    elif _in_use == "auto" and device.type == "cuda" and _triton_is_installed():
        made_with = "triton"
    return import_module(f"nowag_exp.ops.kernels.{operation}_{made_with}")


def computing_on(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one while the body runs: Triton launches there, whatever device the tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@cache
def _triton_is_installed() -> bool:
    return find_spec("triton") is not None
