"""Coverage under optional stopping, by simulation: how often any look's interval excludes the truth.

Were a claim's truth on its threshold, a rule that stops at the first look that decides would err exactly where some
look's interval excludes it. Losses of windows are skewed; of the paired differences that claims read, seven models of
1 to 160 million parameters have skewnesses up to 1.1. For a mean the interval is Student's on windows
(`tests/test_interval_coverage.py`), which a simulation can make in thousands. Everything is seeded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from awq_core.judging import intervals
from awq_core.judging.intervals import cluster_estimate
from awq_core.measure.methods.looks import FIRST_WINDOWS, registered_looks

DATASETS = 20_000
"""Monte-Carlo standard error: 0.15 points at 5%."""

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
"""Differences of windows with mean 0, `[datasets, windows]`."""


def even(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.normal(size=shape)


def as_skewed_as_measured(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Skewness 1.1."""
    return rng.exponential(size=shape) - 1 + 0.7 * rng.normal(size=shape)


def more_skewed(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Skewness 1.75."""
    return np.exp(0.5 * rng.normal(size=shape)) - np.exp(0.125)


def heavy_tailed(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_t(3, size=shape)


def with_tables(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """One window in twenty is unlike the others: a table, say."""
    return rng.normal(size=shape) + 5 * (rng.random(shape) < 0.05) - 0.25


def ever_missed(draw: Draw, looks: tuple[int, ...], alpha: float) -> float:
    """How often some look's interval, at level `1 - alpha`, excludes the truth."""
    values = draw(np.random.default_rng(0), (DATASETS, looks[-1]))
    missed = np.zeros(DATASETS, dtype=bool)
    for windows in looks:
        part = values[:, :windows]
        error = part.std(axis=1, ddof=1) / np.sqrt(windows)
        missed |= np.abs(part.mean(axis=1)) > stats.t.ppf(1 - alpha / 2, windows - 1) * error
    return float(missed.mean())


REGISTERED = [registered_looks(windows, 2, None).windows for windows in (64, 128)]


@pytest.mark.parametrize("looks", REGISTERED, ids=str)
@pytest.mark.parametrize(
    ("draw", "at_most"),
    [(even, 0.05), (as_skewed_as_measured, 0.052), (heavy_tailed, 0.05), (more_skewed, 0.07), (with_tables, 0.07)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_all_looks_together_are_covered(draw: Draw, at_most: float, looks: tuple[int, ...]) -> None:
    assert ever_missed(draw, looks, 0.05 / len(looks)) <= at_most


@pytest.mark.parametrize("draw", [as_skewed_as_measured, more_skewed, with_tables])
def test_looking_costs_hardly_more_coverage_than_skewness_itself_does(draw: Draw) -> None:
    looks = REGISTERED[0]
    assert ever_missed(draw, looks, 0.05 / len(looks)) <= ever_missed(draw, looks[-1:], 0.05) + 0.0125


def test_a_smaller_first_look_would_not_be_covered() -> None:
    assert REGISTERED[0][0] == FIRST_WINDOWS == 16
    with_eight = (8, *REGISTERED[0])
    assert ever_missed(more_skewed, with_eight, 0.05 / len(with_eight)) > 0.075


def test_looking_without_wider_intervals_would_be_wrong_twice_as_often() -> None:
    assert ever_missed(even, REGISTERED[1], 0.05) > 0.1


def test_the_suite_s_own_intervals_are_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with `cluster_estimate`, for a ratio of means: `salience.weight-is-chance` reads one."""
    monkeypatch.setattr(intervals, "RESAMPLES", 300)
    rng = np.random.default_rng(3)
    looks, datasets, held = REGISTERED[0], 600, 0
    for seed in range(datasets):
        above = 1.0 + 0.5 * as_skewed_as_measured(rng, (1, looks[-1]))[0]
        below = 2.0 + 0.3 * as_skewed_as_measured(rng, (1, looks[-1]))[0]

        def ratio(index: np.ndarray, above: np.ndarray = above, below: np.ndarray = below) -> np.ndarray:
            return above[index].mean(axis=-1) / below[index].mean(axis=-1)

        found = [
            cluster_estimate(ratio, windows, resampled="windows", seed=seed, looks=len(looks)).interval
            for windows in looks
        ]
        held += all(interval.lower <= 0.5 <= interval.upper for interval in found)
    assert held / datasets >= 0.93  # Monte-Carlo standard error: 0.9 points; fewer resamples than the suite's add noise
