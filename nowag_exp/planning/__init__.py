"""What a list of experiments will take, before anything runs."""

from nowag_exp.planning.forecast import Forecast, JobForecast, Shared, forecast
from nowag_exp.planning.render import render_forecast

__all__ = ["Forecast", "JobForecast", "Shared", "forecast", "render_forecast"]
