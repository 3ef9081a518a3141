"""Salience: activations, not weights, tell which channels matter."""

import numpy as np
import xarray as xr

from awq_core.judging.by_block import estimate_by_block, rank_correlation
from awq_core.judging.intervals import Estimate
from awq_core.judging.metrics import importance
from awq_core.judging.salient_overlap import overlap_of_texts
from awq_core.measured import Measured
from claims.support.claim import Parts, Setting, claim
from claims.support.model_losses import (
    gaps,
    mean_over_windows,
    over_windows,
    perplexity,
    perplexity_estimate,
    random_choices,
    window_losses,
)
from claims.support.readers import kinds_of_traffic, named, wide_enough, worth_recovering


@claim(
    "salience.one-percent",
    "1% of channels kept in full precision, chosen by activation, recover more than half of what rounding costs",
    source="AWQ paper, Table 1",
    above=0,
    unit="nats: half of RTN's gap - the gap that is left",
    level="model",
    bits=(4, 3),
)
def test_one_percent(measured: Measured, setting: Setting) -> Estimate:
    worth_recovering(measured, setting)
    rtn, kept = gaps(measured, setting, "rtn", "keep-activation")
    readings: dict[str, float | str] = {
        "gap of RTN": float(rtn.mean()),
        "gap with 1% kept": float(kept.mean()),
        "share recovered": 1 - float(kept.mean() / rtn.mean()),
    }
    return named(mean_over_windows(measured, 0.5 * rtn - kept, setting), None, readings)


@claim(
    "salience.ninety-nine",
    "1% of channels kept at 4 bits give 99% of the model's quality: its perplexity is at most 1% above",
    source="conceptual guide: 99% of model quality",
    above=0,
    unit="perplexity of full precision - 0.99 that with 1% kept",
    level="model",
    bits=(4,),
)
def test_ninety_nine(measured: Measured, setting: Setting) -> Estimate:
    worth_recovering(measured, setting)
    kept = f"keep-activation-{setting.bits}"
    full, of_kept = map(perplexity, window_losses(measured, "full", kept))
    estimate = perplexity_estimate(measured, {"full": 1.0, kept: -0.99}, setting)
    readings: dict[str, float | str] = {
        "perplexity of full precision": full,
        "perplexity with 1% kept": of_kept,
    }
    return named(estimate, None, readings)


@claim(
    "salience.activation-beats-weight",
    "Channels chosen by activation recover more than channels chosen by weight",
    source="AWQ paper, Table 1",
    above=0.005,
    unit="nats: gap by weight - gap by activation",
    level="model",
    bits=(4, 3),
)
def test_activation_beats_weight(measured: Measured, setting: Setting) -> Estimate:
    worth_recovering(measured, setting)
    activation, weight = gaps(measured, setting, "keep-activation", "keep-weight")
    readings: dict[str, float | str] = {
        "gap by activation": float(activation.mean()),
        "gap by weight": float(weight.mean()),
    }
    return named(mean_over_windows(measured, weight - activation, setting), None, readings)


@claim(
    "salience.weight-is-chance",
    "Channels chosen by weight recover no more and no less than channels chosen at random, within 10% of RTN's gap",
    source="AWQ paper, Table 1",
    above=-0.1,
    below=0.1,
    unit="(mean gap of random choices - gap by weight) / RTN's gap",
    version=2,
    level="model",
    bits=(4, 3),
)
def test_weight_is_chance(measured: Measured, setting: Setting) -> Estimate:
    worth_recovering(measured, setting)
    choices = random_choices(measured)
    rtn, weight, *drawn = gaps(measured, setting, "rtn", "keep-weight", *choices)
    random = np.stack(drawn)  # [choices, windows]

    def statistic(index: np.ndarray) -> np.ndarray:
        chance = random.mean(axis=0)[index].mean(axis=-1)
        return (chance - weight[index].mean(axis=-1)) / rtn[index].mean(axis=-1)

    # Draws are a sample too: how much their gaps differ enters the interval.
    spread = float((random.mean(axis=1) / rtn.mean()).var(ddof=1)) / len(choices)
    estimate = over_windows(
        measured,
        statistic,
        len(rtn),
        setting,
        further_variance=spread,
        further_degrees=len(choices) - 1,
    )
    readings: dict[str, float | str] = {
        "gap of RTN": float(rtn.mean()),
        "gap by weight": float(weight.mean()),
        f"mean gap of {len(choices)} random choices": float(random.mean()),
    }
    return named(estimate, None, readings)


@claim(
    "salience.consistent",
    "The same channels stay large on other text: over half of them on a disjoint text, over 30% on other traffic",
    source="conceptual guide: salient channels are consistent across inputs",
    above=0,
    unit="overlap of the top 1% - what is asked (0.5 between texts, 0.3 between kinds of traffic)",
    reads=("layers", "traffic"),
)
def test_consistent(measured: Measured, setting: Setting) -> Parts:
    between_texts = overlap_of_texts(measured.channels["magnitude"], "split")
    between_kinds = overlap_of_texts(kinds_of_traffic(measured)["kind_magnitude"], "kind")
    asked = {"between disjoint texts": (between_texts, 0.5), "between kinds of traffic": (between_kinds, 0.3)}
    return {
        part: named(estimate_by_block(values - bar, seed=setting.seed), None, {f"overlap {part}": float(values.mean())})
        for part, (values, bar) in asked.items()
    }


@claim(
    "salience.size-misleads",
    "Weight size alone ranks channels wrongly: importance follows the activations' magnitude more than the weights'",
    source='lesson "protect what traffic actually uses"',
    above=0.1,
    unit="Spearman's rho with magnitude - with weight size, mean over linears",
)
def test_size_misleads(measured: Measured, setting: Setting) -> Estimate:
    weighted = wide_enough(importance(measured))
    names = weighted["linear"]
    channels = measured.channels
    weight_size = channels["weight_size"].sel(linear=names)
    magnitude = channels["magnitude"].sel(split="heldout").sel(site=channels["linear_site"].sel(linear=names))
    by_magnitude, by_weight = (
        _rank_correlations(weighted, other) for other in (magnitude.where(weight_size.notnull().values), weight_size)
    )
    readings: dict[str, float | str] = {
        "rho with magnitude": float(by_magnitude.mean()),
        "rho with weight size": float(by_weight.mean()),
    }
    return named(estimate_by_block(by_magnitude - by_weight, seed=setting.seed), None, readings)


def _rank_correlations(weighted: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """Spearman's rho over the channels of every linear, `(linear,)`."""
    rows = rank_correlation(weighted.transpose("linear", "channel").values, other.transpose("linear", "channel").values)
    names = ("linear", "linear_block", "linear_family", "in_features")
    return xr.DataArray(rows, dims=("linear",), coords={name: weighted[name].variable for name in names})
