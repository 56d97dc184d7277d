"""What is freed is kept or given back, as was asked for: seen in what the system says is resident."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from nowag_exp.allocator import give_back_freed, keep_freed

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20

def take_and_free():
    for size in (31, 17, 23):  # MB; several sizes, as the tensors of a block have.
        tensors = [torch.ones(size * 2**18) for _ in range(4)]
        small = [object() for _ in range(10_000)]
        del tensors

give_back_freed()
take_and_free()  # What torch itself takes when it is first used stays.
before = resident()
for step in (give_back_freed, take_and_free, keep_freed, take_and_free, give_back_freed):
    step()
    print(resident() - before)
"""


# Elsewhere the module does nothing, so there is nothing to hold it to.
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc: its allocator is left as it is")
def test_freed_memory_is_kept_for_a_loaded_model_and_given_back_for_a_streamed_one() -> None:
    printed = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    _, given_back, _, kept, given_back_at_last = (int(megabytes) for megabytes in printed.split())
    assert given_back < 10
    assert kept > 100  # Of the 124 MB that are alive at once.
    assert given_back_at_last < 10
