"""Slow, obvious masks, written from the formulas alone: loops over single weights, Python sorting."""

import math

from torch import Tensor


def magnitude_mask(weight: Tensor, sparsity: float) -> list[list[bool]]:
    return _drop_lowest_of_matrix([[abs(w) for w in row] for row in weight.double().tolist()], sparsity)


def wanda_mask(weight: Tensor, activations: Tensor, sparsity: float) -> list[list[bool]]:
    norms = [math.sqrt(sum(x * x for x in column)) for column in activations.double().T.tolist()]
    mask = []
    for row in weight.double().tolist():
        scores = [abs(w) * norm for w, norm in zip(row, norms, strict=True)]
        mask.append(_drop_lowest(scores, int(len(scores) * sparsity)))
    return mask


def nowag_p_scores(weight: Tensor, activations: Tensor) -> list[list[float]]:
    rows = weight.double().tolist()
    tokens = activations.double().tolist()
    d_out, d_in = len(rows), len(rows[0])
    r1 = [math.sqrt(sum(rows[i][j] ** 2 for i in range(d_out))) + 1e-5 for j in range(d_in)]
    scaled = [[rows[i][j] / r1[j] for j in range(d_in)] for i in range(d_out)]
    r2 = [math.sqrt(sum(value**2 for value in row)) + 1e-5 for row in scaled]
    h = [2 / len(tokens) * sum(x[j] ** 2 for x in tokens) for j in range(d_in)]
    return [[(scaled[i][j] / r2[i]) ** 2 * h[j] for j in range(d_in)] for i in range(d_out)]


def nowag_p_mask(weight: Tensor, activations: Tensor, sparsity: float) -> list[list[bool]]:
    return _drop_lowest_of_matrix(nowag_p_scores(weight, activations), sparsity)


def n_of_m(scores: list[list[float]], n: int, m: int) -> list[list[bool]]:
    return [
        [kept for start in range(0, len(row), m) for kept in _drop_lowest(row[start : start + m], m - n)]
        for row in scores
    ]


def _drop_lowest_of_matrix(scores: list[list[float]], sparsity: float) -> list[list[bool]]:
    flat = [score for row in scores for score in row]
    kept = _drop_lowest(flat, int(len(flat) * sparsity))
    width = len(scores[0])
    return [kept[i : i + width] for i in range(0, len(kept), width)]


def _drop_lowest(scores: list[float], count: int) -> list[bool]:
    # Lowest score first; of equal ones the last goes first, so that the first stays.
    dropped = set(sorted(range(len(scores)), key=lambda i: (scores[i], -i))[:count])
    return [i not in dropped for i in range(len(scores))]
