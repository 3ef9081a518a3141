"""Statistics of per-linear values, with intervals that resample blocks, as linears of one block are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from awq_core.judging.intervals import CONFIDENCE, Estimate, Statistic, cluster_estimate

Reduce = Callable[..., Any]
"""Reduction of an array over given axes, such as `np.nanmean` or `np.nanmedian`."""


def as_blocks(values: xr.DataArray, keep: np.ndarray | None = None) -> np.ndarray:
    """Arrange per-linear (or per-site) values by block.

    Args:
        values: `(linear,)` with `linear_block`, or `(site,)` with `site_block`.
        keep: `(linear,)` booleans; values at False become NaN.

    Returns:
        `[blocks, linears of a block]`, padded with NaN where a block has fewer.

    Raises:
        ValueError: if a value is NaN, which is an error and never a linear to leave out.
    """
    dimension = str(values.dims[0])
    if np.isnan(values.values).any():
        raise ValueError("a reading of the measurements is NaN")
    blocks = values[f"{dimension}_block"].values
    array = np.where(keep, values.values, np.nan) if keep is not None else values.values.astype(float)
    rows = [array[blocks == block] for block in np.unique(blocks)]
    widest = max(map(len, rows))
    return np.stack([np.pad(row, (0, widest - len(row)), constant_values=np.nan) for row in rows])


def pooled(rows: np.ndarray, reduce: Reduce = np.nanmean) -> Statistic:
    """Make a statistic of block indices that reduces all values of these blocks.

    Args:
        rows: `[blocks, linears]`, from `as_blocks`.
        reduce: reduction over the last two axes.
    """
    return lambda index: reduce(rows[index], axis=(-2, -1))


def estimate_by_block(
    values: xr.DataArray, *, seed: int, reduce: Reduce = np.nanmean, logarithmic: bool = False, **further: Any
) -> Estimate:
    """Estimate the mean (or another reduction) over linears, with an interval that resamples blocks.

    Args:
        values: `(linear,)`; logarithms if `logarithmic`.
        seed: seed of the resampling.
        reduce: reduction over linears.
        logarithmic: whether to exponentiate the estimate and its interval.
        further: keyword arguments of `cluster_estimate`.
    """
    rows = as_blocks(values)
    estimate = cluster_estimate(
        pooled(rows, reduce), len(rows), resampled="blocks", seed=seed, logarithmic=logarithmic, **further
    )
    shown = values.copy(data=np.exp(values.values)) if logarithmic else values
    return with_parts(estimate, shown)


def share_by_block(values: xr.DataArray, *, trials: int, seed: int) -> Estimate:
    """Estimate a share, averaged over linears, with an interval that resamples blocks.

    If the share is 0 in every linear, or 1 in every linear, blocks do not vary and a bootstrap interval would have no
    width. The interval then has the half-width 3 / trials (the rule of three): up to this share, exceptions may well
    have gone unseen.

    Args:
        values: `(linear,)`, from 0 to 1.
        trials: total number of things (channels, linears) of which the share is taken.
        seed: seed of the resampling.
    """
    unanimous = values.values.min() == values.values.max() and values.values[0] in (0.0, 1.0)
    degrees = len(np.unique(values["linear_block"].values)) - 1
    unseen = 3 / trials / float(stats.t.ppf(0.5 + CONFIDENCE / 2, degrees)) if unanimous and degrees > 0 else 0.0
    return estimate_by_block(
        values, seed=seed, bounds=(0.0, 1.0), further_variance=unseen**2, further_degrees=max(degrees, 1)
    )


def contrast_by_block(
    values: xr.DataArray, inside: xr.DataArray, *, seed: int, reduce: Reduce = np.nanmean
) -> Estimate:
    """Estimate a reduction over some linears minus the same reduction over the others, resampling blocks.

    Args:
        values: `(linear,)`.
        inside: `(linear,)` booleans, True for the linears of the first reduction.
        seed: seed of the resampling.
        reduce: reduction over linears.
    """
    mine, rest = as_blocks(values, inside.values), as_blocks(values, ~inside.values)

    def statistic(index: np.ndarray) -> np.ndarray:
        return reduce(mine[index], axis=(-2, -1)) - reduce(rest[index], axis=(-2, -1))

    estimate = cluster_estimate(statistic, len(mine), resampled="blocks", seed=seed)
    return with_parts(estimate, values.isel(linear=np.flatnonzero(inside.values)))


def spearman_by_block(first: xr.DataArray, second: xr.DataArray, *, seed: int) -> Estimate:
    """Estimate Spearman's rank correlation over linears, resampling blocks; 0 if either side is constant."""
    a, b = as_blocks(first), as_blocks(second)

    def statistic(index: np.ndarray) -> np.ndarray:
        return rank_correlation(a[index].reshape(*index.shape[:-1], -1), b[index].reshape(*index.shape[:-1], -1))

    return cluster_estimate(statistic, len(a), resampled="blocks", seed=seed, bounds=(-1.0, 1.0))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute Spearman's correlation along the last axis, ignoring NaN; 0 if either side is constant.

    Args:
        a: `(..., n)`.
        b: `(..., n)`, NaN at the same places as `a`.

    Returns:
        `(...)`, from -1 to 1.
    """
    x, y = (stats.rankdata(v, axis=-1, nan_policy="omit") for v in (a, b))
    x, y = x - np.nanmean(x, axis=-1, keepdims=True), y - np.nanmean(y, axis=-1, keepdims=True)
    covariance = np.nansum(x * y, axis=-1)
    scale = np.sqrt(np.nansum(x * x, axis=-1) * np.nansum(y * y, axis=-1))
    return np.where(scale > 0, covariance / np.where(scale > 0, scale, 1.0), 0.0)


def with_parts(estimate: Estimate, values: xr.DataArray) -> Estimate:
    """Attach to an estimate the per-linear values that it summarises."""
    names: Sequence[Any] = values[str(values.dims[0])].values.tolist()
    return replace(estimate, parts=dict(zip(map(str, names), map(float, values.values), strict=True)))
