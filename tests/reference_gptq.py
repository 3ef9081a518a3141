"""GPTQ and the clip search written again from their descriptions, with loops instead of their shortcuts.

GPTQ takes no Cholesky factors: every column's cost is made up for by an inverse taken afresh. The clip search replays
every token, one row, group and shrink at a time.
"""

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


def rounded(weights: np.ndarray, bits: int) -> np.ndarray:
    """One group of one row, rounded to nearest."""
    step, zero = step_and_zero(weights, bits)
    return (np.clip(np.round(weights / step) + zero, 0, 2**bits - 1) - zero) * step


def clip_limits(weight: np.ndarray, x: np.ndarray, bits: int, group_size: int) -> np.ndarray:
    """`(out, groups)` limits: the least squared error of the group's part of the output, `x_g (w - w^)`."""
    limits = np.zeros((len(weight), weight.shape[1] // group_size))
    for row in range(len(weight)):
        for group in range(limits.shape[1]):
            part = slice(group * group_size, (group + 1) * group_size)
            w, inputs = weight[row, part], x[:, part]
            least = np.inf
            for i in range(10):
                limit = np.abs(w).max() * (1 - i / 20)
                error = float(((inputs @ (w - rounded(np.clip(w, -limit, limit), bits))) ** 2).sum())
                if error < least:
                    least, limits[row, group] = error, limit
    return limits
