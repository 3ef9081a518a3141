"""Racing exponents on a sample of the calibration tokens, until nothing worth a token is left to gain.

Candidates are tried on the same tokens, few at first. What more tokens could still gain is the expected regret: with
`d` the mean by which a candidate is behind the best so far and `s` that mean's standard error over what is untried,

    E[max(0, -d)] = s ((v + z^2) / (v - 1) p(z) - z P(T > z)),   z = d / s,

for Student's t with v degrees of freedom and density p. A candidate whose regret is negligible is dropped; the search
stops when the regrets of all that are left sum to less than `REGRET` of the best loss, and one beyond `LARGEST_REGRET`
is unlikely (`CHANCE`). An exhaustive search spends most of its tokens on candidates that a few of them rule out, and
the rest on near-ties, which are not worth one.

A few tokens may hold most of a loss (massive activations): those with the largest outputs are all tried, in the first
round, and the others stand for themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import stats

from awq_core.measure.layers.racing import spread_order

REGRET = 1e-3
"""Expected regret at which a search stops, as a share of the best loss."""

LARGEST_REGRET = 4e-3
"""A regret beyond this share is unlikely when a search stops."""

CHANCE = 0.01
"""Probability of a larger regret at which a search stops, for each candidate that is left."""

FEWEST_DEGREES = 7
"""Degrees of freedom before anything is dropped: fewer say too little about the spread."""

FIRST_SEQUENCES = 16
"""Sequences of the first round, where a case is a sequence; doubled until all are looked at, then the places are."""

FIRST_PLACES = 32
"""Tokens of each: keys and values of the whole sequence cost the same, however few queries there are."""

FIRST_TOKENS = 256
"""Tokens of the first round, where a case is a token; the second has four times as many, as with 64 sequences."""

LARGEST_TOKENS = 128
"""Tokens of the first round that are chosen for having the largest outputs."""


@dataclass(frozen=True)
class Sample:
    """Tokens that a round tries, of some cases (sequences, or single tokens).

    Attributes:
        cases: `(n,)` indices of the cases.
        places: `(n, p)`, which tokens of each.
    """

    cases: np.ndarray
    places: np.ndarray


class Losses(Protocol):
    """A group's losses under its candidates.

    Attributes:
        candidates: how many there are.
        cases: how many the tokens make.
        tokens: in each case.
        size: `(cases,)` squared outputs (of a linear, inputs), where a case is a token; None elsewhere.
    """

    candidates: int
    cases: int
    tokens: int

    @property
    def size(self) -> np.ndarray | None:
        """Squared outputs by case."""
        ...

    def __call__(self, left: np.ndarray, sample: Sample) -> np.ndarray:
        """Losses `(k, n, p)` of candidates `(k,)` at the sample's tokens."""
        ...


@dataclass(frozen=True)
class Race:
    """How a race went.

    Attributes:
        winner: index of the winner; the lowest of a tie.
        losses: `(candidates,)`, mean loss as estimated from what each was tried on.
        tried: `(candidates,)`, share of the tokens that each was tried on.
    """

    winner: int
    losses: np.ndarray
    tried: np.ndarray


def race(losses: Losses, *, exhaustive: bool = False) -> Race:
    """Find the candidate with the least mean loss.

    Args:
        losses: of the candidates.
        exhaustive: try every candidate on every token.

    Raises:
        FloatingPointError: if a loss is NaN or infinite.
    """
    largest = np.zeros(losses.cases, dtype=bool)
    if losses.size is not None and losses.cases > 2 * FIRST_TOKENS and not exhaustive:
        largest[np.argsort(-losses.size, kind="stable")[:LARGEST_TOKENS]] = True
    found = np.zeros((losses.candidates, losses.cases, losses.tokens))
    seen = np.zeros((losses.cases, losses.tokens), dtype=bool)
    means, tried = np.zeros(losses.candidates), np.zeros(losses.candidates)
    left, spent = np.arange(losses.candidates), 0.0
    everything = Sample(np.arange(losses.cases), np.tile(np.arange(losses.tokens), (losses.cases, 1)))
    for sample in [everything] if exhaustive else _samples(losses.cases, losses.tokens, largest):
        at = sample.cases[:, None], sample.places
        tokens = losses(left, sample)
        if not np.isfinite(tokens).all():
            raise FloatingPointError("a loss is NaN or infinite")
        found[left[:, None, None], *at] = tokens
        seen[at] = True
        means[left], errors, degrees = _estimates(found[left], seen, largest)
        tried[left] = seen.mean()
        staying, spent = survivors(means[left], errors, degrees, spent)
        left = left[staying]
        if len(left) == 1:
            break
    return Race(int(left[np.argmin(means[left])]), means, tried)


