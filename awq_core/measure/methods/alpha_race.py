"""Race of exponents on samples of the calibration tokens, until more tokens could gain little.

All candidates are tried on the same tokens, few at first. The gain that more tokens could bring is the expected regret
of choosing the best candidate so far. If another candidate's mean loss is larger by `d`, with standard error `s` due to
the tokens not tried, it is

    E[max(0, -d)] = s ((v + z^2) / (v - 1) p(z) - z P(T > z)),   z = d / s,

for Student's t with v degrees of freedom and density p. A candidate with a negligible regret is dropped. The race stops
when the regrets of the remaining candidates sum to less than `REGRET` of the best loss and each is unlikely (`CHANCE`)
to exceed `LARGEST_REGRET`. An exhaustive search spends most tokens on candidates that a few tokens rule out, and the
others on near-ties, whose regret is negligible.

A few tokens may dominate a loss (massive activations). The tokens with the largest outputs are therefore all tried, in
the first round, and sampling errors come from the other tokens alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import stats

from awq_core.measure.layers.racing import spread_order

REGRET = 1e-3
"""Largest sum of expected regrets at which a race stops, as a share of the best loss."""

LARGEST_REGRET = 4e-3
"""Regret that is unlikely to be exceeded when a race stops, as a share of the best loss."""

CHANCE = 0.01
"""Largest probability, for each remaining candidate, of a regret above `LARGEST_REGRET` when a race stops."""

FEWEST_DEGREES = 7
"""Smallest number of degrees of freedom at which a candidate is dropped: with fewer, its spread is too uncertain."""

FIRST_SEQUENCES = 16
"""Sequences in the first round, if a case is a sequence. They are doubled from round to round, and then the positions
of each."""

FIRST_POSITIONS = 32
"""Tokens of each sequence in the first round: keys and values of the whole sequence are needed for any number of
queries."""

FIRST_TOKENS = 256
"""Tokens in the first round, if a case is a token; the second round brings them to four times as many."""

LARGEST_TOKENS = 128
"""Number of tokens in the first round that are chosen because they have the largest outputs."""


@dataclass(frozen=True)
class Sample:
    """Tokens that a round tries, from some cases (sequences or single tokens).

    Attributes:
        cases: `(n,)`, indices of the cases.
        positions: `(n, p)`, positions of the tokens in each case.
    """

    cases: np.ndarray
    positions: np.ndarray


class Losses(Protocol):
    """Function that measures losses of candidates on samples of tokens.

    Attributes:
        candidates: number of candidates.
        cases: number of cases into which the tokens are divided.
        tokens: number of tokens in each case.
        size: `(cases,)`, squared outputs (for a linear, squared inputs) if a case is a token; else None.
    """

    candidates: int
    cases: int
    tokens: int

    @property
    def size(self) -> np.ndarray | None:
        """Squared outputs by case, `(cases,)`, or None."""
        ...

    def __call__(self, left: np.ndarray, sample: Sample) -> np.ndarray:
        """Measure losses `(k, n, p)` of candidates `left`, `(k,)` indices, on the sample's tokens."""
        ...


@dataclass(frozen=True)
class Race:
    """Result of a race.

    Attributes:
        winner: index of the winner; a tie goes to the lowest index.
        losses: `(candidates,)`, mean losses, estimated from the tokens on which each candidate was tried.
        tried: `(candidates,)`, share of the tokens on which each candidate was tried.
    """

    winner: int
    losses: np.ndarray
    tried: np.ndarray


