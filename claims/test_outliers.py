"""Outliers: the salient channels are real, heavy-tailed outliers."""

import numpy as np
import xarray as xr

from awq_core.judging.by_block import estimate_by_block
from awq_core.judging.intervals import Estimate, jackknife_estimate
from awq_core.judging.metrics import mean_kurtosis, outlier_ratio, salient_auc
from awq_core.measured import Measured
from claims.support.claim import Setting, claim
from claims.support.readers import highest_on_calibration, named, outlier_families


@claim(
    "outliers.heavy-tailed",
    "Some linear's input is far from Gaussian: a mean excess kurtosis above 3",
    source="AWQ-Diag: kurtosis 12",
    above=3,
    unit="excess kurtosis",
)
def test_heavy_tailed(measured: Measured, setting: Setting) -> Estimate:
    linear = highest_on_calibration(mean_kurtosis(measured, "calibration"))
    heldout = mean_kurtosis(measured)
    site = measured.channels["linear_site"].sel(linear=linear).item()
    without = measured.channels["kurtosis_without_group"].sel(site=site).values
    estimate = jackknife_estimate(float(heldout.sel(linear=linear)), without, resampled="groups of windows")
    return named(estimate, heldout, {}, linear=linear)


@claim(
    "outliers.beyond-six-sigma",
    "At o and down, more values lie beyond six standard deviations than any Gaussian allows",
    source="AWQ-Diag: outlier ratio",
    above=1e-5,
    unit="share of values",
)
def test_beyond_six_sigma(measured: Measured, setting: Setting) -> Estimate:
    ratio = outlier_ratio(measured)
    inside = ratio.isel(linear=np.flatnonzero(outlier_families(ratio).values))
    return estimate_by_block(inside, seed=setting.seed, bounds=(0.0, 1.0))


@claim(
    "outliers.salient-are-outliers",
    "The important channels are the outliers: their kurtosis ranks above the other channels'",
    source="AWQ-Diag: the salient channels are genuine outliers",
    above=0.6,
    unit="AUC",
)
def test_salient_are_outliers(measured: Measured, setting: Setting) -> Estimate:
    auc: xr.DataArray = salient_auc(measured)
    return estimate_by_block(auc, seed=setting.seed, bounds=(0.0, 1.0))
