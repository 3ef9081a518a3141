"""Bits: the price of precision."""

import numpy as np

from awq_core.judging.by_block import estimate_by_block
from awq_core.judging.intervals import Estimate
from awq_core.judging.metrics import error_at, error_ratio, natural_log
from awq_core.measured import Measured
from awq_core.quantization.quantizers import FP16_BYTES
from claims.support.claim import NotApplicableError, Setting, claim
from claims.support.model_losses import over_windows, window_losses
from claims.support.readers import exactly, excess_perplexity, named, worth_recovering

HIGH, LOW = 8, 3


@claim(
    "bits.four-per-bit",
    "Each bit removed costs about four times the error",
    source="AWQ-Diag: 8.6e-5 at 8 bits, 0.079 at 3",
    above=3,
    below=5.5,
    unit="times the error per bit, between 8 and 3 (median)",
    kind="mechanical",
)
def test_four_per_bit(measured: Measured, setting: Setting) -> Estimate:
    if HIGH not in measured.errors["bits"].values:
        raise NotApplicableError(f"not measured at {HIGH} bits")
    errors = {int(bits): error_at(measured, setting.quantizer, int(bits), 0.0) for bits in measured.errors["bits"]}
    per_bit = natural_log(error_ratio(errors[LOW], errors[HIGH])) / (HIGH - LOW)
    estimate = estimate_by_block(per_bit, seed=setting.seed, reduce=np.nanmedian, logarithmic=True)
    medians: dict[str, float | str] = {
        f"median error at {bits} bits": float(errors[bits].median()) for bits in sorted(errors, reverse=True)
    }
    return named(estimate, None, medians)


@claim(
    "bits.cliff",
    "Below 4 bits quality falls off: going to 3 costs more than the growth of the error explains",
    source="conceptual guide, AWQ-Diag",
    above=0,
    unit="nats: gap at 3 bits - r times the gap at 4, r the median error ratio",
    level="model",
    bits=(3,),
)
def test_cliff(measured: Measured, setting: Setting) -> Estimate:
    worth_recovering(measured, setting)
    full, low, high = window_losses(measured, "full", "rtn-3", "rtn-4")
    low, high = low - full, high - full
    error = {bits: error_at(measured, setting.quantizer, bits, 0.0) for bits in (3, 4)}
    per_linear = natural_log(error_ratio(error[3], error[4]))
    ratio = estimate_by_block(per_linear, seed=setting.seed, reduce=np.nanmedian, logarithmic=True)
    # The ratio is an estimate too: over blocks, independent of the windows.
    of_ratio = (ratio.value * ratio.interval.standard_error * float(high.mean())) ** 2
    estimate = over_windows(
        measured,
        lambda index: (low - ratio.value * high)[index].mean(axis=-1),
        len(low),
        setting,
        further_variance=of_ratio,
        further_degrees=ratio.interval.degrees_of_freedom,
    )
    readings: dict[str, float | str] = {
        "gap at 3 bits": float(low.mean()),
        "gap at 4 bits": float(high.mean()),
        "median error ratio": ratio.value,
    }
    return named(estimate, None, readings)


@claim(
    "bits.two-percent",
    "4-bit AWQ costs under 2% of perplexity",
    source="conceptual guide",
    below=0,
    unit="perplexity of AWQ - 1.02 that of full precision",
    version=2,
    level="model",
    bits=(4,),
)
def test_two_percent(measured: Measured, setting: Setting) -> Estimate:
    return excess_perplexity(measured, setting, 1.02, "awq-block", with_clipping="awq-block-clip")


@claim(
    "bits.near-lossless",
    "4-bit group-wise round-to-nearest is near-lossless: it costs under 2% of perplexity",
    source="AWQ-Diag",
    below=0,
    unit="perplexity of RTN - 1.02 that of full precision",
    level="model",
    bits=(4,),
)
def test_near_lossless(measured: Measured, setting: Setting) -> Estimate:
    return excess_perplexity(measured, setting, 1.02, "rtn")


@claim(
    "bits.awq-degrades",
    "Below 4 bits even AWQ degrades: at 3 it costs over 5% of perplexity",
    source="conceptual guide",
    above=0,
    unit="perplexity of AWQ - 1.05 that of full precision",
    level="model",
    bits=(3,),
)
def test_awq_degrades(measured: Measured, setting: Setting) -> Estimate:
    return excess_perplexity(measured, setting, 1.05, "awq-block", with_clipping="awq-block-clip")


@claim(
    "bits.four-times-smaller",
    "4 bits make the quantized linears about four times smaller than FP16, scales and zero points counted",
    source="conceptual guide: 4x compression",
    above=3.5,
    unit="times smaller",
    kind="mechanical",
    level="model",
    bits=(4,),
    reads=("layers",),
)
def test_four_times_smaller(measured: Measured, setting: Setting) -> Estimate:
    out_features, in_features = (measured.errors[name].astype(int) for name in ("out_features", "in_features"))
    full = FP16_BYTES * out_features * in_features
    packed = full.copy(
        data=[
            measured.deployed.stored_bytes(int(o), int(i), setting.precision)
            for o, i in zip(out_features.values, in_features.values, strict=True)
        ]
    )
    rest = max(0, FP16_BYTES * measured.parameters - int(full.sum()))
    whole = (int(full.sum()) + rest) / (float(packed.sum()) + rest)
    readings: dict[str, float | str] = {"the whole model, embeddings and norms in FP16": f"{whole:.3g} times smaller"}
    value = float(full.sum() / packed.sum())
    return named(exactly(value, "linears", full.sizes["linear"]), (full / packed).assign_coords(full.coords), readings)
