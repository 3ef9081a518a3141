"""Racing: the best of several candidates, without trying all of them on everything.

Candidates are tried on the same cases, a few at first. One that is worse than the best so far by more than chance
explains is dropped; the others go on to further cases. What is dropped early is what an exhaustive search would not
have chosen, and most of the work of an exhaustive search goes into such candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

GROWTH = 2
"""Every round has so many times as many cases behind it as the round before."""

FEWEST = 8
"""Cases before anything is dropped: fewer say nothing about their own spread."""

CHANCE = 2e-3
"""How often chance alone may put an equally good candidate so far behind that it is dropped (Student's t)."""

TOLERANCE = 1e-3
"""Once all that are left lie surely within this share of the best one's loss, the best so far wins."""


@dataclass(frozen=True)
class Race:
    """How a race went.

    Attributes:
        winner: index of the winner; the lowest of a tie.
        losses: `(candidates,)`, mean loss of each over the cases that it was tried on.
        tried: `(candidates,)`, on how many cases each was tried.
    """

    winner: int
    losses: np.ndarray
    tried: np.ndarray


def race(
    candidates: int,
    cases: int,
    evaluate: Callable[[int, np.ndarray], np.ndarray],
    first: int = FEWEST,
    *,
    exhaustive: bool = False,
) -> Race:
    """Find the candidate with the least mean loss.

    Args:
        candidates: how many.
        cases: how many there are.
        evaluate: losses `(n,)` of a candidate on some cases, given by their indices `(n,)`.
        first: cases in the first round; at least `FEWEST`.
        exhaustive: try every candidate on every case.

    Raises:
        FloatingPointError: if a loss is NaN or infinite.
    """
    order = spread_order(cases)
    losses = np.zeros((candidates, cases))  # in the order in which cases are tried
    tried = np.zeros(candidates, dtype=int)
    left = np.arange(candidates)
    done, upto = 0, cases if exhaustive else min(cases, max(first, FEWEST))
    while True:
        for candidate in left:
            losses[candidate, done:upto] = evaluate(int(candidate), order[done:upto])
        if not np.isfinite(losses[left, done:upto]).all():
            raise FloatingPointError("a loss is NaN or infinite")
        tried[left] = done = upto
        if done < cases:
            left = _survivors(losses[:, :done], left)
        if done == cases or len(left) == 1:
            break
        upto = min(cases, done * GROWTH)
    means = losses.sum(axis=1) / tried
    return Race(int(left[np.argmin(means[left])]), means, tried)


def spread_order(cases: int) -> np.ndarray:
    """All indices below `cases`, so that any first few lie spread over the whole: neighbours are often alike."""
    golden = (5**0.5 - 1) / 2
    return np.argsort(np.argsort((np.arange(cases) * golden) % 1.0))


def _survivors(losses: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Who goes on; the best alone where the others are surely no better than that by more than the tolerance."""
    cases = losses.shape[1]
    means = losses[left].mean(axis=1)
    best = int(np.argmin(means))
    behind = losses[left] - losses[left[best]]  # (left, cases): paired, as the same cases are hard for all
    distance = means - means[best]
    chance = stats.t.isf(CHANCE, cases - 1) * behind.std(axis=1, ddof=1) / np.sqrt(cases)
    kept = distance <= chance
    if (chance[kept] - distance[kept] <= TOLERANCE * means[best]).all():
        return left[best : best + 1]  # none can be better than the best so far by more than the tolerance
    return left[kept]
