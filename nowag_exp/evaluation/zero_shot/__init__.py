"""Multiple-choice tasks of lm-eval, scored on a model in memory."""

from nowag_exp.evaluation.zero_shot.harness import SuiteOutcome, TaskMetric, score
from nowag_exp.evaluation.zero_shot.suites import StockZeroShot, ZeroShot

__all__ = ["StockZeroShot", "SuiteOutcome", "TaskMetric", "ZeroShot", "score"]
