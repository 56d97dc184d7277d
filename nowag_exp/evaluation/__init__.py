"""What is measured of a model: perplexity protocols, fidelity to the dense model, zero-shot suites."""

from nowag_exp.evaluation.evaluation_set import Evaluation
from nowag_exp.evaluation.fidelity import noise_floor
from nowag_exp.evaluation.measurement import Measurement
from nowag_exp.evaluation.metrics import Metric, mean_and_error, perplexity
from nowag_exp.evaluation.protocols import HubPerplexity, LocalPerplexity, Perplexity, WikiSamplePerplexity
from nowag_exp.evaluation.windows import WindowScores, fidelity_metrics, last_states, score_windows, window_metrics
from nowag_exp.evaluation.zero_shot import StockZeroShot, WikiZeroShot, ZeroShot

__all__ = [
    "Evaluation",
    "HubPerplexity",
    "LocalPerplexity",
    "Measurement",
    "Metric",
    "Perplexity",
    "StockZeroShot",
    "WikiSamplePerplexity",
    "WikiZeroShot",
    "WindowScores",
    "ZeroShot",
    "fidelity_metrics",
    "last_states",
    "mean_and_error",
    "noise_floor",
    "perplexity",
    "score_windows",
    "window_metrics",
]
