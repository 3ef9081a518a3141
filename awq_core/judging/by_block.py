"""Statistics of per-linear values that resample whole blocks: the linears of one block are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from awq_core.judging.intervals import CONFIDENCE, Estimate, Statistic, cluster_estimate

Reduce = Callable[..., Any]
"""Such as `np.nanmean` or `np.nanmedian`: takes an array and the axes to reduce."""


def as_blocks(values: xr.DataArray, keep: np.ndarray | None = None) -> np.ndarray:
    """Per-linear (or per-site) values as `[blocks, linears of a block]`, NaN where a block has fewer.

    Args:
        values: `(linear,)` with `linear_block`, or `(site,)` with `site_block`.
        keep: `(linear,)` booleans; the others become NaN.

    Raises:
        ValueError: if a value is NaN: an error, never a linear to leave out.
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
    """The statistic that reduces all linears of the chosen blocks: `rows` is `[blocks, linears]`."""
    return lambda index: reduce(rows[index], axis=(-2, -1))


def estimate_by_block(
    values: xr.DataArray, *, seed: int, reduce: Reduce = np.nanmean, logarithmic: bool = False, **further: Any
) -> Estimate:
    """Mean (or another reduction) over linears with an interval that resamples blocks.

    Args:
        values: `(linear,)`; the logarithms where `logarithmic`.
        seed: of the resampling.
        reduce: mean by default.
        logarithmic: exponentiate the estimate and its interval.
        further: passed to `cluster_estimate`.
    """
    rows = as_blocks(values)
    estimate = cluster_estimate(
        pooled(rows, reduce), len(rows), resampled="blocks", seed=seed, logarithmic=logarithmic, **further
    )
    shown = values.copy(data=np.exp(values.values)) if logarithmic else values
    return summarising(estimate, shown)


def share_by_block(values: xr.DataArray, *, trials: int, seed: int) -> Estimate:
    """A share, averaged over linears, with an interval that resamples blocks.

    Where every linear has the same share, all or nothing, blocks do not vary and a bootstrap would claim
    certainty. The interval is then as wide as the rule of three makes it: a share of 3 / trials may well have
    gone unseen.

    Args:
        values: `(linear,)`, from 0 to 1.
        trials: of how many things (channels, linears) the share is one.
        seed: of the resampling.
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
    """Reduction over some linears minus that over the rest, resampling blocks.

    Args:
        values: `(linear,)`.
        inside: `(linear,)` booleans.
        seed: of the resampling.
        reduce: mean by default.
    """
    mine, rest = as_blocks(values, inside.values), as_blocks(values, ~inside.values)

    def statistic(index: np.ndarray) -> np.ndarray:
        return reduce(mine[index], axis=(-2, -1)) - reduce(rest[index], axis=(-2, -1))

    estimate = cluster_estimate(statistic, len(mine), resampled="blocks", seed=seed)
    return summarising(estimate, values.isel(linear=np.flatnonzero(inside.values)))


def spearman_by_block(first: xr.DataArray, second: xr.DataArray, *, seed: int) -> Estimate:
    """Spearman's rank correlation over linears, resampling blocks; 0 where either side is constant."""
    a, b = as_blocks(first), as_blocks(second)

    def statistic(index: np.ndarray) -> np.ndarray:
        return rank_correlation(a[index].reshape(*index.shape[:-1], -1), b[index].reshape(*index.shape[:-1], -1))

    return cluster_estimate(statistic, len(a), resampled="blocks", seed=seed, bounds=(-1.0, 1.0))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation along the last axis, NaN in both ignored; 0 where one side is constant."""
    x, y = (stats.rankdata(v, axis=-1, nan_policy="omit") for v in (a, b))
    x, y = x - np.nanmean(x, axis=-1, keepdims=True), y - np.nanmean(y, axis=-1, keepdims=True)
    covariance = np.nansum(x * y, axis=-1)
    scale = np.sqrt(np.nansum(x * x, axis=-1) * np.nansum(y * y, axis=-1))
    return np.where(scale > 0, covariance / np.where(scale > 0, scale, 1.0), 0.0)


def summarising(estimate: Estimate, values: xr.DataArray) -> Estimate:
    """The estimate, with the per-linear values that it summarises."""
    names: Sequence[Any] = values[str(values.dims[0])].values.tolist()
    return replace(estimate, summarised=dict(zip(map(str, names), map(float, values.values), strict=True)))
