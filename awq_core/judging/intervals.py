"""Estimates with 95% intervals: one implementation for every claim.

What is resampled is what is exchangeable: blocks, windows, or groups of windows; never tokens, never linears
of one block. With four to six clusters a percentile bootstrap is too narrow, so the bootstrap gives the
standard error only, corrected by `sqrt(n / (n - 1))`, and Student's t with `n - 1` degrees of freedom gives the
interval. For a mean that is exactly the t interval on cluster means; `tests/test_interval_coverage.py` shows by
simulation that its coverage holds for medians, ratios and rank correlations as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from awq_core.judging.evidence import Interval, Scale, Threshold

Statistic = Callable[[NDArray[np.intp]], NDArray[np.float64]]
"""From cluster indices `(..., n)` to the statistic `(...)` of those clusters: vectorised over resamples."""

CONFIDENCE = 0.95
RESAMPLES = 1999
FEWEST = {"blocks": 4, "windows": 16, "groups of windows": 16}
"""Fewer of them are insufficient data: no verdict."""


class InsufficientDataError(Exception):
    """Too few blocks, windows or groups; or too little damage for a claim about recovering it."""


@dataclass(frozen=True)
class Estimate:
    """An estimate and its uncertainty.

    Attributes:
        value: the estimate, in the claim's unit.
        interval: its 95% interval, in the same unit, with its standard error; one of several looks' is wider.
        summarised: the values that it summarises, by name (usually one for each linear), for naming the worst.
        linear: the one linear that it is of, chosen on calibration tokens.
        variants: the same quantity estimated otherwise, by name, to be held against the same threshold.
        readings: further readings to report with it.
    """

    value: float
    interval: Interval
    summarised: dict[str, float] = field(default_factory=dict)
    linear: str | None = None
    variants: dict[str, Estimate] = field(default_factory=dict)
    readings: dict[str, float | str] = field(default_factory=dict)

    def p_value(self, threshold: Threshold) -> float:
        """Chance of an estimate this far from the threshold, on either side, were the truth on the threshold.

        Of several looks, at any of them: the chance at this one times their number (Bonferroni), so that a verdict
        stands exactly where this is below 5%.
        """
        error, degrees = self.interval.standard_error, self.interval.degrees_of_freedom
        logarithmic = self.interval.scale is Scale.LOGARITHM
        scale = (lambda v: math.log(max(v, 1e-300))) if logarithmic else (lambda v: v)
        edges = [edge for edge in (threshold.lower, threshold.upper) if edge is not None]
        chances = []
        for edge in edges:
            distance = abs(scale(self.value) - scale(edge))
            if error == 0:
                chances.append(0.0 if distance > 0 else 1.0)
            else:
                chances.append(2 * float(stats.t.sf(distance / error, degrees)))
        # Of two edges the nearer one decides: inside, both must be cleared; outside, the one that was passed.
        return min(1.0, self.interval.looks * max(chances))


def cluster_estimate(
    statistic: Statistic,
    clusters: int,
    *,
    resampled: str,
    seed: int,
    logarithmic: bool = False,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    further_variance: float = 0.0,
    further_degrees: float = math.inf,
    looks: int = 1,
) -> Estimate:
    """Estimate and interval of a statistic of exchangeable clusters.

    Args:
        statistic: vectorised over resamples; where `logarithmic`, it gives the logarithm of what is estimated.
        clusters: how many there are.
        resampled: what they are: blocks, windows, or groups of windows.
        seed: of the resampling.
        logarithmic: the interval is symmetric in the logarithm; value and ends are exponentiated.
        bounds: values that the estimand cannot leave.
        further_variance: variance of an independent source (the untrained twin's seeds), added to the square
            of the standard error, on the statistic's scale.
        further_degrees: degrees of freedom of that variance.
        looks: how many looks at growing data were registered, of which this is one. Each look's interval is then at
            level `1 - 0.05 / looks`: the chance that any of them misses the truth is at most the sum of the chances
            that each does, 5%, however the looks depend on one another and whenever looking stops.

    Raises:
        InsufficientDataError: with fewer clusters than `FEWEST`.
        ValueError: if the statistic is NaN: an error, never a verdict.
    """
    if clusters < FEWEST[resampled]:
        raise InsufficientDataError(f"{clusters} {resampled}, and an interval needs at least {FEWEST[resampled]}")
    point = float(statistic(np.arange(clusters)))
    draws = np.random.default_rng(seed).integers(0, clusters, size=(RESAMPLES, clusters))
    distribution = statistic(draws)  # (resamples,)
    if not (math.isfinite(point) and np.isfinite(distribution).all()):
        raise ValueError("a statistic of the measurements is NaN or infinite")
    variance = float(distribution.var(ddof=1)) * clusters / (clusters - 1)
    return _student(
        point,
        [(variance, clusters - 1), (further_variance, further_degrees)],
        f"bootstrap standard error over {resampled}, Student's t",
        resampled,
        clusters,
        seed,
        logarithmic,
        bounds,
        looks,
    )


def jackknife_estimate(
    value: float, without: NDArray[np.float64], *, resampled: str, logarithmic: bool = False
) -> Estimate:
    """Interval of a statistic of one linear from its values with each group of windows left out.

    Args:
        value: the statistic over all groups.
        without: `(groups,)`, the statistic without each one.
        resampled: what the groups are.
        logarithmic: make the interval in the logarithm.

    Raises:
        InsufficientDataError: with fewer groups than `FEWEST`.
    """
    groups = len(without)
    if groups < FEWEST[resampled]:
        raise InsufficientDataError(f"{groups} {resampled}, and an interval needs at least {FEWEST[resampled]}")
    scale = np.log if logarithmic else np.asarray
    left_out = scale(without)
    variance = (groups - 1) / groups * float(((left_out - left_out.mean()) ** 2).sum())
    point = float(scale(np.float64(value)))
    method = f"jackknife over {resampled}, Student's t"
    return _student(
        point, [(variance, groups - 1)], method, resampled, groups, None, logarithmic, (-math.inf, math.inf)
    )


def two_sample_jackknife(
    statistic: Callable[[list[NDArray[np.intp]]], float],
    sizes: list[int],
    *,
    resampled: str,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """Interval of a statistic of two independent samples of clusters, leaving out one cluster at a time.

    Args:
        statistic: from the kept indices of each sample to the statistic.
        sizes: how many clusters each sample has.
        resampled: what they are.
        bounds: values that the estimand cannot leave.

    Raises:
        InsufficientDataError: with fewer clusters than `FEWEST` in either sample.
    """
    if min(sizes) < FEWEST[resampled]:
        raise InsufficientDataError(f"{min(sizes)} {resampled}, and an interval needs at least {FEWEST[resampled]}")
    everything = [np.arange(size) for size in sizes]
    variances = []
    for sample, size in enumerate(sizes):
        left_out = np.array(
            [
                statistic([np.delete(kept, i) if s == sample else kept for s, kept in enumerate(everything)])
                for i in range(size)
            ]
        )
        variances.append(((size - 1) / size * float(((left_out - left_out.mean()) ** 2).sum()), float(size - 1)))
    method = f"jackknife over {resampled} of both, Student's t"
    return _student(statistic(everything), variances, method, resampled, sum(sizes), None, False, bounds)


def _student(
    point: float,
    variances: list[tuple[float, float]],
    method: str,
    resampled: str,
    n: int,
    seed: int | None,
    logarithmic: bool,
    bounds: tuple[float, float],
    looks: int = 1,
) -> Estimate:
    total = sum(variance for variance, _ in variances)
    # Welch and Satterthwaite: the degrees of freedom of a sum of independent variances.
    spread = sum(variance**2 / degrees for variance, degrees in variances if variance > 0)
    degrees = total**2 / spread if spread > 0 else float(variances[0][1])
    standard_error = math.sqrt(total)
    level = 1 - (1 - CONFIDENCE) / looks if looks > 1 else CONFIDENCE
    half = float(stats.t.ppf(0.5 + level / 2, degrees)) * standard_error
    back = math.exp if logarithmic else float
    lower, upper = back(point - half), back(point + half)
    lower, upper = max(lower, bounds[0]), min(upper, bounds[1])
    interval = Interval(
        lower,
        upper,
        method,
        resampled,
        n,
        seed,
        looks,
        level,
        standard_error=standard_error,
        degrees_of_freedom=degrees,
        scale=Scale.LOGARITHM if logarithmic else Scale.LINEAR,
    )
    return Estimate(back(point), interval)
