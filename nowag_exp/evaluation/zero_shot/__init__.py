"""Zero-shot suites."""

from nowag_exp.evaluation.measurement import Measurement


class ZeroShot(Measurement):
    """Stub."""
