"""``nowag-exp run``: one experiment, or several with Hydra's ``--multirun``."""

import argparse
import functools
import os
import sys
from typing import TYPE_CHECKING

from nowag_exp import interrupt
from nowag_exp.errors import NowagError, report

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nowag_exp.experiment import Workbench

HELP = "one experiment"
EPILOG = (
    "example: nowag-exp run model=smollm2_135m method=nowag_p method.pattern=2:4 calibration=files "
    "calibration.path=cal.txt\nnowag-exp run --cfg job prints the config; --multirun method=wanda,nowag_p runs several"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """For the help alone: the arguments themselves go to Hydra."""
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="Hydra overrides; all of Hydra's flags work too"
    )


def main(arguments: list[str]) -> int:
    """Hand the arguments to Hydra, which calls us back with each composed config."""
    import hydra

    from nowag_exp import compose
    from nowag_exp.layout import folder

    codes: list[int] = []

    @functools.cache
    def bench() -> "Workbench":
        from nowag_exp.experiment import Workbench

        return Workbench()

    def task(config: "DictConfig") -> None:
        # Hydra would stop a multirun at the first failure; Ctrl-C is not caught, and does stop it.
        try:
            codes.append(_run_one(config, bench()))
        except Exception as error:
            if interrupt.pressed():  # Hydra would print what it came out as.
                raise KeyboardInterrupt from error
            codes.append(report(error))

    compose.prepare_hydra()
    sys.argv = ["nowag-exp run", *arguments]
    # Hydra would print errors its own way and exit with 1; this makes it raise them to us.
    asked_for_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main = hydra.main(
            version_base=compose.VERSION_BASE, config_path=str(folder("conf")), config_name=compose.CONFIG_NAME
        )
        if asked_for_traceback:
            main(task)()
        else:
            with compose.reported(arguments):
                main(task)()
    finally:
        if not asked_for_traceback:
            del os.environ["HYDRA_FULL_ERROR"]
    return max(codes, default=0)


def _run_one(config: "DictConfig", bench: "Workbench") -> int:
    from nowag_exp.compose import reported, resolve
    from nowag_exp.config import build_experiment
    from nowag_exp.experiment import check, recorded
    from nowag_exp.progress import Reporter
    from nowag_exp.records.record import record_path
    from nowag_exp.records.wide import render
    from nowag_exp.runner import run_logged

    with reported([]):
        resolved = resolve(config)
    experiment, reporter = build_experiment(resolved), Reporter()
    known = recorded(experiment)
    if known is None:
        check(experiment, bench)
    else:
        reporter.say("recorded already, nothing was computed")
    with interrupt.graceful(), reporter.live():
        outcome = run_logged(experiment, bench, reporter)
    if outcome.record is None:
        raise NowagError(f"{experiment.describe()}: {outcome.failure} (traceback in {outcome.log_file})")
    print(render([outcome.record], "text", experiment.paths.folder))
    print(f"record: {record_path(experiment.paths.folder, outcome.record.fingerprint)}")
    if experiment.checkpoint.save:
        print(f"checkpoint: {experiment.checkpoint_folder} (load it with transformers after 'import nowag_exp')")
    return 0
