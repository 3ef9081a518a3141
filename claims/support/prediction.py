"""Predicting each linear's exponent from how concentrated its importance is, leaving that linear out."""

from __future__ import annotations

import numpy as np
import xarray as xr

from awq_core.judging.metrics import best_alpha, error_at
from awq_core.measured import ALPHAS, Measured
from claims.support.claim import Setting


def captured_by_prediction(measured: Measured, setting: Setting, share: xr.DataArray, alpha: xr.DataArray) -> float:
    """Share of the per-linear search's held-out gain that predicted exponents keep.

    A straight line from top-1% share to best exponent is fitted to all other linears, and its value, rounded
    to the grid, is used.

    Args:
        measured: the measurements.
        setting: quantizer and bits.
        share: `(linear,)`, top-1% share on calibration tokens.
        alpha: `(linear,)`, best exponent on calibration tokens.

    Returns:
        1 for all of the gain, 0 for none of it; 0 where there is no gain to keep.
    """
    x, y = share.values, alpha.values
    predicted = []
    for left_out in range(len(x)):
        others = np.arange(len(x)) != left_out
        spread = np.var(x[others])
        slope = np.cov(x[others], y[others], bias=True)[0, 1] / spread if spread > 0 else 0.0
        value = y[others].mean() + slope * (x[left_out] - x[others].mean())
        predicted.append(min(ALPHAS, key=lambda a: abs(a - value)))
    bits, quantizer = setting.precision, setting.quantizer
    every = best_alpha(measured, quantizer, bits)
    chosen = every.copy(data=every.values.astype(float))
    chosen.loc[{"linear": share["linear"].values}] = predicted
    kept = share["linear"].values
    rtn = error_at(measured, quantizer, bits, 0.0).sel(linear=kept)
    best = error_at(measured, quantizer, bits, every).sel(linear=kept)
    with_prediction = error_at(measured, quantizer, bits, chosen).sel(linear=kept)
    gain = float((rtn - best).sum())
    return float((rtn - with_prediction).sum()) / gain if gain > 0 else 0.0
