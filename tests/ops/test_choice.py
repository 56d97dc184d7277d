import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from nowag_exp.ops.kernels import choice
from nowag_exp.ops.kernels.choice import ON_CPU, kernels_for, use
from nowag_exp.ops.masks import unstructured_mask

CPU, CUDA, OTHER = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    use("auto")


@pytest.mark.parametrize("operation", ON_CPU)
def test_kernels_are_those_of_the_device_or_the_plain_ones_if_asked_for(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def module(device: torch.device) -> str:
        return kernels_for(operation, device).__name__.removeprefix("nowag_exp.ops.kernels.")

    plain = f"{operation}_reference"
    assert module(CPU) == f"{operation}_{ON_CPU[operation]}"
    assert module(OTHER) == plain
    monkeypatch.setattr(choice, "_triton_is_installed", lambda: False)
    assert module(CUDA) == plain
    use("reference")
    assert {module(device) for device in (CPU, CUDA, OTHER)} == {plain}
    use("auto")
    assert module(CPU) != plain


@pytest.mark.parametrize("operation", ON_CPU)
def test_triton_is_for_cuda(operation: str) -> None:
    pytest.importorskip("triton")
    assert kernels_for(operation, CUDA).__name__ == f"nowag_exp.ops.kernels.{operation}_triton"


def test_the_plain_kernels_are_what_operations_then_use() -> None:
    scores = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    compiled = unstructured_mask(scores, 0.5)
    use("reference")
    assert torch.equal(unstructured_mask(scores, 0.5).mask, compiled.mask)


def test_no_compiler_is_imported_before_there_is_something_to_compile() -> None:
    code = (
        "import sys, torch\nimport nowag_exp.ops.kmeans, nowag_exp.ops.solver, nowag_exp.ops.masks\n"
        "import nowag_exp.formats\nassert not {'numba', 'triton'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
