"""Which channels matter: importance, its concentration in the top 1%, and how that compares with chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SMALLEST_WIDTH = 64
"""Below this width the top 1% is one channel of few, and a share says nothing (design: "Terms")."""


def salient_count(width: int) -> int:
    """How many channels the top 1% are: at least one."""
    return max(1, width // 100)


def importance(weight_size: Array, magnitude: Array) -> Array:
    """`I_j = mean_i |W_ij| * m_j`, `(channels,)`."""
    return weight_size * magnitude


def salient_channels(values: Array) -> NDArray[np.intp]:
    """Indices of the top 1% of channels by `values`, largest first; ties go to the lower index."""
    return np.argsort(-values, kind="stable")[: salient_count(len(values))]


def top_share(values: Array) -> float:
    """Share of the total that the top 1% of channels hold, 0 to 1; where all are 0, their share of the channels."""
    total = values.sum()
    if total <= 0:
        return salient_count(len(values)) / len(values)
    return float(values[salient_channels(values)].sum() / total)


def enrichment(values: Array) -> float:
    """Share of the total held by the top 1%, over the fraction of channels that they are; 1 where all are alike."""
    return top_share(values) / (salient_count(len(values)) / len(values))
