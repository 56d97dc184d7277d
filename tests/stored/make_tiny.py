"""Make ``tiny.json`` without our pipeline: plain transformers, hooks in whole forwards, the slow reference masks,
and the textbook form of optimal brain surgery.

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
sys.path += [str(HERE.parent), str(HERE.parent / "methods"), str(HERE.parent / "ops")]

import reference  # noqa: E402
from conftest import PROSE  # noqa: E402
from test_solver import textbook  # noqa: E402

from nowag_exp.compose import compose  # noqa: E402
from nowag_exp.config import build  # noqa: E402
from nowag_exp.models import ModelSource  # noqa: E402
from nowag_exp.ops.solver import Pruning, Rounding  # noqa: E402

CONTEXT = 64
Mask = Callable[[torch.Tensor, torch.Tensor], list[list[bool]]]
Replace = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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


def compress(model: torch.nn.Module, tokens: torch.Tensor, replace: Replace, sequential: bool) -> None:
    seen = activations(model, tokens)
    for block in range(model.config.num_hidden_layers):
        if sequential:
            seen = activations(model, tokens)
        for name, linear in linears(model).items():
            if f"layers.{block}." in name:
                linear.weight.data.copy_(replace(linear.weight.data, seen[name]))


def pruned(mask: Mask) -> Replace:
    """Kept values are stored in fp16."""
    return lambda weight, x: (weight * torch.tensor(mask(weight, x))).half().float()


def rtn(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """3 bits, asymmetric, groups of 64 columns, scales in fp16; one number after the other."""
    rounded = weight.clone()
    for i in range(weight.shape[0]):
        for start in range(0, weight.shape[1], 64):
            values = weight[i, start : start + 64].tolist()
            low, high = min(*values, 0.0), max(*values, 0.0)
            scale = float(torch.tensor((high - low) / 7).half())
            zero = round(-low / scale)
            codes = [min(max(round(value / scale) + zero, 0), 7) for value in values]
            rounded[i, start : start + 64] = torch.tensor([(code - zero) * scale for code in codes])
    return rounded


def by_textbook(pruning: Pruning | None, rounding: Rounding | None) -> Replace:
    def replace(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        values, _ = textbook(weight, 2 / len(x) * x.double().T @ x.double(), pruning, rounding, False)
        return values.float() if rounding else values.half().float()

    return replace


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

    gptq = Rounding(3, 64, False, "minmax", False)
    cases: dict[str, tuple[Replace, bool] | None] = {
        "method=dense": None,
        "method=magnitude": (pruned(magnitude), False),
        "method=wanda": (pruned(wanda), True),
        "method=nowag_p": (pruned(nowag_p), False),
        "method=nowag_p method.pattern=2:4": (pruned(nowag_p_24), False),
        "method=rtn method.bits=3": (rtn, False),
        "method=gptq method.bits=3": (by_textbook(None, gptq), True),
        "method=gptq method.bits=3 method.propagate=dense": (by_textbook(None, gptq), False),
        "method=sparsegpt method.block_size=64": (by_textbook(Pruning(0.5, None, 64), None), True),
        "method=sparsegpt method.pattern=2:4": (by_textbook(Pruning(0.5, (2, 4), 128), None), True),
    }
    stored = {}
    for name, case in cases.items():
        model = load(folder)
        if case is not None:
            compress(model, torch.tensor(calibration), *case)
        stored[name] = perplexity(model, windows)
    (HERE / "tiny.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