def race(losses: Losses, *, exhaustive: bool = False) -> Race:
    """Find the candidate with the least mean loss.

    Args:
        losses: measures the candidates' losses.
        exhaustive: whether to try every candidate on every token.

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
        at = sample.cases[:, None], sample.positions
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
    """Estimate mean losses over all tokens from the tokens tried so far.

    Args:
        found: `(k, cases, tokens)`, losses, 0 where not tried.
        seen: `(cases, tokens)`, whether each token has been tried.
        largest: `(cases,)`, whether each case has one of the largest outputs, and is no part of the random sample.

    Returns:
        Mean losses, standard errors of their differences from the best one's, and degrees of freedom, `(k,)` each.
    """
    certain = found[:, largest].sum(axis=(1, 2))
    found, seen = found[:, ~largest], seen[~largest]
    cases = seen.any(axis=1)
    found, counts = found[:, cases], seen[cases].sum(axis=1)
    of_case = found.sum(axis=2) / counts  # (k, n)
    sampled = of_case.mean(axis=1)
    share = len(seen) / len(largest)  # of the tokens that are subject to sampling
    means = share * sampled + certain / (len(largest) * seen.shape[1])
    best = int(np.argmin(means))
    if seen.shape[1] > 1 and cases.all():  # every sequence is sampled
        behind = np.where(seen, found - found[best], 0.0)
        centred = np.where(seen, behind - (behind.sum(axis=2) / counts)[:, :, None], 0.0)
        freedom = np.maximum(counts - 1, 1)
        of_sequence = (centred**2).sum(axis=2) / freedom / counts  # (k, n), squared errors of the sequences' means
        variance = of_sequence.mean(axis=1) / len(counts)
        # Welch-Satterthwaite: if one sequence has most of the variance, its own number of tokens counts.
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
    """Drop candidates with a negligible expected regret, and all but the best if the race can stop.

    Args:
        means: `(k,)`, mean losses of the candidates in the race.
        errors: `(k,)`, standard errors of their differences from the best one's.
        degrees: `(k,)`, degrees of freedom of these standard errors.
        spent: sum of the expected regrets of candidates dropped before.

    Returns:
        Indices of the candidates that stay, and the new sum of the expected regrets of dropped candidates.
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
    # All rounds together spend at most half of the allowed regret on dropped candidates.
    allowance = max(0.0, REGRET * means[best] / 2 - spent) / len(means)
    staying = (regret > allowance) | (beyond > CHANCE / 10) | uncertain | ~others
    return np.flatnonzero(staying), spent + float(regret[~staying].sum())


def expected_regret(distance: np.ndarray, errors: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Compute the expected regret of choosing the best candidate so far instead of each other one (formula above).

    Args:
        distance: `(k,)`, differences of mean losses from the best one's.
        errors: `(k,)`, standard errors of these differences; 0 if they are exact.
        degrees: `(k,)`, degrees of freedom of these standard errors.

    Returns:
        `(k,)`, in units of the loss.
    """
    safe = np.where(errors > 0, errors, 1.0)
    z = distance / safe
    regret = safe * ((degrees + z**2) / (degrees - 1) * stats.t.pdf(z, degrees) - z * stats.t.sf(z, degrees))
    found: np.ndarray = np.where(errors > 0, regret, 0.0)
    return found


def _samples(cases: int, tokens: int, largest: np.ndarray) -> Iterator[Sample]:
    """Yield disjoint samples of tokens: a few hundred, then 1,000 to 2,000 in all over all sequences, then doubled.

    Positions differ between sequences, because otherwise a peculiar position (the first, say) would be in all or none.
    """
    if tokens == 1:
        spread = spread_order(cases)
        order = np.concatenate([np.flatnonzero(largest), spread[~largest[spread]]])
        done, upto = 0, min(cases, FIRST_TOKENS)
        while done < cases:
            yield Sample(np.sort(order[done:upto]), np.zeros((upto - done, 1), dtype=int))
            done, upto = upto, min(cases, (4 if done == 0 else 2) * upto)
        return
    sequences, positions = spread_order(cases), spread_order(tokens)
    moved = (positions + spread_order(cases)[:, None] * tokens // cases) % tokens  # (cases, tokens)
    done = min(tokens, FIRST_POSITIONS)
    tried, upto = 0, FIRST_SEQUENCES
    while tried < cases:
        some = np.sort(sequences[tried:upto])
        yield Sample(some, np.sort(moved[some, :done], axis=1))
        tried, upto = min(upto, cases), 2 * upto
    while done < tokens:
        yield Sample(np.arange(cases), np.sort(moved[:, done : 2 * done], axis=1))
        done = min(tokens, 2 * done)
