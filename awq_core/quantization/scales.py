"""Scales that protect channels: `s = x^alpha`, multiplied into the weights before rounding and divided out after.

AWQ paper, section 3.2: `Q(W s) (x / s)` with `s = s_X^alpha`, `s_X` the mean magnitude of each input channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awq_core.quantization.quantizers import Quantizer, round_to_nearest

SMALLEST_SCALE = 1e-4
"""llm-awq's floor under an unnormalised scale."""


def official_scales(magnitude: Tensor, alpha: float) -> Tensor:
    """llm-awq's scales: `clamp(x^alpha, 1e-4)`, divided by `sqrt(max * min)`.

    Kept exactly as published for the block-level search, with its known failure: a channel that is always
    zero clamps to 1e-4 and the normalisation then rescales all others by about 100.

    Args:
        magnitude: `(in,)`, mean over tokens of abs(x).
        alpha: exponent; 0 gives ones, which is round-to-nearest.

    Returns:
        `(in,)`, positive.
    """
    scales = magnitude.pow(alpha).clamp(min=SMALLEST_SCALE)
    return scales / (scales.max() * scales.min()).sqrt()


def duo_scales(magnitude: Tensor, weight_size: Tensor, alpha: float) -> Tensor:
    """AutoAWQ's and llm-compressor's scales, which weigh activations against weights ("duo scaling").

    `clamp(x^a / (w^(1 - a) + 1e-4), 1e-4)`, divided by `sqrt(max * min)`. No exponent gives ones, so
    round-to-nearest is not among the candidates.

    Args:
        magnitude: `(in,)`, mean over tokens of abs(x).
        weight_size: `(in,)`, `relative_weight_size` of the weights that read it.
        alpha: exponent of the activations; `1 - alpha` is the weights'.

    Returns:
        `(in,)`, positive.
    """
    scales = (magnitude.pow(alpha) / (weight_size.pow(1 - alpha) + SMALLEST_SCALE)).clamp(min=SMALLEST_SCALE)
    return scales / (scales.max() * scales.min()).sqrt()


def relative_weight_size(weight: Tensor, group_size: int) -> Tensor:
    """AutoAWQ's weight statistic: mean over rows of abs(w) / (the group's largest abs(w) + 1e-6).

    Args:
        weight: `(out, in)`, the linears of a group stacked.
        group_size: weights in a group; must divide `in`.

    Returns:
        `(in,)`, 0 to 1.
    """
    groups = weight.abs().unflatten(-1, (-1, group_size))  # (out, groups, g)
    relative = groups / (groups.amax(dim=-1, keepdim=True) + 1e-6)
    return relative.flatten(-2).mean(dim=0)


def linear_scales(magnitude: Tensor, alphas: Tensor) -> Tensor:
    """Scales of one linear for many exponents: `(x / mean x)^alpha`, the ratio floored at 1e-4.

    Dividing by the mean first makes the floor relative: multiplying the inputs by a constant changes
    nothing, and a dead channel neither vanishes nor drags the others along. A constant factor on `s`
    leaves the quantized weights as they are, so no further normalisation is needed (AWQ-Diag's
    `x^a / mean(x^a)` quantizes alike).

    Args:
        magnitude: `(in,)`, mean over tokens of abs(x).
        alphas: `(alphas,)` exponents.

    Returns:
        `(alphas, in)`, positive; all ones for alpha 0, and for a magnitude of zeros.
    """
    mean = magnitude.mean()
    ratio = magnitude / torch.where(mean > 0, mean, torch.ones_like(mean))
    ratio = torch.where(mean > 0, ratio, torch.ones_like(ratio)).clamp(min=SMALLEST_SCALE)
    return ratio.unsqueeze(0).pow(alphas.to(magnitude).unsqueeze(1))


def scaled_round_to_nearest(weight: Tensor, scales: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
    """The weights that the model effectively uses: `Q(W s) / s`.

    Args:
        weight: `(out, in)`.
        scales: `(..., in)`, one scale per input channel.
        quantizer: which rounding.
        bits: precision.

    Returns:
        `(..., out, in)`.
    """
    scales = scales.unsqueeze(-2)  # (..., 1, in)
    return round_to_nearest(weight * scales, quantizer, bits) / scales
