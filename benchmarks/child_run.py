"""Run a command and write down what it cost: ``python child_run.py REPORT COMMAND...``; imports next to nothing.

Linux counts the peak memory of a process from before it loads its program, when it is still a copy of its parent: under
a parent that holds a model the peak of any child is that of the model. This parent holds nothing. Nor does the count at
the end tell the peak of a process that sets it back on the way, as ours does at each stage: it is looked at all along.
"""

import os
import sys
import time

EVERY = 0.01
"""Seconds between two looks."""


def peak_kilobytes(process: int) -> int:
    """Highest resident memory since it was last set back; 0 without ``/proc``, or of a process that ended."""
    try:
        with open(f"/proc/{process}/status", encoding="ascii") as status:  # noqa: PTH123 - pathlib imports more
            return next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0


if __name__ == "__main__":
    start = time.perf_counter()
    child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
    peak = 0
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        peak = max(peak, peak_kilobytes(child))
        time.sleep(EVERY)
    seconds = time.perf_counter() - start
    with open(sys.argv[1], "w", encoding="ascii") as report:  # noqa: PTH123
        print(seconds, usage.ru_utime + usage.ru_stime, max(peak, usage.ru_maxrss), file=report)
    sys.exit(os.waitstatus_to_exitcode(status) % 256)
