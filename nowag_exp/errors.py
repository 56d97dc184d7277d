"""Errors a user can act on.

Every message is one line that says what is wrong, where (full config key, linear's name or file), what would be
right, and what to do. The traceback goes to the log only.
"""

import errno
import re
import sys
import tempfile
import traceback

LONGEST = 1000
"""Characters of a problem that is told; values and the messages of libraries may be of any length."""


def one_line(error: Exception) -> str:
    """What an error says, in one line; with its class and no longer than can be read, unless it is one of ours."""
    if isinstance(error, NowagError):
        return " ".join(str(error).split())
    return _shortened(" ".join(f"{type(error).__name__}: {without_userinfo(str(error))}".split()))


def without_userinfo(text: str) -> str:
    """Text whose URLs lack ``USER:PASSWORD@``: libraries repeat the URL that the environment gave them."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", text)


def _shortened(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 4]} ..."


class NowagError(Exception):
    """An experiment failed for a reason we can name.

    Args:
        message: one line; it may repeat what a library says.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(without_userinfo(message))


class RequestError(NowagError):
    """What was asked for cannot be done as asked; found before any work."""

    exit_code = 2


class ConfigError(RequestError):
    """One or more config values are wrong; all of them are reported at once.

    Args:
        problems: one line each, opening with the full config key.
    """

    def __init__(self, problems: list[str]) -> None:
        # A problem may repeat a value, with line breaks and of any length.
        texts = (" ".join(without_userinfo(problem).split()) for problem in problems)
        self.problems = [_shortened(text) for text in texts]
        super().__init__("; ".join(self.problems))


def report(error: Exception) -> int:
    """Print an error as one line (a line a problem); the traceback of one that has no name goes to a file.

    Returns:
        The exit code of the process.
    """
    if isinstance(error, NowagError):
        for line in getattr(error, "problems", [str(error)]):
            print(f"error: {' '.join(line.split())}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # Only the user's own words are so long.
        print(f"error: {_shortened(str(error.filename))}: {error.strerror}; choose a shorter one", file=sys.stderr)
        return RequestError.exit_code
    with tempfile.NamedTemporaryFile("w", prefix="nowag-exp-", suffix=".log", delete=False) as log:
        log.write(without_userinfo("".join(traceback.format_exception(error))))
    reason = " ".join(without_userinfo(str(error)).split())
    print(f"error: unexpected {type(error).__name__}: {reason} (traceback in {log.name})", file=sys.stderr)
    return 1
