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

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from awq_core.judging.evidence import Interval, Threshold

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
        interval: confidence interval in the claim's unit, at 95%, or at a higher level for one of several looks.
        standard_error: standard error on the scale on which the interval is symmetric.
        degrees_of_freedom: degrees of freedom of the t distribution behind the interval.
        logarithmic: whether the interval is symmetric on the scale of logarithms.
        parts: values that the estimate summarises, by name (usually one for each linear), to name the worst.
        details: other metrics to report with the estimate.
    """

    value: float
    interval: Interval
    standard_error: float
    degrees_of_freedom: float
    logarithmic: bool = False
    parts: dict[str, float] = field(default_factory=dict)
    details: dict[str, float | str] = field(default_factory=dict)

    def p_value(self, threshold: Threshold) -> float:
        """Compute the two-sided p value of the hypothesis that the true value lies on the threshold.

        For one of several looks, it is multiplied by the number of looks (Bonferroni), so that there is a verdict
        exactly when it is below 5%.
        """
        scale = (lambda v: math.log(max(v, 1e-300))) if self.logarithmic else (lambda v: v)
        edges = [edge for edge in (threshold.lower, threshold.upper) if edge is not None]
        chances = []
        for edge in edges:
            distance = abs(scale(self.value) - scale(edge))
            if self.standard_error == 0:
                chances.append(0.0 if distance > 0 else 1.0)
            else:
                chances.append(2 * float(stats.t.sf(distance / self.standard_error, self.degrees_of_freedom)))
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

    Raises:
        InsufficientDataError: if there are fewer clusters than `FEWEST`.
        ValueError: if the statistic is NaN or infinite.
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
    # Welch-Satterthwaite degrees of freedom of a sum of independent variances.
    spread = sum(variance**2 / degrees for variance, degrees in variances if variance > 0)
    degrees = total**2 / spread if spread > 0 else float(variances[0][1])
    standard_error = math.sqrt(total)
    level = 1 - (1 - CONFIDENCE) / looks if looks > 1 else CONFIDENCE
    half = float(stats.t.ppf(0.5 + level / 2, degrees)) * standard_error
    back = math.exp if logarithmic else float
    lower, upper = back(point - half), back(point + half)
    lower, upper = max(lower, bounds[0]), min(upper, bounds[1])
    interval = Interval(lower, upper, method, resampled, n, seed, looks, level)
    return Estimate(back(point), interval, standard_error, degrees, logarithmic)
