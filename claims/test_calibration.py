"""Calibration: what it needs."""

import numpy as np

from awq_core.judging.by_block import estimate_by_block
from awq_core.judging.intervals import Estimate
from awq_core.judging.metrics import error_ratio, natural_log
from awq_core.measured import Measured
from claims.support.claim import Parts, Setting, claim
from claims.support.model_losses import attribute, gaps, mean_over_windows
from claims.support.readers import (
    deployed_quantizer_only,
    kinds_of_traffic,
    named,
    worth_recovering,
)


@claim(
    "calibration.few-suffice",
    "An eighth of the calibration sequences does as well",
    source="AWQ paper, Fig. 8: 16 sequences",
    below=0.01,
    unit="nats: gap with an eighth - gap with all",
    level="model",
    bits=(4, 3),
)
def test_few_suffice(measured: Measured, setting: Setting) -> Estimate:
    worth_recovering(measured, setting)
    few, everything = gaps(measured, setting, "awq-block-few", "awq-block")
    sequences = attribute(measured, "calibration_sequences")
    readings: dict[str, float | str] = {
        f"gap with {sequences['few']} sequences": float(few.mean()),
        f"gap with {sequences['own']} sequences": float(everything.mean()),
    }
    return named(mean_over_windows(measured, few - everything, setting), None, readings)


@claim(
    "calibration.robust",
    "AWQ suffers less than GPTQ from foreign calibration text",
    source="AWQ paper, Fig. 8: 0.5 against 2.3 perplexity and more",
    above=0.005,
    unit="nats: GPTQ's penalty - AWQ's",
    version=2,
    level="model",
    bits=(4, 3),
)
def test_robust(measured: Measured, setting: Setting) -> Estimate:
    worth_recovering(measured, setting)
    read = ("awq-block-foreign", "awq-block-matched", "gptq-foreign", "gptq-matched")
    awq_foreign, awq_usual, gptq_foreign, gptq_usual = gaps(measured, setting, *read)
    awq, gptq = awq_foreign - awq_usual, gptq_foreign - gptq_usual
    readings: dict[str, float | str] = {
        "penalty of GPTQ": float(gptq.mean()),
        "penalty of AWQ": float(awq.mean()),
        "sequences in either text": float(attribute(measured, "calibration_sequences")["foreign"]),
    }
    return named(mean_over_windows(measured, gptq - awq, setting), None, readings)


@claim(
    "calibration.fake-traffic",
    "Fake calibration protects the wrong channels: random tokens leave a larger error than real text",
    source='lesson "protect what traffic actually uses"',
    above=1.01,
    unit="times the error with real text (geometric mean)",
    bits=(4, 3),
    reads=("layers", "traffic"),
)
def test_fake_traffic(measured: Measured, setting: Setting) -> Estimate:
    deployed_quantizer_only(measured, setting)
    errors = kinds_of_traffic(measured).sel(judged_bits=setting.precision)
    ratio = natural_log(error_ratio(errors["random_error"], errors["usual_error"]))
    return estimate_by_block(ratio, seed=setting.seed, logarithmic=True)


@claim(
    "calibration.every-traffic",
    "The gain holds on code, JSON and tool calls, long prompts, other languages and prose, calibrated as usual",
    source='lesson "protect what traffic actually uses"',
    above=1.02,
    unit="times smaller (geometric mean), the kind that gains least",
    bits=(4, 3),
    reads=("layers", "traffic"),
)
def test_every_traffic(measured: Measured, setting: Setting) -> Parts:
    deployed_quantizer_only(measured, setting)
    errors = kinds_of_traffic(measured)["kind_error"].sel(judged_bits=setting.precision)
    parts = {}
    for kind in map(str, errors["kind"].values):
        rtn, usual, own = (errors.sel(kind=kind, calibrated_on=choice) for choice in ("rtn", "usual", "own"))
        gain = natural_log(error_ratio(rtn, usual))
        readings: dict[str, float | str] = {}
        if own.notnull().all():  # of a twin, and of a large model at quick, it is not measured
            reduction = float(np.exp(natural_log(error_ratio(rtn, own)).mean()))
            readings[f"{kind}: reduction when calibrated on {kind}"] = reduction
        parts[kind] = named(estimate_by_block(gain, seed=setting.seed, logarithmic=True), None, readings)
    return parts
