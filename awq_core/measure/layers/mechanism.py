"""Effects of scaling on rounding, linear by linear: inverse scales, fixed factors, and changes of quantization steps.

The quantizer is the deployed one. The salient channels are the 1% with the largest calibration magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from awq_core.measure.layers.importance import salient_channels
from awq_core.quantization.quantizers import deployed_group_size, round_to_nearest, steps_and_zero_points
from awq_core.quantization.scales import linear_scales, scaled_round_to_nearest

INVERSE_ALPHAS = (0.25, 0.5, 0.75, 1.0)
"""Exponents whose inverse scales `1 / s` are tried, which scale the salient weights down."""

FACTORS = (1.0, 1.25, 1.5, 2.0, 4.0)
"""Factors by which the salient channels' weights are multiplied, as in the AWQ paper's Table 2."""

STEP_CHANGE = 0.01
"""Relative change beyond which a quantization step counts as changed."""

UNIFORM = 4.0
"""Scale shared by all channels, to test that scaling every channel protects none. A power of two, so that the
multiplication itself rounds nothing."""


@dataclass(frozen=True)
class Mechanism:
    """Effects of scaling on one linear.

    Attributes:
        inverse_error: `(judged bits, INVERSE_ALPHAS, splits)`, output errors with scales `1 / s`.
        factor_error: `(judged bits, FACTORS, splits)`, output errors with the salient channels multiplied by a factor.
        step_changed: `(FACTORS,)`, share of groups whose quantization step changes at 4 bits.
        step_ratio: `(FACTORS,)`, mean over groups of the step divided by the unscaled step, at 4 bits.
        uniform_changed: number of weights, over all judged bits, that differ from round-to-nearest's when every channel
            has the scale `UNIFORM`.
    """

    inverse_error: np.ndarray
    factor_error: np.ndarray
    step_changed: np.ndarray
    step_ratio: np.ndarray
    uniform_changed: int

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Convert to arrays by attribute name."""
        return {name: np.asarray(value) for name, value in vars(self).items()}


class ErrorsOf(Protocol):
    """Function that measures one linear's output errors with given scales, under the deployed quantizer."""

    def __call__(self, scales: Tensor, bits: Sequence[int], *, heldout_only: bool) -> np.ndarray:
        """Measure squared relative output errors, `(bits, candidates, splits)`.

        Args:
            scales: `(candidates, in)`.
            bits: precisions.
            heldout_only: whether errors on calibration tokens may be NaN, to save time, as nothing is chosen by them.
        """
        ...


def measure_mechanism(weight: Tensor, magnitude: Tensor, errors_of: ErrorsOf, bits: Sequence[int]) -> Mechanism:
    """Measure the effects of scaling on one linear.

    Args:
        weight: `(out, in)`.
        magnitude: `(in,)`, mean of abs(x) over calibration tokens.
        errors_of: measures the linear's output errors with given scales.
        bits: precisions.
    """
    alphas = torch.tensor(INVERSE_ALPHAS, dtype=weight.dtype, device=weight.device)
    salient = torch.as_tensor(salient_channels(magnitude.double().cpu().numpy()), device=weight.device)
    factors = weight.new_ones(len(FACTORS), weight.shape[1])  # (factors, in)
    factors[:, salient] = weight.new_tensor(FACTORS).unsqueeze(1)
    changed, ratios = zip(*(_steps(weight, scales) for scales in factors), strict=True)
    inverse = linear_scales(magnitude.to(weight), -alphas)
    return Mechanism(
        errors_of(inverse, bits, heldout_only=True),
        errors_of(factors, bits, heldout_only=False),
        np.array(changed),
        np.array(ratios),
        _uniform_changes(weight, bits),
    )


def _steps(weight: Tensor, scales: Tensor) -> tuple[float, float]:
    """Compute the share of groups whose step changes at 4 bits, and the mean ratio of the steps."""
    group_size = deployed_group_size(weight.shape[1])
    before, after = (
        steps_and_zero_points(w.unflatten(-1, (-1, group_size)), 4)[0].double() for w in (weight, weight * scales)
    )
    ratio = after / before  # (out, groups)
    return float(((ratio - 1).abs() > STEP_CHANGE).double().mean()), float(ratio.mean())


def _uniform_changes(weight: Tensor, bits: Sequence[int]) -> int:
    scales = torch.full_like(weight[0], UNIFORM)
    return sum(
        int((scaled_round_to_nearest(weight, scales, "asym-g128", b) != round_to_nearest(weight, "asym-g128", b)).sum())
        for b in bits
    )
