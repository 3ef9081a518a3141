"""What scaling does to rounding, linear by linear: either direction, any factor, and where it changes steps.

All of it under the deployed quantizer. The salient channels are the 1% with the largest calibration magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from awq_core.measure.layers.importance import salient_channels
from awq_core.quantization.quantizers import AsymmetricGroups, round_to_nearest, steps_and_zero_points
from awq_core.quantization.scales import linear_scales, scaled_round_to_nearest

INVERSE_ALPHAS = (0.25, 0.5, 0.75, 1.0)
"""Exponents whose inverse scales are tried: `1 / s`, the salient weights scaled down."""

FACTORS = (1.0, 1.25, 1.5, 2.0, 4.0)
"""The AWQ paper's Table 2: what the salient channels' weights are multiplied by."""

STEP_CHANGE = 0.01
"""A step that changes by more than this share counts as changed."""

UNIFORM = 4.0
"""The constant that every channel is multiplied by where protecting everything is to protect nothing: a power of
two, so that the multiplication itself rounds nothing."""


@dataclass(frozen=True)
class Mechanism:
    """What scaling does to one linear.

    Attributes:
        inverse_error: `(judged bits, INVERSE_ALPHAS, splits)`, output error with `1 / s`.
        factor_error: `(judged bits, FACTORS, splits)`, output error with the salient channels times a factor.
        step_changed: `(FACTORS,)`, share of groups whose step changes.
        step_ratio: `(FACTORS,)`, mean ratio of the step to the unscaled one.
        uniform_changed: weights that differ from round-to-nearest's when every channel has the same scale.
    """

    inverse_error: np.ndarray
    factor_error: np.ndarray
    step_changed: np.ndarray
    step_ratio: np.ndarray
    uniform_changed: int

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Its attributes by name, each as an array."""
        return {name: np.asarray(value) for name, value in vars(self).items()}


class ErrorsOf(Protocol):
    """One linear's output errors under any scales, by the deployed quantizer."""

    def __call__(self, scales: Tensor, bits: Sequence[int], *, heldout_only: bool) -> np.ndarray:
        """From scales `(candidates, in)` to `(bits, candidates, splits)`.

        `heldout_only`: nothing is chosen on calibration tokens, and what is costly may be NaN there.
        """
        ...


def measure_mechanism(
    weight: Tensor, magnitude: Tensor, errors_of: ErrorsOf, deployed: AsymmetricGroups, bits: Sequence[int]
) -> Mechanism:
    """Try scales of one linear.

    Args:
        weight: `(out, in)`.
        magnitude: `(in,)`, of calibration tokens.
        errors_of: its output errors under given scales.
        deployed: the quantizer of these errors.
        bits: precisions.
    """
    alphas = torch.tensor(INVERSE_ALPHAS, dtype=weight.dtype, device=weight.device)
    salient = torch.as_tensor(salient_channels(magnitude.double().cpu().numpy()), device=weight.device)
    factors = weight.new_ones(len(FACTORS), weight.shape[1])  # (factors, in)
    factors[:, salient] = weight.new_tensor(FACTORS).unsqueeze(1)
    changed, ratios = zip(*(_steps(weight, scales, deployed) for scales in factors), strict=True)
    inverse = linear_scales(magnitude.to(weight), -alphas)
    return Mechanism(
        errors_of(inverse, bits, heldout_only=True),
        errors_of(factors, bits, heldout_only=False),
        np.array(changed),
        np.array(ratios),
        _uniform_changes(weight, deployed, bits),
    )


def _steps(weight: Tensor, scales: Tensor, deployed: AsymmetricGroups) -> tuple[float, float]:
    """Share of groups whose step changes, and the mean ratio of the steps."""
    group_size = deployed.group_size_for(weight.shape[1])
    before, after = (
        steps_and_zero_points(w.unflatten(-1, (-1, group_size)), 4)[0].double() for w in (weight, weight * scales)
    )
    ratio = after / before  # (out, groups)
    return float(((ratio - 1).abs() > STEP_CHANGE).double().mean()), float(ratio.mean())


def _uniform_changes(weight: Tensor, deployed: AsymmetricGroups, bits: Sequence[int]) -> int:
    scales = torch.full_like(weight[0], UNIFORM)
    return sum(
        int((scaled_round_to_nearest(weight, scales, deployed, b) != round_to_nearest(weight, deployed, b)).sum())
        for b in bits
    )
