"""What claims about a whole model read off its losses: gaps, perplexities, and the same under another strategy."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np

from awq_core.judging.intervals import Estimate, Statistic, cluster_estimate
from awq_core.judging.metrics import window_values
from awq_core.measure.methods.looks import NotScoredError, count_of
from awq_core.measure.methods.table import CHOICES_AT_ONCE, RANDOM_CHOICES
from awq_core.measured import Measured
from claims.support.claim import NotApplicableError, Setting

BLOCK = "gap of block AWQ (folded, without clipping)"
CLIPPED = "gap of block AWQ (folded, with clipping)"
GAPS = {"rtn": "gap of RTN", "rtn-clip": "gap of RTN with clipping", "awq-block-clip": CLIPPED}
"""Names of readings, by method."""


def gaps(measured: Measured, setting: Setting, *methods: str) -> list[np.ndarray]:
    """Each method's window losses minus full precision's, at the setting's precision, `[windows]` each.

    All on the same windows: those that every one of the strategies was scored on.
    """
    full, *losses = window_values(measured, ["full", *(f"{method}-{setting.bits}" for method in methods)])
    return [values - full for values in losses]


def has(measured: Measured, strategy: str) -> bool:
    """Whether a strategy was measured: an averaged fold, say, exists only under grouped-query attention."""
    return measured.losses is not None and strategy in measured.losses["strategy"].values


def window_losses(measured: Measured, *strategies: str) -> list[np.ndarray]:
    """`[windows]` for each strategy, nats per token, on the windows that all of them were scored on.

    Raises:
        NotApplicableError: without model-level measurements.
    """
    if measured.losses is None:
        raise NotApplicableError("no losses were measured")
    return window_values(measured, strategies)


def perplexity(losses: np.ndarray) -> float:
    """exp of the mean window loss."""
    return float(np.exp(losses.mean()))


def perplexity_estimate(measured: Measured, weights: dict[str, float], setting: Setting) -> Estimate:
    """A weighted sum of strategies' perplexities, with windows resampled.

    Args:
        measured: the model.
        weights: by strategy.
        setting: for the seed.
    """
    losses = dict(zip(weights, window_losses(measured, *weights), strict=True))

    def statistic(index: np.ndarray) -> np.ndarray:
        total = np.zeros(index.shape[:-1])
        for name, weight in weights.items():
            total = total + weight * np.exp(losses[name][index].mean(axis=-1))
        return total

    windows = len(next(iter(losses.values())))
    return over_windows(measured, statistic, windows, setting)


def excess_perplexities(measured: Measured, setting: Setting, times: float, *methods: str) -> list[Estimate]:
    """Each method's perplexity at the setting's precision, minus `times` that of full precision."""
    strategies = [f"{method}-{setting.bits}" for method in methods]
    full, *quantized = map(perplexity, window_losses(measured, "full", *strategies))
    return [
        replace(
            perplexity_estimate(measured, {strategy: 1.0, "full": -times}, setting),
            readings={
                "perplexity of full precision": full,
                "perplexity once quantized": found,
                "excess": f"{100 * (found / full - 1):.2f}%",
            },
        )
        for strategy, found in zip(strategies, quantized, strict=True)
    ]


def over_windows(
    measured: Measured,
    statistic: Statistic,
    windows: int,
    setting: Setting,
    further_variance: float = 0.0,
    further_degrees: float = math.inf,
) -> Estimate:
    """A statistic with windows resampled, at the level of one look of those that are registered for the model.

    Args:
        measured: the model.
        statistic: of window indices, as `cluster_estimate` takes it.
        windows: how many there are.
        setting: for the seed.
        further_variance: see `cluster_estimate`.
        further_degrees: see `cluster_estimate`.
    """
    looks = count_of(measured.losses)
    look = looks if measured.losses is None else int(measured.losses.attrs.get("look", looks - 1)) + 1
    return cluster_estimate(
        statistic,
        windows,
        resampled="windows",
        seed=setting.seed,
        further_variance=further_variance,
        further_degrees=further_degrees,
        looks=looks,
        look=look,
    )


def mean_over_windows(measured: Measured, differences: np.ndarray, setting: Setting) -> Estimate:
    """Mean of paired window differences, with windows resampled."""
    return over_windows(measured, lambda index: differences[index].mean(axis=-1), len(differences), setting)


def calibration_costs(measured: Measured, *strategies: str) -> list[dict[str, float]]:
    """Seconds and operations of each strategy's search, over all blocks.

    Raises:
        NotApplicableError: without model-level measurements.
        NotScoredError: where a strategy has not been scored, and so not been searched.
    """
    cost = attribute(measured, "cost")
    if missing := [name for name in strategies if name not in cost]:
        raise NotScoredError(missing, 0)
    return [cost[name] for name in strategies]


def random_choices(measured: Measured) -> list[str]:
    """The random choices of kept channels that a claim reads: three at the first look, three more at each one after."""
    losses = measured.losses
    at_most = RANDOM_CHOICES
    if losses is not None and "look" in losses.attrs:
        at_most = min(at_most, CHOICES_AT_ONCE * (int(losses.attrs["look"]) + 1))
    return [f"keep-random{choice}" for choice in range(at_most)]


def attribute(measured: Measured, name: str) -> dict[str, Any]:
    """A record kept with the losses (`docs/datasets.md`).

    Raises:
        NotApplicableError: without model-level measurements.
    """
    if measured.losses is None:
        raise NotApplicableError("no losses were measured")
    record: dict[str, Any] = json.loads(measured.losses.attrs[name])
    return record
