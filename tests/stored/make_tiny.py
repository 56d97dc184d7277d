"""Make ``tiny.json`` without our pipeline: plain transformers, hooks in whole forwards, the slow reference masks,
the textbook form of optimal brain surgery, and k-means in float64.

Run from the repository: ``.venv/bin/python tests/stored/make_tiny.py`` (about a minute).
"""

import json
import math
import os
import random
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
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
Replace = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]


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
                linear.weight.data.copy_(replace(name, linear.weight.data, seen[name]))


def pruned(mask: Mask) -> Replace:
    """Kept values are stored in fp16."""
    return lambda name, weight, x: (weight * torch.tensor(mask(weight, x))).half().float()


def rtn(name: str, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
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
    def replace(name: str, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        values, _ = textbook(weight, 2 / len(x) * x.double().T @ x.double(), pruning, rounding, False)
        return values.float() if rounding else values.half().float()

    return replace


def nowag_vq(name: str, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """16 codewords of 4 for the normalised weight, in float64: D² sampling, then Lloyd until nothing changes."""
    w = weight.double().numpy()
    r1 = np.linalg.norm(w, axis=0) + 1e-5
    r2 = np.linalg.norm(w / r1, axis=1) + 1e-5
    rows, width = w.shape
    # A group of columns after the other, as the draws count them.
    points = (w / r1 / r2[:, None]).reshape(rows, width // 4, 4).transpose(1, 0, 2).reshape(-1, 4)
    importance = 2 / len(x) * np.square(x.double().numpy()).sum(axis=0)
    metric = np.repeat(importance.reshape(width // 4, 4), rows, axis=0)
    uniforms = np.random.default_rng([0, zlib.crc32(name.encode())]).random(16)
    words = [points[int(uniforms[0] * len(points))]]
    while len(words) < 16:
        nearest = np.min([(metric * (points - word) ** 2).sum(axis=1) for word in words], axis=0)
        words.append(points[np.searchsorted(nearest.cumsum(), uniforms[len(words)] * nearest.sum(), side="right")])
    codebook, assigned = np.array(words), None
    for _ in range(100):
        costs = np.stack([(metric * (points - word) ** 2).sum(axis=1) for word in codebook], axis=1)
        if assigned is not None and (costs.argmin(axis=1) == assigned).all():
            break
        assigned = costs.argmin(axis=1)
        for k in set(assigned.tolist()):
            mine = assigned == k
            codebook[k] = (metric[mine] * points[mine]).sum(axis=0) / metric[mine].sum(axis=0)
    codebook = codebook.astype(np.float16).astype(np.float64)
    costs = np.stack([(metric * (points - word) ** 2).sum(axis=1) for word in codebook], axis=1)
    values = codebook[costs.argmin(axis=1)].reshape(width // 4, rows, 4).transpose(1, 0, 2).reshape(rows, width)
    halves = values * r2.astype(np.float16).astype(np.float64)[:, None] * r1.astype(np.float16).astype(np.float64)
    return torch.from_numpy(halves).float()


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

    gptq = Rounding(2, 64, False, "minmax", False)
    cases: dict[str, tuple[Replace, bool] | None] = {
        "method=dense": None,
        "method=magnitude": (pruned(magnitude), False),
        "method=wanda": (pruned(wanda), True),
        "method=nowag_p": (pruned(nowag_p), False),
        "method=nowag_p method.pattern=2:4": (pruned(nowag_p_24), False),
        "method=rtn method.bits=3": (rtn, False),
        "method=gptq method.bits=2": (by_textbook(None, gptq), True),
        "method=gptq method.bits=2 method.propagate=dense": (by_textbook(None, gptq), False),
        "method=sparsegpt method.block_size=64": (by_textbook(Pruning(0.5, None, 64), None), True),
        "method=sparsegpt method.pattern=2:4": (by_textbook(Pruning(0.5, (2, 4), 128), None), True),
        "method=sparsegpt method.sparsity=0.7 method.block_size=64 method.bits=2 method.group_size=64": (
            by_textbook(Pruning(0.7, None, 64), gptq),
            True,
        ),
        "method=nowag_vq method.d=4 method.bits=1": (nowag_vq, False),
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
