"""Keep libraries' own progress bars and advice out of our output."""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence transformers and huggingface_hub while they load or save; errors are raised as ever."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as advice

    verbosity, bars = advice.get_verbosity(), advice.is_progress_bar_enabled()
    advice.set_verbosity_error()
    advice.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        advice.set_verbosity(verbosity)
        enable_progress_bars()
        if bars:
            advice.enable_progress_bar()


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Silence lm-eval, and the libraries it calls, while it builds or runs tasks; its errors are logged as ever."""
    import datasets
    from lm_eval.api import task

    log, bar = logging.getLogger("lm_eval"), task.tqdm
    level, bars = log.level, datasets.is_progress_bar_enabled()
    log.setLevel(logging.ERROR)
    task.tqdm = functools.partial(bar, disable=True)  # It has no switch of its own.
    datasets.disable_progress_bars()
    try:
        with quiet_libraries():
            yield
    finally:
        log.setLevel(level)
        task.tqdm = bar
        if bars:
            datasets.enable_progress_bars()
