"""Concentration: importance sits in few channels."""

import numpy as np

from awq_core.judging.by_block import estimate_by_block, share_by_block
from awq_core.judging.intervals import Estimate, jackknife_estimate
from awq_core.judging.metrics import enrichment, hockey_stick, large_channels, natural_log, top_share
from awq_core.measured import Measured
from claims.support.claim import Setting, claim
from claims.support.readers import highest_on_calibration, named, wide_enough


@claim(
    "concentration.some-layer",
    "In some linear, the top 1% of channels hold more than five times their part of the importance",
    source="AWQ-Diag: up to 17.6% in one layer",
    above=5,
    unit="times its part",
)
def test_some_layer(measured: Measured, setting: Setting) -> Estimate:
    linear = highest_on_calibration(wide_enough(enrichment(measured, "calibration")))
    heldout = enrichment(measured)
    without = measured.channels["enrichment_without_group"].sel(linear=linear).values
    estimate = jackknife_estimate(
        float(heldout.sel(linear=linear)), without, resampled="groups of windows", logarithmic=True
    )
    share = float(top_share(measured).sel(linear=linear))
    return named(estimate, heldout, {"raw share of the top 1%": share}, linear=linear)


@claim(
    "concentration.typical-layer",
    "In the typical linear, the top 1% of channels hold more than twice their part of the importance",
    source="AWQ-Diag: median 4.8%",
    above=2,
    unit="times its part",
)
def test_typical_layer(measured: Measured, setting: Setting) -> Estimate:
    values = natural_log(wide_enough(enrichment(measured)))
    estimate = estimate_by_block(values, seed=setting.seed, reduce=np.nanmedian, logarithmic=True)
    return named(estimate, None, {"median raw share of the top 1%": float(top_share(measured).median())})


@claim(
    "concentration.hockey-stick",
    "Sorted by importance, the top 1% of channels stand more than three times above the median channel",
    source="AWQ-Diag: the hockey-stick curves",
    above=3,
    unit="times the median",
)
def test_hockey_stick(measured: Measured, setting: Setting) -> Estimate:
    values = natural_log(wide_enough(hockey_stick(measured)))
    return estimate_by_block(values, seed=setting.seed, reduce=np.nanmedian, logarithmic=True)


@claim(
    "concentration.few-large",
    "Only about 1% of channels have large activations: more than three times the median magnitude",
    source="conceptual guide: only ~1% of channels",
    above=0.001,
    below=0.03,
    unit="share of channels",
)
def test_few_large(measured: Measured, setting: Setting) -> Estimate:
    sites = measured.channels["site_width"].values
    return share_by_block(wide_enough(large_channels(measured)), trials=int(sites.sum()), seed=setting.seed)
