"""Payoff: protecting salient channels beats round-to-nearest."""

import numpy as np

from awq_core.judging.by_block import estimate_by_block, share_by_block
from awq_core.judging.evidence import WITH_CLIPPING
from awq_core.judging.intervals import Estimate, cluster_estimate
from awq_core.judging.metrics import natural_log, reduction, window_values
from awq_core.measured import Measured
from claims.support.claim import Setting, claim
from claims.support.model_losses import (
    BLOCK,
    gaps,
    has,
    mean_over_windows,
    perplexity,
    perplexity_estimate,
    window_losses,
)
from claims.support.readers import (
    highest_on_calibration,
    layers_gain,
    named,
    recovered,
    where_layers_gain,
    worth_recovering,
)


@claim(
    "payoff.layers",
    "AWQ's output error is smaller than round-to-nearest's on unseen tokens",
    source="AWQ-Diag, AWQ paper",
    above=1.02,
    unit="times smaller (geometric mean)",
    bits=(4, 3),
)
def test_layers(measured: Measured, setting: Setting) -> Estimate:
    return layers_gain(measured, setting)


@claim(
    "payoff.most-layers",
    "AWQ helps most linears, not a few: more than half gain over 1%",
    source="AWQ-Diag's per-layer results",
    above=0.5,
    unit="share of linears",
    bits=(4, 3),
)
def test_most_layers(measured: Measured, setting: Setting) -> Estimate:
    gains = reduction(measured, setting.quantizer, setting.precision)
    estimate = share_by_block((gains > 1.01).astype(float), trials=gains.sizes["linear"], seed=setting.seed)
    return named(estimate, gains, {})


@claim(
    "payoff.one-layer",
    "Some linear gains a lot: its error is more than halved",
    source="AWQ-Diag: 25.9 times in one layer",
    above=2,
    unit="times smaller",
    bits=(4, 3),
)
def test_one_layer(measured: Measured, setting: Setting) -> Estimate:
    calibration = reduction(measured, setting.quantizer, setting.precision, split="calibration")
    linear = highest_on_calibration(calibration)
    errors = measured.errors["group_error"].sel(
        linear=linear, quantizer=setting.quantizer, judged_bits=setting.precision
    )
    rtn, best = (errors.sel(choice=choice).values for choice in ("rtn", "best"))

    def log_reduction(index: np.ndarray) -> np.ndarray:
        before, after = rtn[index].sum(axis=-1), best[index].sum(axis=-1)
        neither = (before == 0) & (after == 0)  # an expert that none of the resampled groups reached
        return np.log(np.where(neither, 1.0, before / np.where(neither, 1.0, after)))

    estimate = cluster_estimate(
        log_reduction, len(rtn), resampled="groups of windows", seed=setting.seed, logarithmic=True
    )
    heldout = reduction(measured, setting.quantizer, setting.precision)
    return named(estimate, heldout, {"on calibration tokens": float(calibration.max())}, linear=linear)


@claim(
    "payoff.honest",
    "The gain is not an artefact of choosing alpha on the tokens it is scored on: 80% of it carries over",
    source="design: alpha chosen on its own test tokens can never lose",
    above=0,
    unit="ln held-out gain - 0.8 ln calibration gain",
    bits=(4, 3),
)
def test_honest(measured: Measured, setting: Setting) -> Estimate:
    where_layers_gain(measured, setting)
    heldout = natural_log(reduction(measured, setting.quantizer, setting.precision))
    calibration = natural_log(reduction(measured, setting.quantizer, setting.precision, split="calibration"))
    return estimate_by_block(heldout - 0.8 * calibration, seed=setting.seed)


VARIANTS = {
    "awq-linear": "per-linear AWQ (needs a multiplication at run time)",
    "awq-duo": "block AWQ with AutoAWQ's scales (folded)",
    "awq-grouped": "block AWQ with o's scale averaged over query heads (folded)",
}


@claim(
    "payoff.perplexity",
    "The scales make the quantized model better too: block-level AWQ, without clipping, loses less than RTN",
    source="AWQ paper, AWQ-Diag",
    above=0.005,
    unit="nats recovered",
    version=2,
    level="model",
    bits=(4, 3),
)
def test_perplexity(measured: Measured, setting: Setting) -> Estimate:
    worth_recovering(measured, setting)
    variants = {method: what for method, what in VARIANTS.items() if has(measured, f"{method}-{setting.bits}")}
    rtn, awq, *others = gaps(measured, setting, "rtn", "awq-block", *variants)
    readings: dict[str, float | str] = {"gap of RTN": float(rtn.mean()), BLOCK: float(awq.mean())}
    for what, other in zip(variants.values(), others, strict=True):
        readings[f"gap of {what}"] = float(other.mean())
    return named(mean_over_windows(measured, rtn - awq, setting), None, readings)


@claim(
    "payoff.as-published",
    "AWQ as published, with scales and clipping, loses less than round-to-nearest",
    source="AWQ paper, llm-awq",
    above=0.005,
    unit="nats recovered",
    level="model",
    bits=(4, 3),
)
def test_as_published(measured: Measured, setting: Setting) -> Estimate:
    return recovered(measured, setting, "rtn", "awq-block-clip")


@claim(
    "payoff.logits",
    "Its outputs stay closer to full precision's, by more than 5% of RTN's divergence",
    source="design",
    below=0,
    unit="nats of KL: AWQ - 0.95 RTN",
    level="model",
    bits=(4, 3),
)
def test_logits(measured: Measured, setting: Setting) -> Estimate:
    worth_recovering(measured, setting)
    rtn, awq = window_values(measured, [f"rtn-{setting.bits}", f"awq-block-{setting.bits}"], "window_kl")
    return named(
        mean_over_windows(measured, awq - 0.95 * rtn, setting),
        None,
        {"RTN": float(rtn.mean()), "AWQ": float(awq.mean())},
    )


@claim(
    "payoff.two-to-five",
    "AWQ gives 2 to 5 times better quality at the same compression: RTN's excess perplexity is over twice AWQ's",
    source="conceptual guide: 2-5x better quality",
    above=0,
    unit="perplexity: excess of RTN - 2x excess of AWQ",
    level="model",
    bits=(4, 3),
)
def test_two_to_five(measured: Measured, setting: Setting) -> Estimate:
    worth_recovering(measured, setting)
    rtn, awq = f"rtn-{setting.bits}", f"awq-block-{setting.bits}"
    with_clipping = f"awq-block-clip-{setting.bits}"
    full, of_rtn, of_awq, _ = map(perplexity, window_losses(measured, "full", rtn, awq, with_clipping))
    estimate = perplexity_estimate(measured, {rtn: 1.0, awq: -2.0, "full": 1.0}, setting)
    clipped = perplexity_estimate(measured, {rtn: 1.0, with_clipping: -2.0, "full": 1.0}, setting)
    readings: dict[str, float | str] = {
        "perplexity of full precision": full,
        "perplexity of RTN": of_rtn,
        "perplexity of AWQ": of_awq,
        "excess of RTN over excess of AWQ": (of_rtn - full) / (of_awq - full),
    }
    return named(estimate, None, readings, variants={WITH_CLIPPING: clipped})
