"""Calibration sets, statistics of activations, and the walk over the blocks."""

from nowag_exp.calibration.sets import Calibration, HubCalibration, LocalCalibration, WikiSampleCalibration
from nowag_exp.calibration.walk import CompressedLinear, Statistics, Walk, compress, walk

__all__ = [
    "Calibration",
    "CompressedLinear",
    "HubCalibration",
    "LocalCalibration",
    "Statistics",
    "Walk",
    "WikiSampleCalibration",
    "compress",
    "walk",
]
