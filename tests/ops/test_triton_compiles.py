"""The interpreter accepts what the compiler refuses: kernels for GPUs are compiled, too, without one."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver
from nowag_exp.ops.codebook import Packed
from nowag_exp.ops.kernels import codebook_triton, kmeans_triton, selection_triton, solver_triton
from nowag_exp.ops.packing import pack

class NoGPU:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)
    def get_current_device(self):
        return 0
    def get_current_stream(self, device):
        return 0

compiled = set()

def compile_only(kernel, grid):
    def launch(*arguments, **settings):
        assert kernel.warmup(*arguments, grid=grid, **settings).asm["cubin"]
        compiled.add(kernel.__name__)
    return launch

driver.set_active(NoGPU())
JITFunction.__getitem__ = compile_only

values, weights, codewords = torch.zeros(3, 20, 2), torch.zeros(3, 2), torch.zeros(7, 2)
assignments = torch.zeros(3, 20, dtype=torch.int32)
kmeans_triton.assign(values, weights, codewords)
kmeans_triton.update(values, weights, assignments, codewords)
kmeans_triton.plus_plus(values, weights, torch.zeros(2, dtype=torch.float64))
for norms in ((torch.ones(4).half(), torch.ones(9).half()), (None, None)):
    weight = Packed(4, 9, 5, pack(torch.zeros(20, dtype=torch.int32), 5), torch.zeros(32, 2).half(), *norms)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        codebook_triton.dense(weight, dtype)
        for n in (1, 5):
            codebook_triton.product(weight, torch.zeros(n, 9, dtype=dtype))
for n in (50, selection_triton.LONGEST_HELD + 1):
    selection_triton.kth_highest(torch.zeros(2, n), 3)
w, mask, factor, group = torch.zeros(9, 8), torch.ones(9, 8).bool(), torch.eye(8), torch.zeros(8, dtype=torch.int64)
for n_of_m, n_groups in ((None, 1), ((2, 4), 0)):
    scales, zeros = torch.ones(9, n_groups), torch.zeros(9, n_groups, dtype=torch.uint8)
    solver_triton.run_segment(w, factor, mask, n_of_m, scales, zeros, group, 15)
for module in (codebook_triton, kmeans_triton, selection_triton, solver_triton):
    launched = {name for name, kernel in vars(module).items() if isinstance(kernel, JITFunction)}
    print(module.__name__, sorted(launched - compiled))
"""

CALLED_BY_OTHERS = {
    "codebook": ["_index"],
    "kmeans": ["_passing"],
    "selection": ["_ordered", "_original"],
    "solver": [],
}


def test_every_kernel_compiles_for_an_h100(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("triton")
    cache = tmp_path_factory.mktemp("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    not_launched = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    expected = {f"nowag_exp.ops.kernels.{name}_triton": str(names) for name, names in CALLED_BY_OTHERS.items()}
    assert not_launched == expected
