"""A forecast as text, rounded to what it is worth."""

import math

from nowag_exp.config import Experiment
from nowag_exp.planning.forecast import Forecast, JobForecast

SOURCES = {
    "recorded": "costs of records",
    "measured": "measured here",
    "both": "records, measured",
    "nothing to do": "-",
    "unknown": "unknown",
}
ELSEWHERE = (
    "Times are of this machine's CPU, where 16-bit arithmetic may be slow; plan on the machine that has the GPU."
)
HONESTY = (
    "Time: from costs of records it may be off by a factor of 1.5, measured here by 2.5; loading a model and drawing "
    "tokens are not counted.",
    "GPU: at the peak, were the model on one; on a CPU it is part of RAM. Both may be off by a quarter. Disk: without "
    "records, of some 100 kB each.",
)


def render_forecast(forecast: Forecast) -> str:
    """The jobs, what they share, what must be downloaded, and what all of it takes."""
    names = _names([job.experiment for job in forecast.jobs])
    rows = [_row(name, job) for name, job in zip(names, forecast.jobs, strict=True)]
    header = ("job", "record", "time", "from", "GPU", "RAM", "disk")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    for part in forecast.shared:
        time = "in the store" if part.kept else about_seconds(part.seconds)
        lines.append(f"shared: {part.what}, {time}, by {part.n_jobs} job{'s' if part.n_jobs > 1 else ''}")
    for download in forecast.downloads:
        size = "size unknown" if download.n_bytes is None else about_bytes(download.n_bytes)
        lines.append(f"to download: {download.what} ({size})")
    n_to_run = sum(not job.recorded for job in forecast.jobs)
    if not n_to_run:
        return "\n".join([*lines, f"in all: all {len(forecast.jobs)} jobs are recorded, nothing is to be done"]) + "\n"
    sizes = {"GPU memory": forecast.gpu_bytes, "RAM": forecast.ram_bytes, "disk": forecast.disk_bytes}
    lines.append(
        f"in all: {n_to_run} of {len(forecast.jobs)} jobs to run, {about_seconds(forecast.seconds)} one after the "
        f"other on {forecast.device}; {', '.join(f'{about_bytes(size)} of {what}' for what, size in sizes.items())}"
    )
    if "CPU" in forecast.device and forecast.downloads:
        lines.append(ELSEWHERE)
    return "\n".join([*lines, *HONESTY]) + "\n"


def _names(experiments: list[Experiment]) -> list[str]:
    """Each in a few words; with all settings of method and calibration in which those that look alike differ."""
    values: dict[str, dict[str, set[str]]] = {}
    for experiment in experiments:
        alike = values.setdefault(experiment.describe(), {})
        for key, value in _settings(experiment).items():
            alike.setdefault(key, set()).add(value)
    names = []
    for experiment in experiments:
        alike = values[experiment.describe()]
        differing = [f"{key}={value}" for key, value in _settings(experiment).items() if len(alike[key]) > 1]
        names.append(" ".join([experiment.describe(), *differing]))
    return names


def _settings(experiment: Experiment) -> dict[str, str]:
    evaluation = experiment.evaluation
    measured = [part.key.partition(".")[2] for part in (*evaluation.perplexities, *evaluation.zero_shot)]
    found = {"evaluation": f"[{','.join(measured)}]"}
    for part in ("method", *(["calibration"] if experiment.calibration is not None else [])):
        found |= {f"{part}.{key}": str(value) for key, value in experiment.config[part].items()}
    return found


def _row(name: str, job: JobForecast) -> tuple[str, ...]:
    state = "yes" if job.recorded else "?" if job.recorded is None else "no"
    if job.recorded:
        return (name, state, *["-"] * 5)
    sizes = (about_bytes(size) for size in (job.gpu_bytes, job.ram_bytes, job.disk_bytes))
    return (name, state, about_seconds(job.seconds), SOURCES[job.source], *sizes)


def about_seconds(seconds: float | None) -> str:
    """``about 3 h``: one digit, or two where the first is 1."""
    if seconds is None:
        return "unknown time"
    for unit, length in (("years", 365 * 86400.0), ("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= 1.5 * length:
            return f"about {_rounded(seconds / length)} {unit}"
    return "about 1 s" if seconds >= 0.5 else "under 1 s"


def about_bytes(n_bytes: float) -> str:
    """``13 GB``: two digits."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{_rounded(n_bytes / size, digits=2)} {unit}"
    return f"{n_bytes:.0f} B"


def _rounded(value: float, digits: int | None = None) -> str:
    exponent = math.floor(math.log10(value))
    if digits is None:
        digits = 2 if value / 10**exponent < 2 else 1
    return f"{round(value, digits - 1 - exponent):g}"
