"""Reproduce a published table: the experiments it takes, and a verdict on each of its values."""

from nowag_exp.reproduce.plan import Job, Plan, Request, parse_request, plan_jobs
from nowag_exp.reproduce.verdict import Line, Verdict, judge

__all__ = ["Job", "Line", "Plan", "Request", "Verdict", "judge", "parse_request", "plan_jobs"]
