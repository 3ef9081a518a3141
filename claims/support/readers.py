"""Small readings that several claims share: which linear to pick, what must hold before a claim can be judged."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import xarray as xr

from awq_core.judging.by_block import estimate_by_block, summarising
from awq_core.judging.evidence import WITH_CLIPPING, Interval, Verdict
from awq_core.judging.intervals import Estimate, InsufficientDataError
from awq_core.judging.metrics import OUTLIER_FAMILIES, is_outlier_family, natural_log, reduction, window_differences
from awq_core.judging.verdicts import WORTH_RECOVERING, verdict_of
from awq_core.measure.layers.importance import SMALLEST_WIDTH
from awq_core.measure.methods.looks import is_last
from awq_core.measured import Measured
from claims.support.claim import NotApplicableError, Setting
from claims.support.model_losses import GAPS, excess_perplexities, gaps, mean_over_windows, window_losses


class UndecidedError(Exception):
    """This look cannot tell whether a claim can be judged: the next one may."""


def wide_enough(values: xr.DataArray) -> xr.DataArray:
    """The linears at least 64 channels wide: below, the top 1% is one channel of few.

    Raises:
        NotApplicableError: if there are none.
    """
    kept = values.isel(linear=np.flatnonzero(values["in_features"].values >= SMALLEST_WIDTH))
    if kept.sizes["linear"] == 0:
        raise NotApplicableError(f"no linear is {SMALLEST_WIDTH} channels wide")
    return kept


def highest_on_calibration(values: xr.DataArray) -> str:
    """Name of the linear that is highest, to be judged on held-out tokens."""
    return str(values["linear"].values[int(values.values.argmax())])


def outlier_families(values: xr.DataArray) -> xr.DataArray:
    """True for o and down, `(linear,)`.

    Raises:
        NotApplicableError: if the model has neither, or nothing else.
    """
    inside = is_outlier_family(values)
    if not inside.any() or inside.all():
        raise NotApplicableError(f"the model has no linears of families {OUTLIER_FAMILIES} to set against others")
    return inside


def named(
    estimate: Estimate,
    values: xr.DataArray | None,
    readings: dict[str, float | str],
    *,
    linear: str | None = None,
    variants: dict[str, Estimate] | None = None,
) -> Estimate:
    """The estimate with the per-linear values behind it and what else `Estimate` reports with it."""
    estimate = estimate if values is None else summarising(estimate, values)
    return replace(
        estimate,
        readings={**estimate.readings, **readings},
        linear=linear or estimate.linear,
        variants={**estimate.variants, **(variants or {})},
    )


def worth_recovering(measured: Measured, setting: Setting) -> None:
    """The precondition of claims about recovering damage: RTN costs at least 0.01 nats, for certain above 0.

    Where the windows are scored in several looks, it is settled at the first look whose interval leaves 0.01 out; the
    last look settles it in any case.

    Raises:
        InsufficientDataError: where it does not hold.
        UndecidedError: where this look does not settle it, and another one is registered.
    """
    # With one seed for all claims: it is one number, and must read the same beside each.
    gap = mean_over_windows(
        measured, window_differences(measured, f"rtn-{setting.precision}"), setting.for_claim("payoff.perplexity")
    )
    if not is_last(measured.losses) and gap.interval.lower <= WORTH_RECOVERING <= gap.interval.upper:
        raise UndecidedError(f"RTN may cost {WORTH_RECOVERING} nats or not")
    if gap.value < WORTH_RECOVERING or gap.interval.lower <= 0:
        raise InsufficientDataError(
            f"RTN at {setting.bits} bits costs {gap.value:.4f} nats, {100 * gap.interval.level:.4g}% interval "
            f"[{gap.interval.lower:.4f}, {gap.interval.upper:.4f}]; this claim needs damage of {WORTH_RECOVERING} nats"
        )


def better_than_guessing(measured: Measured, setting: Setting) -> None:
    """The precondition of claims about absolute quality: in full precision the model knows something of the text.

    Raises:
        NotApplicableError: where its loss is not surely below that of guessing among all tokens of the vocabulary.
        UndecidedError: where this look does not settle it, and another one is registered.
    """
    vocabulary = measured.provenance.get("vocabulary")
    if not vocabulary:
        return
    (full,) = window_losses(measured, "full")
    loss = mean_over_windows(measured, full, setting.for_claim("payoff.perplexity"))
    guessing = math.log(vocabulary)
    if not is_last(measured.losses) and loss.interval.lower <= guessing <= loss.interval.upper:
        raise UndecidedError("the model may know something of the text or not")
    if loss.interval.upper >= guessing:
        raise NotApplicableError(
            f"in full precision the loss is {loss.value:.4g} nats, and guessing among {vocabulary:,} tokens gives "
            f"{guessing:.4g}: there is no quality to lose"
        )


def recovered(measured: Measured, setting: Setting, other: str, method: str) -> Estimate:
    """Nats that one method loses less than another, where rounding costs enough to be recovered."""
    worth_recovering(measured, setting)
    lost, left = gaps(measured, setting, other, method)
    readings: dict[str, float | str] = {GAPS[other]: float(lost.mean()), GAPS[method]: float(left.mean())}
    return named(mean_over_windows(measured, lost - left, setting), None, readings)


def excess_perplexity(
    measured: Measured, setting: Setting, times: float, method: str, with_clipping: str | None = None
) -> Estimate:
    """Perplexity of a method minus `times` that of full precision, where the model knows something of the text.

    Args:
        measured: the model.
        setting: precision and seed.
        times: allowed perplexity, in units of full precision's.
        method: the method.
        with_clipping: method of the variant with clipping; None for no variant.
    """
    better_than_guessing(measured, setting)
    methods = [method] if with_clipping is None else [method, with_clipping]
    excess, *clipped = excess_perplexities(measured, setting, times, *methods)
    return replace(excess, variants=dict(zip([WITH_CLIPPING], clipped, strict=False)))


def layers_gain(measured: Measured, setting: Setting) -> Estimate:
    """Geometric mean over linears of the held-out reduction: the estimate of `payoff.layers`."""
    values = natural_log(reduction(measured, setting.quantizer, setting.precision))
    return estimate_by_block(values, seed=setting.seed, logarithmic=True)


def where_layers_gain(measured: Measured, setting: Setting) -> None:
    """The precondition of claims about AWQ's gain: that there is one.

    Raises:
        NotApplicableError: where `payoff.layers` is not supported.
    """
    # With that claim's own seed, or the two could differ where its interval ends near the threshold.
    gain = layers_gain(measured, setting.for_claim("payoff.layers"))
    from claims.support.catalogue import whole_catalogue  # the catalogue's files import this one

    threshold = whole_catalogue()["payoff.layers"].threshold
    assert threshold is not None
    if verdict_of(gain.interval, threshold) is not Verdict.SUPPORTED:
        raise NotApplicableError(
            f"payoff.layers is not supported at {setting.bits} bits (interval [{gain.interval.lower:.4g}, "
            f"{gain.interval.upper:.4g}], needs {threshold}): no gain is established"
        )


def kinds_of_traffic(measured: Measured) -> xr.Dataset:
    """The measurements under each kind of traffic.

    Raises:
        NotApplicableError: where they were not made (of the untrained twins one has them).
    """
    if measured.traffic is None:
        raise NotApplicableError("other traffic was not measured")
    return measured.traffic


def deployed_quantizer_only(measured: Measured, setting: Setting) -> None:
    """For what is measured under the deployed quantizer alone.

    Raises:
        NotApplicableError: where another one is asked about.
    """
    if setting.quantizer != measured.deployed.name:
        raise NotApplicableError(f"measured under {measured.deployed.name} alone")


def exactly(value: float, counted: str, n: int) -> Estimate:
    """An estimate for which nothing is sampled: its interval is the value itself.

    Args:
        value: what was found.
        counted: what it was found over: weights, linears, examples.
        n: how many of them.
    """
    method = "exact: nothing is sampled"
    interval = Interval(value, value, method, counted, n, standard_error=0.0, degrees_of_freedom=0, exact=True)
    return Estimate(value, lambda: interval)
