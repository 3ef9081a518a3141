"""Learned: what training adds to the architecture, each against the untrained twin.

An untrained network already has heavy tails at o and down; only the difference to it was learned.
"""

import numpy as np
import xarray as xr

from awq_core.judging.intervals import Estimate
from awq_core.judging.metrics import enrichment, magnitude_spread, mean_kurtosis, natural_log, reduction
from awq_core.measured import Measured
from claims.support.against_twin import mean_beyond_twin, median_beyond_twin, minus_twin
from claims.support.claim import Setting, claim
from claims.support.localized import log_kurtosis_ratio
from claims.support.readers import outlier_families, wide_enough

SOURCE = "design: an untrained network already has its outliers in o and down"


@claim(
    "learned.concentration",
    "Training concentrates importance: more than in the untrained twin",
    source=SOURCE,
    above=0.1,
    unit="ln enrichment over the twin's",
)
def test_concentration(measured: Measured, setting: Setting) -> Estimate:
    return median_beyond_twin(measured, lambda m: natural_log(wide_enough(enrichment(m))), setting)


@claim(
    "learned.outliers",
    "Training makes the tails at o and down heavier than the architecture's own",
    source=SOURCE,
    above=0.1,
    unit="ln(1 + kurtosis) over the twin's",
)
def test_outliers(measured: Measured, setting: Setting) -> Estimate:
    def tails(m: Measured) -> xr.DataArray:
        kurtosis = mean_kurtosis(m)
        inside = np.flatnonzero(outlier_families(kurtosis).values)
        return natural_log(1 + kurtosis.isel(linear=inside).clip(min=0))

    return mean_beyond_twin(measured, tails, setting)


@claim(
    "learned.channels",
    "Training makes some channels far larger than others",
    source=SOURCE,
    above=0.1,
    unit="ln(largest / median) over the twin's",
)
def test_channels(measured: Measured, setting: Setting) -> Estimate:
    return median_beyond_twin(measured, magnitude_spread, setting)


@claim(
    "learned.localization",
    "Training makes o and down stand out more than they do untrained",
    source=SOURCE,
    above=0.1,
    unit="ln kurtosis ratio over the twin's",
)
def test_localization(measured: Measured, setting: Setting) -> Estimate:
    return minus_twin(measured, log_kurtosis_ratio, setting)


@claim(
    "learned.payoff",
    "AWQ's gain comes from what was learned: it exceeds the untrained twin's",
    source=SOURCE,
    above=0.02,
    unit="ln reduction over the twin's",
    bits=(4, 3),
)
def test_payoff(measured: Measured, setting: Setting) -> Estimate:
    def gain(m: Measured) -> xr.DataArray:
        return natural_log(reduction(m, setting.quantizer, setting.precision))

    return mean_beyond_twin(measured, gain, setting)
