"""Hyperparameter search: sweeps whose jobs are chosen one after the other by what has come out so far."""

from nowag_exp.search.render import render_trials
from nowag_exp.search.request import SearchRequest, is_search, read_search
from nowag_exp.search.study import Search

__all__ = ["Search", "SearchRequest", "is_search", "read_search", "render_trials"]
