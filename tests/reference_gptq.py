"""GPTQ written again without Cholesky factors: every column's cost is made up for by an inverse taken afresh."""

from __future__ import annotations

import numpy as np


def step_and_zero(weights: np.ndarray, bits: int) -> tuple[float, float]:
    top = 2**bits - 1
    step = max(weights.max() - weights.min(), 1e-5) / top
    return step, float(np.clip(-np.round(weights.min() / step), 0, top))


def gptq(weight: np.ndarray, moment: np.ndarray, bits: int, group_size: int, ordered: bool) -> np.ndarray:
    """One row and one column after another.

    With `H` the damped second moment of the columns not yet rounded, rounding the first of them to `q` costs least if
    the others move by `(w - q) / inv(H)[0, 0] * inv(H)[0, 1:]` the other way (Optimal Brain Surgeon).
    """
    dead = np.diag(moment) == 0
    moment = moment + np.diag(dead.astype(float))
    moment = moment + 0.01 * np.diag(moment).mean() * np.eye(len(moment))
    order = np.argsort(-np.diag(moment), kind="stable") if ordered else np.arange(len(moment))
    inverses = [np.linalg.inv(moment[np.ix_(order[i:], order[i:])]) for i in range(len(order))]
    result = np.zeros_like(weight)
    for row in range(len(weight)):
        w = np.where(dead, 0.0, weight[row])
        groups = {start: step_and_zero(w[start : start + group_size], bits) for start in range(0, len(w), group_size)}
        for i, column in enumerate(order):
            start = column // group_size * group_size
            if not ordered and column == start:
                groups[start] = step_and_zero(w[start : start + group_size], bits)
            step, zero = groups[start]
            code = np.clip(np.round(w[column] / step) + zero, 0, 2**bits - 1)
            result[row, column] = (code - zero) * step
            error = (w[column] - result[row, column]) / inverses[i][0, 0]
            w[order[i:]] -= error * inverses[i][0]
    return result
