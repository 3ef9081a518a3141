"""Racing: the best of several candidates, without trying all of them on everything.

Candidates are tried on the same cases, a few at first. One that is worse than the best so far by more than chance
explains is dropped; the others go on to further cases. What is dropped early is what an exhaustive search would not
have chosen, and most of the work of an exhaustive search goes into such candidates.

Chance is what the cases that are still untried leave open: the exhaustive search has so many cases and no more, so a
mean over n of N of them is off by a standard error of `sd / sqrt(n) * sqrt(1 - n / N)`.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

TOLERANCE = 1e-3
"""Once all that are left lie surely within this share of the best one's loss, the best so far wins."""


def spread_order(cases: int) -> np.ndarray:
    """All indices below `cases`, so that any first few lie spread over the whole: neighbours are often alike."""
    golden = (5**0.5 - 1) / 2
    return np.argsort(np.argsort((np.arange(cases) * golden) % 1.0))


def survivors(losses: np.ndarray, every: int, chance: float) -> np.ndarray:
    """Who goes on; the best alone where the others are surely no better than that by more than the tolerance.

    Args:
        losses: `(candidates, cases tried)`, of those that are in the race.
        every: how many cases there are in all.
        chance: how often an equally good candidate may be dropped (Student's t).

    Returns:
        Indices into the candidates given.
    """
    cases = losses.shape[1]
    means = losses.mean(axis=1)
    best = int(np.argmin(means))
    behind = losses - losses[best]  # (candidates, cases): paired, as the same cases are hard for all
    distance = means - means[best]
    error = behind.std(axis=1, ddof=1) * np.sqrt((1 - cases / every) / cases)
    explained = stats.t.isf(chance, cases - 1) * error
    kept = np.flatnonzero(distance <= explained)
    if (explained[kept] - distance[kept] <= TOLERANCE * means[best]).all():
        return np.array([best])  # none can be better than the best so far by more than the tolerance
    return kept
