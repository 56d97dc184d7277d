"""The ``nowag-exp`` command. Nothing heavy is imported before a verb needs it.

Exit codes: 0 done; 1 a job failed; 2 the request is wrong, nothing of it was started; 130 interrupted; 141 nobody
reads the output any more, as of ``nowag-exp table | head``.
"""

import argparse
import io
import os
import select
import sys
from collections.abc import Callable

from nowag_exp import interrupt, verbs
from nowag_exp.errors import report
from nowag_exp.layout import groups, sweeps

DESCRIPTION = "What does compression method M do to model X, under protocol P, and how sure are we?"
INTERRUPTED = 130
NOT_READ = 141
"""What shells give for a program that SIGPIPE ended."""


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code; every error is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        # The Windows console and LANG=C cannot write "±": a "?" there is no reason for a finished job to fail.
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")
    try:
        return _flushed(_main(list(sys.argv[1:] if argv is None else argv)))
    except SystemExit as end:  # argparse's, after help or a wrong argument.
        raise SystemExit(_flushed(int(end.code or 0))) from None


def _main(arguments: list[str]) -> int:
    if "--quiet" in arguments:  # Of every verb, also of `run`, whose arguments are Hydra's.
        arguments.remove("--quiet")
        _silence()
    parser = build_parser()
    # Hydra's own flags (--cfg, --info, --multirun, ...) are not ours to parse: all of `run` goes to Hydra.
    if arguments[:1] == ["run"] and not {"-h", "--help"} & set(arguments):
        return _guarded(lambda: verbs.modules()["run"].main(arguments[1:]))
    if not arguments:
        parser.print_help()
        return 2
    options, strange = parser.parse_known_args(arguments)
    if strange:
        hint = "; options come after all NAME and KEY=VALUE" if not strange[0].startswith("-") else ""
        parser.exit(
            2, f"nowag-exp {arguments[0]}: {strange[0]}: no such argument{hint}; see nowag-exp {arguments[0]} -h\n"
        )
    return _guarded(lambda: options.verb(options))


def build_parser() -> argparse.ArgumentParser:
    """Parser of all verbs; the config groups are listed only when help is printed."""
    parser = _Parser(prog="nowag-exp", description=DESCRIPTION)
    known = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, module in verbs.modules().items():
        verb = known.add_parser(name, help=module.HELP, epilog=module.EPILOG)
        module.add_arguments(verb)
        verb.add_argument("--quiet", action="store_true", help="no progress, only results and errors")
        verb.set_defaults(verb=module.main)
    return parser


class _Parser(argparse.ArgumentParser):
    """Help that ends with the config groups; errors in one line."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def format_help(self) -> str:
        return f"{super().format_help()}\n{describe_groups()}"

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def describe_groups() -> str:
    """Config groups, options and sweeps, one line each. Reads the first lines of the YAML files and nothing else."""
    lines = ["config groups (GROUP=OPTION):"]
    for group, options in groups().items():
        lines.append(f"  {group}")
        lines += [f"    {name:<14} {headline}" for name, headline in options.items()]
    lines.append("sweeps:")
    lines += [f"    {name:<14} {headline}" for name, headline in sweeps().items()]
    return "\n".join(lines) + "\n"


def _silence() -> None:
    from nowag_exp import progress

    progress.silence()


def _guarded(verb: Callable[[], int]) -> int:
    try:
        with interrupt.noticed():
            return verb()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError as error:  # Of stdout, or of a connection to a worker.
        return report(error) if _is_read() else NOT_READ
    except Exception as error:
        return report(error)


def _is_read() -> bool:
    """Whether anybody may read stdout."""
    try:
        ends = select.poll()
        ends.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError):  # Where there is no poll or no stdout, or it is no file.
        return True
    return not any(events & (select.POLLERR | select.POLLHUP) for _, events in ends.poll(0))


def _flushed(code: int) -> int:
    """The exit code, once all output is out; the interpreter would end with a traceback where it cannot be written."""
    try:
        print(end="", flush=True)  # Not sys.stdout.flush(): there is no stdout after >&-
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # What is left of it goes there at the end.
        if isinstance(error, BrokenPipeError):
            return NOT_READ
        print(f"error: stdout: cannot be written ({error.strerror}); send it elsewhere", file=sys.stderr)
        return code or 1
    return code


if __name__ == "__main__":
    sys.exit(main())
