"""Comparing a model with its untrained twins: blocks are paired by depth, and the twins' own spread counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from awq_core.by_block import as_blocks, pooled
from awq_core.intervals import Estimate, Statistic, cluster_estimate
from awq_core.measured import Measured
from claims.claim import NotApplicableError, Setting
from claims.readers import named

ByBlock = Callable[[Measured], tuple[Statistic, int]]
"""From measurements to a statistic of blocks, and how many blocks there are."""


def mean_over_linears(values: Callable[[Measured], xr.DataArray]) -> ByBlock:
    """The statistic that averages per-linear (or per-site) values of the chosen blocks."""
    return _reduced(values, np.nanmean)


def median_over_linears(values: Callable[[Measured], xr.DataArray]) -> ByBlock:
    """The statistic that takes the median of per-linear (or per-site) values of the chosen blocks."""
    return _reduced(values, np.nanmedian)


def minus_twin(measured: Measured, statistic: ByBlock, setting: Setting) -> Estimate:
    """A statistic of the model minus its mean over the untrained twins.

    Blocks are resampled in pairs (the same depth in the model and in each twin); the variance between the
    twins' seeds, over their number, is added.

    Raises:
        NotApplicableError: for a measurement without twins (a twin has none of its own).
    """
    if len(measured.twins) < 2:
        raise NotApplicableError("the measurement has no untrained twins to be compared with")
    mine, blocks = statistic(measured)
    theirs = [statistic(twin)[0] for twin in measured.twins]

    def difference(index: np.ndarray) -> np.ndarray:
        return mine(index) - np.mean([twin(index) for twin in theirs], axis=0)

    everything = np.arange(blocks)
    seeds = np.array([float(twin(everything)) for twin in theirs])
    estimate = cluster_estimate(
        difference,
        blocks,
        resampled="blocks",
        seed=setting.seed,
        further_variance=float(seeds.var(ddof=1)) / len(seeds),
        further_degrees=len(seeds) - 1,
    )
    return named(estimate, None, {"the model's own": float(mine(everything)), "its twins' mean": float(seeds.mean())})


def _reduced(values: Callable[[Measured], xr.DataArray], reduce: Callable[..., np.ndarray]) -> ByBlock:
    def statistic(measured: Measured) -> tuple[Statistic, int]:
        rows = as_blocks(values(measured))
        return pooled(rows, reduce), len(rows)

    return statistic
