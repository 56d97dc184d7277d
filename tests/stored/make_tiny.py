"""Make ``tiny.json`` without our pipeline: plain transformers, hooks in whole forwards, and the slow reference masks.

Run from the repository: ``.venv/bin/python tests/stored/make_tiny.py`` (about a minute).
"""

import json
import math
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE.parent / "methods")]

import reference  # noqa: E402
from conftest import PROSE  # noqa: E402

from nowag_exp.compose import compose  # noqa: E402
from nowag_exp.config import build  # noqa: E402
from nowag_exp.models import ModelSource  # noqa: E402

CONTEXT = 64
Mask = Callable[[torch.Tensor, torch.Tensor], list[list[bool]]]


def load(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def linears(model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "layers" in name
    }


def activations(model: torch.nn.Module, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0].flatten(0, 1)}))
        for name, module in linears(model).items()
    ]
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    return seen


def prune(model: torch.nn.Module, tokens: torch.Tensor, mask: Mask, sequential: bool) -> None:
    seen = activations(model, tokens)
    for block in range(model.config.num_hidden_layers):
        if sequential:
            seen = activations(model, tokens)
        for name, linear in linears(model).items():
            if f"layers.{block}." in name:
                linear.weight.data *= torch.tensor(mask(linear.weight.data, seen[name]))
                linear.weight.data.copy_(linear.weight.data.half())  # kept values are stored in fp16


def perplexity(model: torch.nn.Module, windows: torch.Tensor) -> float:
    with torch.no_grad():
        losses = [model(window[None], labels=window[None]).loss.item() for window in windows]
    return math.exp(sum(losses) / len(losses))


def main() -> None:
    os.environ.setdefault("NOWAG_EXP_CACHE", tempfile.mkdtemp())
    folder = build(compose(["model=tiny"])["model"], "model", ModelSource).folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    document = tokenizer(PROSE * 8, add_special_tokens=False).input_ids
    generator, calibration = random.Random(0), []
    for _ in range(8):
        generator.randint(0, 0)
        start = generator.randint(0, len(document) - CONTEXT - 1)
        calibration.append(document[start : start + CONTEXT])
    text = tokenizer(PROSE[::-1] * 4, add_special_tokens=False).input_ids
    windows = torch.tensor(text[: 4 * CONTEXT]).reshape(4, CONTEXT)

    def wanda(weight: torch.Tensor, x: torch.Tensor) -> list[list[bool]]:
        return reference.wanda_mask(weight, x, 0.5)

    def nowag_p(weight: torch.Tensor, x: torch.Tensor) -> list[list[bool]]:
        return reference.nowag_p_mask(weight, x, 0.5)

    def nowag_p_24(weight: torch.Tensor, x: torch.Tensor) -> list[list[bool]]:
        return reference.n_of_m(reference.nowag_p_scores(weight, x), 2, 4)

    def magnitude(weight: torch.Tensor, x: torch.Tensor) -> list[list[bool]]:
        return reference.magnitude_mask(weight, 0.5)

    cases: dict[str, tuple[Mask, bool] | None] = {
        "method=dense": None,
        "method=magnitude": (magnitude, False),
        "method=wanda": (wanda, True),
        "method=nowag_p": (nowag_p, False),
        "method=nowag_p method.pattern=2:4": (nowag_p_24, False),
    }
    stored = {}
    for name, case in cases.items():
        model = load(folder)
        if case is not None:
            prune(model, torch.tensor(calibration), *case)
        stored[name] = perplexity(model, windows)
    (HERE / "tiny.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
