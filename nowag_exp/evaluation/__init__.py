"""Perplexity protocols."""

from nowag_exp.evaluation.perplexity import Metric, perplexity, window_losses
from nowag_exp.evaluation.sets import Evaluation, HubEvaluation, LocalEvaluation, WikiSampleEvaluation

__all__ = [
    "Evaluation",
    "HubEvaluation",
    "LocalEvaluation",
    "Metric",
    "WikiSampleEvaluation",
    "perplexity",
    "window_losses",
]
