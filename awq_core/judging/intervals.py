"""Estimates with 95% confidence intervals: one implementation for all claims.

Resampling is of exchangeable clusters: blocks, windows, or groups of windows; never tokens, never linears of one block.
With four to six clusters a percentile bootstrap interval is too narrow. The bootstrap therefore gives only the standard
error, corrected by `sqrt(n / (n - 1))`, and Student's t with `n - 1` degrees of freedom gives the interval. For a mean
this is exactly the t interval on cluster means; `tests/test_interval_coverage.py` shows by simulation that its coverage
holds for medians, ratios and rank correlations as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from awq_core.judging.evidence import Interval, Scale, Threshold

Statistic = Callable[[NDArray[np.intp]], NDArray[np.float64]]
"""Function from cluster indices `(..., n)` to the statistic `(...)` of these clusters, vectorised over resamples."""

CONFIDENCE = 0.95
"""Confidence level of an interval, or of all interim looks together."""
RESAMPLES = 1999
"""Number of bootstrap resamples."""
FEWEST = {"blocks": 4, "windows": 16, "groups of windows": 16}
"""Smallest number of clusters with which a claim is judged, by kind of cluster."""


class InsufficientDataError(Exception):
    """Error for too few clusters, or for too little quantization damage for a claim about recovering it."""


@dataclass(frozen=True)
class Estimate:
    """Estimate and its uncertainty.

    Attributes:
        value: the estimate, in the claim's unit.
        find_interval: computes its interval. Only judged estimates need one, and resampling takes most of the time: the
            untrained twins' estimates, say, are shown without.
        summarised: the values that it summarises, by name (usually one for each linear), for naming the worst.
        linear: the one linear that it is of, chosen on calibration tokens.
        variants: the same quantity estimated otherwise, by name, to be held against the same threshold.
        readings: further readings to report with it.
    """

    value: float
    find_interval: Callable[[], Interval]
    summarised: dict[str, float] = field(default_factory=dict)
    linear: str | None = None
    variants: dict[str, Estimate] = field(default_factory=dict)
    readings: dict[str, float | str] = field(default_factory=dict)

    @property
    def interval(self) -> Interval:
        """Its 95% interval, in the same unit, with its standard error; one of several looks' is wider."""
        return self.find_interval()

    def p_value(self, threshold: Threshold) -> float:
        """Compute the two-sided p value of the hypothesis that the true value lies on the threshold.

        For one of several looks, it is multiplied by the number of looks (Bonferroni), so that there is a verdict
        exactly when it is below 5%.
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
        # The nearer of two edges decides: a value inside must clear both, a value outside has passed the nearer one.
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
    look: int = 1,
) -> Estimate:
    """Estimate a statistic of exchangeable clusters, with an interval from a bootstrap standard error.

    Args:
        statistic: statistic of cluster indices; if `logarithmic`, the logarithm of the estimand.
        clusters: number of clusters.
        resampled: kind of cluster, a key of `FEWEST`.
        seed: seed of the resampling.
        logarithmic: whether to exponentiate the estimate and the ends of its interval.
        bounds: smallest and largest possible value of the estimand, to which the interval is clipped.
        further_variance: variance of an independent source (the seeds of the untrained twins), added to the squared
            standard error, on the statistic's scale.
        further_degrees: degrees of freedom of `further_variance`.
        looks: number of registered looks at growing data, of which this is one. The interval of each look is at level
            `1 - 0.05 / looks`, so that the chance that any of them misses the truth is at most 5% (Bonferroni), however
            the looks depend on one another and whenever looking stops.
        look: which of the looks this is, from 1.

    Raises:
        InsufficientDataError: if there are fewer clusters than `FEWEST`.
        ValueError: if the statistic is NaN or infinite; of resamples, once the interval is asked for.
    """
    if clusters < FEWEST[resampled]:
        raise InsufficientDataError(f"{clusters} {resampled}, and an interval needs at least {FEWEST[resampled]}")
    point = float(statistic(np.arange(clusters)))
    _check_finite(point)

    def find() -> Interval:
        draws = np.random.default_rng(seed).integers(0, clusters, size=(RESAMPLES, clusters))
        distribution = statistic(draws)  # (resamples,)
        _check_finite(distribution)
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
            look,
        )

    return Estimate(_back(point, logarithmic), cache(find))


def jackknife_estimate(
    value: float, without: NDArray[np.float64], *, resampled: str, logarithmic: bool = False
) -> Estimate:
    """Estimate a statistic with a jackknife interval, from its values with each group left out.

    Args:
        value: statistic of all groups.
        without: `(groups,)`, statistic without each group.
        resampled: kind of group, a key of `FEWEST`.
        logarithmic: whether the interval is symmetric on the scale of logarithms.

    Raises:
        InsufficientDataError: if there are fewer groups than `FEWEST`.
    """
    groups = len(without)
    if groups < FEWEST[resampled]:
        raise InsufficientDataError(f"{groups} {resampled}, and an interval needs at least {FEWEST[resampled]}")
    scale = np.log if logarithmic else np.asarray
    left_out = scale(without)
    variance = (groups - 1) / groups * float(((left_out - left_out.mean()) ** 2).sum())
    point = float(scale(np.float64(value)))
    method = f"jackknife over {resampled}, Student's t"
    variances, bounds = [(variance, float(groups - 1))], (-math.inf, math.inf)
    interval = _student(point, variances, method, resampled, groups, None, logarithmic, bounds)
    return Estimate(_back(point, logarithmic), lambda: interval)


def two_sample_jackknife(
    statistic: Callable[[list[NDArray[np.intp]]], float],
    sizes: list[int],
    *,
    resampled: str,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """Estimate a statistic of independent samples of clusters, with a jackknife interval.

    Args:
        statistic: function from the cluster indices in use, one array for each sample, to the statistic.
        sizes: number of clusters of each sample.
        resampled: kind of cluster, a key of `FEWEST`.
        bounds: smallest and largest possible value of the estimand, to which the interval is clipped.

    Raises:
        InsufficientDataError: if either sample has fewer clusters than `FEWEST`.
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
    point = statistic(everything)
    interval = _student(point, variances, method, resampled, sum(sizes), None, False, bounds)
    return Estimate(point, lambda: interval)


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
    look: int = 1,
) -> Interval:
    total = sum(variance for variance, _ in variances)
    # Welch-Satterthwaite degrees of freedom of a sum of independent variances.
    spread = sum(variance**2 / degrees for variance, degrees in variances if variance > 0)
    degrees = total**2 / spread if spread > 0 else float(variances[0][1])
    standard_error = math.sqrt(total)
    level = 1 - (1 - CONFIDENCE) / looks if looks > 1 else CONFIDENCE
    half = float(stats.t.ppf(0.5 + level / 2, degrees)) * standard_error
    lower, upper = _back(point - half, logarithmic), _back(point + half, logarithmic)
    lower, upper = max(lower, bounds[0]), min(upper, bounds[1])
    return Interval(
        lower,
        upper,
        method,
        resampled,
        n,
        seed,
        looks,
        level,
        look,
        standard_error=standard_error,
        degrees_of_freedom=degrees,
        scale=Scale.LOGARITHM if logarithmic else Scale.LINEAR,
    )


def _back(value: float, logarithmic: bool) -> float:
    """Convert a value on the statistic's scale to the claim's unit."""
    return math.exp(value) if logarithmic else float(value)


def _check_finite(statistic: float | NDArray[np.float64]) -> None:
    if not np.isfinite(statistic).all():
        raise ValueError("a statistic of the measurements is NaN or infinite")
