"""GPTQ: the other school."""

from awq_core.judging.evidence import WITH_CLIPPING
from awq_core.judging.intervals import Estimate
from awq_core.measured import Measured
from claims.support.claim import Reported, Setting, claim
from claims.support.model_losses import (
    BLOCK,
    CLIPPED,
    calibration_costs,
    gaps,
    has,
    mean_over_windows,
)
from claims.support.readers import excess_perplexity, named, worth_recovering

VARIANTS = {
    "gptq-parallel": "on full-precision inputs",
    "gptq-order": "on full-precision inputs, in the activations' order",
}


@claim(
    "gptq.close",
    "AWQ comes close to GPTQ in quality at 4 bits",
    source="conceptual guide",
    below=0.02,
    unit="nats: gap of AWQ - gap of GPTQ",
    version=2,
    level="model",
    bits=(4,),
)
def test_close(measured: Measured, setting: Setting) -> Estimate:
    worth_recovering(measured, setting)
    variants = {method: what for method, what in VARIANTS.items() if has(measured, f"{method}-{setting.bits}")}
    awq, clipped, gptq, *others = gaps(measured, setting, "awq-block", "awq-block-clip", "gptq", *variants)
    readings: dict[str, float | str] = {
        BLOCK: float(awq.mean()),
        CLIPPED: float(clipped.mean()),
        "gap of GPTQ": float(gptq.mean()),
    }
    readings |= {f"gap of GPTQ {what}": float(gap.mean()) for what, gap in zip(variants.values(), others, strict=True)}
    estimate, with_clipping = (mean_over_windows(measured, gap - gptq, setting) for gap in (awq, clipped))
    return named(estimate, None, readings, variants={WITH_CLIPPING: with_clipping})


@claim(
    "gptq.better",
    "GPTQ is more accurate than AWQ at 4 bits",
    source="conceptual guide, in its comparison; its summary says the opposite",
    above=0.005,
    unit="nats: gap of AWQ - gap of GPTQ",
    level="model",
    bits=(4,),
)
def test_better(measured: Measured, setting: Setting) -> Estimate:
    worth_recovering(measured, setting)
    awq, clipped, gptq = gaps(measured, setting, "awq-block", "awq-block-clip", "gptq")
    readings: dict[str, float | str] = {
        BLOCK: float(awq.mean()),
        CLIPPED: float(clipped.mean()),
        "gap of GPTQ": float(gptq.mean()),
    }
    estimate, with_clipping = (mean_over_windows(measured, gap - gptq, setting) for gap in (awq, clipped))
    return named(estimate, None, readings, variants={WITH_CLIPPING: with_clipping})


@claim(
    "gptq.two-percent",
    "4-bit GPTQ, too, costs under 2% of perplexity",
    source="conceptual guide",
    below=0,
    unit="perplexity of GPTQ - 1.02 that of full precision",
    level="model",
    bits=(4,),
)
def test_two_percent(measured: Measured, setting: Setting) -> Estimate:
    return excess_perplexity(measured, setting, 1.02, "gptq")


@claim(
    "gptq.slower",
    "GPTQ takes longer to calibrate than AWQ's search",
    source="conceptual guide",
    unit="times the seconds of AWQ's block-level search",
    version=2,
    level="model",
)
def test_slower(measured: Measured, setting: Setting) -> Reported:
    awq, gptq = calibration_costs(measured, "awq-block-4", "gptq-4")
    return Reported(
        gptq["seconds"] / awq["seconds"],
        {
            "seconds of GPTQ": gptq["seconds"],
            "seconds of AWQ's block-level search": awq["seconds"],
            "operations of GPTQ": float(gptq["operations"]),
            "operations of the official AWQ search, every exponent on every token": float(awq["operations"]),
            "what is counted": "4 bits, all blocks, second moments included; without what comes before either: the "
            "inputs of every block",
        },
    )
