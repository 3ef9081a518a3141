"""Comparing a model with its untrained twins: blocks are paired by depth, and the twins' own spread counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from awq_core.judging.by_block import as_blocks, pooled
from awq_core.judging.intervals import Estimate, Statistic, cluster_estimate
from awq_core.measured import Measured
from claims.support.claim import NotApplicableError, Setting
from claims.support.readers import named

ByBlock = Callable[[Measured], tuple[Statistic, int]]
"""From measurements to a statistic of blocks, and how many blocks there are."""


PerLinear = Callable[[Measured], xr.DataArray]
"""From measurements to one value for each linear, or for each site."""


def mean_beyond_twin(measured: Measured, values: PerLinear, setting: Setting) -> Estimate:
    """Mean of per-linear (or per-site) values, minus the untrained twins'."""
    return minus_twin(measured, _reduced(values, np.nanmean), setting, values)


def median_beyond_twin(measured: Measured, values: PerLinear, setting: Setting) -> Estimate:
    """Median of per-linear (or per-site) values, minus the untrained twins'."""
    return minus_twin(measured, _reduced(values, np.nanmedian), setting, values)


def minus_twin(measured: Measured, statistic: ByBlock, setting: Setting, values: PerLinear | None = None) -> Estimate:
    """A statistic of the model minus its mean over the untrained twins.

    Blocks are resampled in pairs (the same depth in the model and in each twin); the variance between the
    twins' seeds, over their number, is added. Where the statistic summarises `values`, each one's difference to
    the twins' is kept by name, so that the worst can be named.

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
    readings: dict[str, float | str] = {
        "the model's own": float(mine(everything)),
        "its twins' mean": float(seeds.mean()),
    }
    if values is None:
        return named(estimate, None, readings)
    own = values(measured)
    beyond = own.copy(data=own.values - np.mean([values(twin).values for twin in measured.twins], axis=0))
    return named(estimate, beyond, readings)


def _reduced(values: PerLinear, reduce: Callable[..., np.ndarray]) -> ByBlock:
    def statistic(measured: Measured) -> tuple[Statistic, int]:
        rows = as_blocks(values(measured))
        return pooled(rows, reduce), len(rows)

    return statistic
