"""Constant alpha: one exponent for the whole model is enough."""

import numpy as np
import xarray as xr

from awq_core.judging.by_block import as_blocks, estimate_by_block, spearman_by_block
from awq_core.judging.intervals import Estimate, cluster_estimate
from awq_core.judging.metrics import best_alpha, constant_alpha, error_at, error_ratio, natural_log, top_share
from awq_core.measured import Measured
from claims.support.claim import Setting, claim
from claims.support.model_losses import BLOCK, CLIPPED, gaps, mean_over_windows
from claims.support.prediction import captured_by_prediction
from claims.support.readers import named, where_layers_gain, wide_enough, worth_recovering


def constant_minus_block(measured: Measured, setting: Setting) -> Estimate:
    """Loss of the constant exponent (every linear, unfolded) minus that of the block-level search (folded)."""
    worth_recovering(measured, setting)
    constant, block, clipped = gaps(measured, setting, "awq-constant-everywhere", "awq-block", "awq-block-clip")
    readings: dict[str, float | str] = {
        "the constant": constant_alpha(measured, setting.quantizer, setting.precision),
        "gap of the constant (unfolded, without clipping)": float(constant.mean()),
        BLOCK: float(block.mean()),
        CLIPPED: float(clipped.mean()),
    }
    estimate, against_clipped = (mean_over_windows(measured, constant - gap, setting) for gap in (block, clipped))
    return named(estimate, None, readings, variants={"constant - block with clipping": against_clipped})


def errors_of(measured: Measured, setting: Setting, alpha: float | xr.DataArray) -> xr.DataArray:
    """Held-out error of every linear at an exponent."""
    return error_at(measured, setting.quantizer, setting.precision, alpha)


@claim(
    "constant-alpha.non-inferior",
    "One exponent for all linears matches the block-level search in perplexity",
    source="AWQ-Diag: matches or beats it in every configuration",
    below=0.01,
    unit="nats: constant - block",
    level="model",
    bits=(4, 3),
)
def test_non_inferior(measured: Measured, setting: Setting) -> Estimate:
    return constant_minus_block(measured, setting)


@claim(
    "constant-alpha.better",
    "At 3 bits, one exponent even beats the block-level search",
    source="AWQ-Diag: clearly at 3 bits",
    below=-0.005,
    unit="nats: constant - block",
    level="model",
    bits=(3,),
)
def test_better(measured: Measured, setting: Setting) -> Estimate:
    return constant_minus_block(measured, setting)


@claim(
    "constant-alpha.captures",
    "One exponent keeps most of the per-linear search's gain: over 70%",
    source="AWQ-Diag: 77%",
    above=0,
    unit="summed error: gain of the constant - 0.7 gain of the best",
    bits=(4, 3),
)
def test_captures(measured: Measured, setting: Setting) -> Estimate:
    where_layers_gain(measured, setting)
    rtn = errors_of(measured, setting, 0.0)
    constant = rtn - errors_of(measured, setting, constant_alpha(measured, setting.quantizer, setting.precision))
    best = rtn - errors_of(measured, setting, best_alpha(measured, setting.quantizer, setting.precision))
    surplus = (constant - 0.7 * best).assign_coords(rtn.coords)
    rows = as_blocks(surplus)
    estimate = cluster_estimate(
        lambda index: np.nansum(rows[index], axis=(-2, -1)), len(rows), resampled="blocks", seed=setting.seed
    )
    return named(estimate, surplus, {"captured": float(constant.sum() / best.sum())})


@claim(
    "constant-alpha.predictor",
    "Concentration predicts the best exponent: the more concentrated, the smaller",
    source="AWQ-Diag: rank correlation -0.38",
    below=-0.2,
    unit="Spearman's rho",
    bits=(4, 3),
)
def test_predictor(measured: Measured, setting: Setting) -> Estimate:
    share = wide_enough(top_share(measured))
    alpha = best_alpha(measured, setting.quantizer, setting.precision).sel(linear=share["linear"])
    captured = captured_by_prediction(measured, setting, wide_enough(top_share(measured, "calibration")), alpha)
    return named(spearman_by_block(share, alpha, seed=setting.seed), None, {"captured by prediction": captured})


@claim(
    "constant-alpha.half",
    "alpha = 0.5 is the optimum: the typical linear's error is within 2% of its best",
    source="conceptual guide: 0.5 is the optimal balance",
    below=1.02,
    unit="e(0.5) / e(best)",
    bits=(4, 3),
)
def test_half(measured: Measured, setting: Setting) -> Estimate:
    where_layers_gain(measured, setting)
    best = errors_of(measured, setting, best_alpha(measured, setting.quantizer, setting.precision))
    ratio = natural_log(error_ratio(errors_of(measured, setting, 0.5), best))
    return estimate_by_block(ratio, seed=setting.seed, reduce=np.nanmedian, logarithmic=True)


@claim(
    "constant-alpha.one-is-too-much",
    "alpha = 1 over-protects: the typical linear errs more than at 0.5",
    source="conceptual guide",
    above=1.02,
    unit="e(1) / e(0.5)",
    bits=(4, 3),
)
def test_one_is_too_much(measured: Measured, setting: Setting) -> Estimate:
    ratio = natural_log(error_ratio(errors_of(measured, setting, 1.0), errors_of(measured, setting, 0.5)))
    return estimate_by_block(ratio, seed=setting.seed, reduce=np.nanmedian, logarithmic=True)
