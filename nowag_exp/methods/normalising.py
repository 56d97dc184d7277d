"""What NoWag-P and NoWag-VQ share: the setting that says by which norms a weight is divided."""

from typing import Any

from nowag_exp.methods.base import Method
from nowag_exp.ops.normalise import Normalise
from nowag_exp.settings import settings


@settings
class Normalising(Method):
    """Works on the normalised weight ``W̄`` (:func:`nowag_exp.ops.normalise.normalise`).

    Attributes:
        normalise: ``both`` is the paper's ``W̄``; ``columns``, ``rows`` and ``none`` show what each of its norms does.
    """

    normalise: Normalise

    def identity(self) -> dict[str, Any]:
        # The paper's is left out, so that results from before there was a choice are found.
        identity = super().identity()
        if self.normalise == "both":
            del identity["normalise"]
        return identity

    def describe(self) -> str:
        shown = {"both": "", "columns": ", by columns", "rows": ", by rows", "none": ", not normalised"}
        return super().describe() + shown[self.normalise]
