"""Racing: the best of several candidates, without trying all of them on everything.

Candidates are tried on the same cases, a few at first. One that is worse than the best so far by more than chance
explains is dropped; the others go on to further cases. What is dropped early is what an exhaustive search would not
have chosen, and most of the work of an exhaustive search goes into such candidates.

Chance is what the cases that are still untried leave open: the exhaustive search has so many cases and no more, so a
mean over n of N of them is off by a standard error of `sd / sqrt(n) * sqrt(1 - n / N)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

GROWTH = 1.25
"""Every round has so many times as many cases behind it as the round before: a dropped candidate has been tried on at
most a quarter more than dropping it took."""

FEWEST = 4
"""Cases before anything is dropped. How little so few say about their own spread, Student's t counts in."""

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
    evaluate: Callable[[np.ndarray, np.ndarray], np.ndarray],
    first: int = FEWEST,
    *,
    exhaustive: bool = False,
) -> Race:
    """Find the candidate with the least mean loss.

    Args:
        candidates: how many.
        cases: how many there are.
        evaluate: losses `(k, n)` of some candidates `(k,)` on some cases `(n,)`, both given by their indices. A
            candidate that is left out once does not come again.
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
        losses[left, done:upto] = evaluate(left, order[done:upto])
        if not np.isfinite(losses[left, done:upto]).all():
            raise FloatingPointError("a loss is NaN or infinite")
        tried[left] = done = upto
        if done < cases:
            left = left[survivors(losses[left, :done], cases, CHANCE)]
        if done == cases or len(left) == 1:
            break
        upto = min(cases, math.ceil(done * GROWTH))
    means = losses.sum(axis=1) / tried
    return Race(int(left[np.argmin(means[left])]), means, tried)


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
