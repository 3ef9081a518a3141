"""What claims about a whole model read off its losses: gaps, perplexities, and the same under another strategy."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from awq_core.evidence import Threshold
from awq_core.intervals import Estimate, cluster_estimate
from awq_core.judgement import verdict_of
from awq_core.measured import Measured
from awq_core.readings import window_differences
from claims.claim import NotApplicableError, Setting

BLOCK = "gap of block AWQ (folded, without clipping)"
CLIPPED = "gap of block AWQ (folded, with clipping)"


def gaps(measured: Measured, setting: Setting, *methods: str) -> list[np.ndarray]:
    """Each method's window losses minus full precision's, at the setting's precision, `[windows]` each."""
    return [window_differences(measured, f"{method}-{setting.bits}") for method in methods]


def has(measured: Measured, strategy: str) -> bool:
    """Whether a strategy was measured: an averaged fold, say, exists only under grouped-query attention."""
    return measured.losses is not None and strategy in measured.losses["strategy"].values


def window_losses(measured: Measured, strategy: str) -> np.ndarray:
    """`[windows]`, nats per token.

    Raises:
        NotApplicableError: without model-level measurements.
    """
    if measured.losses is None:
        raise NotApplicableError("no losses were measured")
    losses: np.ndarray = measured.losses["window_loss"].sel(strategy=strategy).values
    return losses


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
    losses = {name: window_losses(measured, name) for name in weights}

    def statistic(index: np.ndarray) -> np.ndarray:
        total = np.zeros(index.shape[:-1])
        for name, weight in weights.items():
            total = total + weight * np.exp(losses[name][index].mean(axis=-1))
        return total

    windows = len(next(iter(losses.values())))
    return cluster_estimate(statistic, windows, resampled="windows", seed=setting.seed)


def attribute(measured: Measured, name: str) -> dict[str, Any]:
    """A record kept with the losses (`docs/datasets.md`).

    Raises:
        NotApplicableError: without model-level measurements.
    """
    if measured.losses is None:
        raise NotApplicableError("no losses were measured")
    record: dict[str, Any] = json.loads(measured.losses.attrs[name])
    return record


def reading(estimate: Estimate, threshold: Threshold) -> str:
    """Another reading of a claim in words: `0.0412 [0.038, 0.0445], supported`."""
    interval = estimate.interval
    return f"{estimate.value:.4g} [{interval.lower:.4g}, {interval.upper:.4g}], {verdict_of(interval, threshold)}"
