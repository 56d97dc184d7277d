"""The process of one job: ``python -m nowag_exp.execution.worker``.

Reads the job as one line of JSON from stdin and answers with one line of JSON on stdout; whatever else is printed goes
to stderr, which is the job's log. The end of stdin, also that of a parent which was killed, asks to stop after the
current block.
"""

import faulthandler
import json
import os
import sys
import threading


def main() -> int:
    """Run the job; the exit code is 0 if it has ended, well or not."""
    from nowag_exp import interrupt
    from nowag_exp.execution.job import STOPPED, Job, run_job

    faulthandler.enable()  # A segmentation fault leaves its traceback in the log.
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    job = Job(**json.loads(sys.stdin.readline()))

    def stop_with_parent() -> None:
        sys.stdin.read()
        interrupt.request()

    threading.Thread(target=stop_with_parent, daemon=True).start()
    try:
        failure = run_job(job)
    except KeyboardInterrupt:
        return STOPPED
    answer.write(json.dumps({"failure": failure}))
    answer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
