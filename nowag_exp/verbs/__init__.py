"""The verbs of the ``nowag-exp`` command, a module each.

A verb is a module with ``HELP`` (one line), ``EPILOG`` (an example), ``add_arguments(parser)`` and ``main(options)``,
which returns the exit code. All of them are imported to print help, so what is heavy is imported inside functions.
"""

import importlib
from types import ModuleType

NAMES = (
    "run",
    "sweep",
    "plan",
    "reproduce",
    "table",
    "report",
    "compare",
    "explain",
    "track",
    "fetch",
    "export",
)
"""In the order of the help."""


def modules() -> dict[str, ModuleType]:
    """All verbs by name."""
    return {name: importlib.import_module(f"{__name__}.{name}") for name in NAMES}
