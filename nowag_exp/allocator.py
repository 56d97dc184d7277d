"""Memory of this process: what becomes of what was freed, and whether there was none.

Left to itself, glibc gives the end of its heap back after each large tensor and takes it anew for the next one, and the
system fills every page with zeros again: a tenth of the time of a forward pass on a CPU. And it keeps the holes between
tensors of many sizes: a process that reads one block of a model after the other then holds more with every block.
Other C libraries are left as they are; tensors on a GPU have an allocator of their own.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt``: bytes at the end of the heap from which on they are given back; bytes of a piece from
which on it is mapped by itself, and given back when it is freed."""

KIB, MIB, GIB = 2**10, 2**20, 2**30


def keep_freed() -> None:
    """For a model that stays in memory: the next tensors are put where the last ones were."""
    _set(trim=GIB, apart=256 * MIB)


def give_back_freed() -> None:
    """For a model that is read block by block: the process holds what it uses, however deep the model is.

    It works for what is taken later; what is small and alive keeps the heap as long as it is now.
    """
    _set(trim=128 * KIB, apart=MIB)


def _set(trim: int, apart: int) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        # Before version 2.35 glibc takes no more than 32 MiB, and says so by 0.
        if not libc.mallopt(M_MMAP_THRESHOLD, apart):
            libc.mallopt(M_MMAP_THRESHOLD, 32 * MIB)
        libc.mallopt(M_TRIM_THRESHOLD, trim)
        libc.malloc_trim(0)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether it says that memory, of a GPU or of the machine, was too short."""
    from accelerate.utils.memory import should_reduce_batch_size

    return should_reduce_batch_size(error)


def free_cached() -> None:
    """Have torch let go of what it keeps on a GPU for the next tensors."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
