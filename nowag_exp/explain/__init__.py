"""Why two records differ: everything that is recorded side by side, and the gap attributed to its causes by reruns."""

from nowag_exp.explain.attribution import Attribution, plan_attribution, render_attribution
from nowag_exp.explain.differences import Explanation, explain
from nowag_exp.explain.rerun import Rerun, render_rerun, rerun
from nowag_exp.explain.text import render_explanation

__all__ = [
    "Attribution",
    "Explanation",
    "Rerun",
    "explain",
    "plan_attribution",
    "render_attribution",
    "render_explanation",
    "render_rerun",
    "rerun",
]
