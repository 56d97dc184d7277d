"""Packages that are not installed with ours."""

import importlib.util

from nowag_exp.errors import RequestError


def require(module: str, setting: str, instead: str) -> None:
    """Check that a package is installed.

    Args:
        module: of the package.
        setting: that asks for it, ``executor=ray``.
        instead: what works without it.

    Raises:
        RequestError: naming the extra that brings it.
    """
    if importlib.util.find_spec(module) is None:
        raise RequestError(
            f"{setting}: needs {module}, which is not installed; run: pip install 'nowag-exp[sweep]' (in a checkout: "
            f"pip install '.[sweep]'), or use {instead}"
        )
