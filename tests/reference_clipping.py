"""The clip search written again from its description: every token replayed, one row, group and shrink at a time."""

from __future__ import annotations

import numpy as np


def rounded(weights: np.ndarray, bits: int) -> np.ndarray:
    """One group of one row, rounded to nearest."""
    top = 2**bits - 1
    step = max(weights.max() - weights.min(), 1e-5) / top
    zero = np.clip(-np.round(weights.min() / step), 0, top)
    return (np.clip(np.round(weights / step) + zero, 0, top) - zero) * step


def search(weight: np.ndarray, x: np.ndarray, bits: int, group_size: int) -> np.ndarray:
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
