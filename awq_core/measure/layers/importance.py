"""Channel importance: its definition, its concentration in the top 1% of channels, and comparison with chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SMALLEST_WIDTH = 64
"""Smallest width at which shares of the top 1% are read: in a narrower input, the top 1% is one channel of few."""


def salient_count(width: int) -> int:
    """Number of channels in the top 1%, at least one."""
    return max(1, width // 100)


def importance(weight_size: Array, magnitude: Array) -> Array:
    """Compute channel importance `I_j = mean_i |W_ij| * m_j`, `(channels,)`.

    Args:
        weight_size: `(channels,)`, mean over output rows of abs(w).
        magnitude: `(channels,)`, mean over tokens of abs(x).
    """
    return weight_size * magnitude


def salient_channels(values: Array) -> NDArray[np.intp]:
    """Indices of the top 1% of channels by `values`, largest first; ties go to the lower index."""
    return np.argsort(-values, kind="stable")[: salient_count(len(values))]


def top_share(values: Array) -> float:
    """Share of the total held by the top 1% of channels, 0 to 1; if all values are 0, their share of the channels."""
    total = values.sum()
    if total <= 0:
        return salient_count(len(values)) / len(values)
    return float(values[salient_channels(values)].sum() / total)


def enrichment(values: Array) -> float:
    """Share of the total held by the top 1%, divided by their share of the channels; 1 if all values are equal."""
    return top_share(values) / (salient_count(len(values)) / len(values))
