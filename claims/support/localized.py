"""The kurtosis of o and down against the rest, as a statistic of blocks."""

from __future__ import annotations

import numpy as np
import xarray as xr

from awq_core.judging.by_block import as_blocks, contrast_by_block
from awq_core.judging.intervals import Estimate, Statistic
from awq_core.judging.metrics import mean_kurtosis
from awq_core.measured import Measured
from claims.support.claim import Setting
from claims.support.readers import outlier_families

KURTOSIS_FLOOR = 0.05
"""Both means are floored here (design): near-Gaussian inputs would make the ratio a division by noise."""


def log_kurtosis_ratio(measured: Measured) -> tuple[Statistic, int]:
    """ln(mean kurtosis of o and down / mean kurtosis of the rest), and the number of blocks."""
    kurtosis = mean_kurtosis(measured)
    inside = outlier_families(kurtosis).values
    mine, rest = as_blocks(kurtosis, inside), as_blocks(kurtosis, ~inside)

    def statistic(index: np.ndarray) -> np.ndarray:
        numerator = np.maximum(np.nanmean(mine[index], axis=(-2, -1)), KURTOSIS_FLOOR)
        denominator = np.maximum(np.nanmean(rest[index], axis=(-2, -1)), KURTOSIS_FLOOR)
        return np.log(numerator / denominator)

    return statistic, len(mine)


def benefit_difference(gains: xr.DataArray, setting: Setting, without: int | None = None) -> Estimate:
    """Mean reduction of o and down minus the rest's, resampling blocks; optionally with one block left out.

    Args:
        gains: reduction of every linear, `(linear,)`.
        setting: for the seed.
        without: the block that is left out.
    """
    kept = gains if without is None else gains.isel(linear=np.flatnonzero(gains["linear_block"].values != without))
    return contrast_by_block(kept, outlier_families(kept), seed=setting.seed)
