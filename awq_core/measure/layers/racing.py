"""Racing: search for the best of several candidates without trying all of them on all cases.

All candidates are tried on the same cases, a few at first. A candidate that is worse than the best so far by more than
chance explains is dropped; the others are tried on further cases. Most of the work of an exhaustive search goes into
candidates that a race drops early.

Chance is the sampling error with respect to the exhaustive search, whose number of cases N is finite: a mean over n of
them has the standard error `sd / sqrt(n) * sqrt(1 - n / N)`.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

TOLERANCE = 1e-3
"""Share of the best loss: once no remaining candidate can beat the best so far by more than this, the race ends."""


def spread_order(cases: int) -> np.ndarray:
    """Order the indices below `cases` so that any first few are spread over all of them, as neighbours are often alike.

    Returns:
        `(cases,)`, a permutation by multiples of the golden ratio.
    """
    golden = (5**0.5 - 1) / 2
    return np.argsort(np.argsort((np.arange(cases) * golden) % 1.0))


def survivors(losses: np.ndarray, every: int, chance: float) -> np.ndarray:
    """Choose the candidates that stay in the race.

    Args:
        losses: `(candidates, cases tried)`, of the candidates in the race.
        every: number of cases in all.
        chance: probability of dropping an equally good candidate (Student's t).

    Returns:
        Indices into `losses`; only the best candidate's if no other can beat it by more than `TOLERANCE`.
    """
    cases = losses.shape[1]
    means = losses.mean(axis=1)
    best = int(np.argmin(means))
    behind = losses - losses[best]  # (candidates, cases): paired, because hard cases are hard for all
    distance = means - means[best]
    error = behind.std(axis=1, ddof=1) * np.sqrt((1 - cases / every) / cases)
    explained = stats.t.isf(chance, cases - 1) * error
    kept = np.flatnonzero(distance <= explained)
    if (explained[kept] - distance[kept] <= TOLERANCE * means[best]).all():
        return np.array([best])  # no other can beat the best so far by more than the tolerance
    return kept
