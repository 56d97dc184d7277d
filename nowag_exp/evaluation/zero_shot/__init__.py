"""Multiple-choice tasks of lm-eval, scored on a model in memory."""

from nowag_exp.evaluation.zero_shot.flips import with_flips
from nowag_exp.evaluation.zero_shot.harness import SuiteOutcome, score
from nowag_exp.evaluation.zero_shot.suites import StockZeroShot, ZeroShot
from nowag_exp.evaluation.zero_shot.wiki import WikiZeroShot

__all__ = ["StockZeroShot", "SuiteOutcome", "WikiZeroShot", "ZeroShot", "score", "with_flips"]
