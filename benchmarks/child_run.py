"""Run a command and print what it cost: ``python child_run.py REPORT COMMAND...``; imports next to nothing.

Linux counts the peak memory of a process from before it loads its program, when it is still a copy of its parent: under
a parent that holds a model the peak of any child is that of the model. This parent holds nothing.
"""

import os
import sys
import time

if __name__ == "__main__":
    start = time.perf_counter()
    _, status, usage = os.wait4(os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ), 0)
    seconds = time.perf_counter() - start
    with open(sys.argv[1], "w", encoding="ascii") as report:  # noqa: PTH123 - pathlib takes longer than this does
        print(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, file=report)
    sys.exit(os.waitstatus_to_exitcode(status) % 256)