def _estimates(found: np.ndarray, seen: np.ndarray, largest: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean losses over all tokens, standard errors of their distances to the best, degrees of freedom, `(k,)` each.

    Args:
        found: losses `(k, cases, tokens)`, 0 where not seen.
        seen: `(cases, tokens)`.
        largest: `(cases,)`, those that are tried in full whatever the sample.
    """
    certain = found[:, largest].sum(axis=(1, 2))
    found, seen = found[:, ~largest], seen[~largest]
    cases = seen.any(axis=1)
    found, counts = found[:, cases], seen[cases].sum(axis=1)
    of_case = found.sum(axis=2) / counts  # (k, n)
    sampled = of_case.mean(axis=1)
    share = len(seen) / len(largest)  # of the tokens that are sampled
    means = share * sampled + certain / (len(largest) * seen.shape[1])
    best = int(np.argmin(means))
    if seen.shape[1] > 1 and cases.all():  # tokens are sampled within every sequence
        behind = np.where(seen, found - found[best], 0.0)
        centred = np.where(seen, behind - (behind.sum(axis=2) / counts)[:, :, None], 0.0)
        freedom = np.maximum(counts - 1, 1)
        of_sequence = (centred**2).sum(axis=2) / freedom / counts  # (k, n), squared errors of the sequences' means
        variance = of_sequence.mean(axis=1) / len(counts)
        # Welch-Satterthwaite: a sequence that holds most of the variance counts by its own places alone.
        spread = (of_sequence**2 / freedom).sum(axis=1)
        degrees = np.where(spread > 0, of_sequence.sum(axis=1) ** 2 / np.where(spread > 0, spread, 1), freedom.sum())
    else:
        behind = of_case - of_case[best]
        variance = behind.var(axis=1, ddof=1) / len(counts) if len(counts) > 1 else sampled * 0
        degrees = np.full(len(found), len(counts) - 1.0)
    untried = 1 - counts.sum() / seen.size
    return means, share * np.sqrt(variance * max(0.0, untried)), degrees


def survivors(
    means: np.ndarray, errors: np.ndarray, degrees: np.ndarray, spent: float = 0.0
) -> tuple[np.ndarray, float]:
    """Drop candidates from which too little is left to gain; all but the best where that holds of them together.

    Args:
        means: `(k,)` losses of the candidates in the race.
        errors: `(k,)` standard errors of their distances to the best one's.
        degrees: `(k,)` degrees of freedom behind these.
        spent: expected regrets of those dropped before, summed.

    Returns:
        Indices into the candidates given of those that go on, and what is spent then.
    """
    best = int(np.argmin(means))
    others = np.arange(len(means)) != best
    uncertain = degrees < FEWEST_DEGREES
    distance, degrees = means - means[best], np.maximum(degrees, FEWEST_DEGREES)
    regret = expected_regret(distance, errors, degrees)
    safe = np.where(errors > 0, errors, 1.0)
    beyond = np.where(errors > 0, stats.t.sf((distance + LARGEST_REGRET * means[best]) / safe, degrees), 0.0)
    enough = spent + regret[others].sum() <= REGRET * means[best] and (beyond[others] <= CHANCE).all()
    if enough and not uncertain[others].any():
        return np.array([best]), spent
    # No round spends more than what those before left of half of the allowance.
    allowance = max(0.0, REGRET * means[best] / 2 - spent) / len(means)
    staying = (regret > allowance) | (beyond > CHANCE / 10) | uncertain | ~others
    return np.flatnonzero(staying), spent + float(regret[~staying].sum())


def expected_regret(distance: np.ndarray, errors: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Compute what choosing the best so far is expected to lose against each candidate, `(k,)`; see above.

    Args:
        distance: `(k,)`, how far each is behind the best.
        errors: `(k,)` standard errors of these distances; 0 where they are known.
        degrees: `(k,)` degrees of freedom behind these.
    """
    safe = np.where(errors > 0, errors, 1.0)
    z = distance / safe
    regret = safe * ((degrees + z**2) / (degrees - 1) * stats.t.pdf(z, degrees) - z * stats.t.sf(z, degrees))
    found: np.ndarray = np.where(errors > 0, regret, 0.0)
    return found


def _samples(cases: int, tokens: int, largest: np.ndarray) -> Iterator[Sample]:
    """Samples without a token twice: a few hundred, then 1,000 to 2,000 in all spread over all sequences, then doubled.

    Every sequence has places of its own, or what is peculiar to one place (the first, say) would count in all of them.
    """
    if tokens == 1:
        spread = spread_order(cases)
        order = np.concatenate([np.flatnonzero(largest), spread[~largest[spread]]])
        done, upto = 0, min(cases, FIRST_TOKENS)
        while done < cases:
            yield Sample(np.sort(order[done:upto]), np.zeros((upto - done, 1), dtype=int))
            done, upto = upto, min(cases, (4 if done == 0 else 2) * upto)
        return
    sequences, places = spread_order(cases), spread_order(tokens)
    moved = (places + spread_order(cases)[:, None] * tokens // cases) % tokens  # (cases, tokens)
    done = min(tokens, FIRST_PLACES)
    tried, upto = 0, FIRST_SEQUENCES
    while tried < cases:
        some = np.sort(sequences[tried:upto])
        yield Sample(some, np.sort(moved[some, :done], axis=1))
        tried, upto = min(upto, cases), 2 * upto
    while done < tokens:
        yield Sample(np.arange(cases), np.sort(moved[:, done : 2 * done], axis=1))
        done = min(tokens, 2 * done)
