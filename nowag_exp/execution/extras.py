"""Engines that are not installed with the package."""

import importlib.util

from nowag_exp.errors import RequestError


def require(module: str, executor: str) -> None:
    """Check that an engine is installed.

    Raises:
        RequestError: naming the extra that brings it.
    """
    if importlib.util.find_spec(module) is None:
        raise RequestError(
            f"executor={executor}: needs {module}, which is not installed; run: pip install 'nowag-exp[sweep]' (in a "
            "checkout: pip install '.[sweep]'), or use executor=inline or executor=processes"
        )
