"""Channel scales: `s = x^alpha`, multiplied into the weights before rounding and divided out afterwards.

AWQ paper, section 3.2: `Q(W s) (x / s)` with `s = s_X^alpha`, `s_X` the mean magnitude of each input channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awq_core.quantization.quantizers import QuantizerName, round_to_nearest

SMALLEST_SCALE = 1e-4
"""Lower bound of a scale before normalisation, as in llm-awq."""


def official_scales(magnitude: Tensor, alpha: float) -> Tensor:
    """Compute llm-awq's scales: `clamp(x^alpha, 1e-4)`, divided by `sqrt(max * min)`.

    The block-level search uses them exactly as published, with a known flaw: a channel that is always zero clamps to
    1e-4, and normalisation then multiplies the scales of all other channels by about 100.

    Args:
        magnitude: `(in,)`, mean over tokens of abs(x).
        alpha: exponent; 0 gives scales of 1, which is round-to-nearest.

    Returns:
        `(in,)`, positive.
    """
    scales = magnitude.pow(alpha).clamp(min=SMALLEST_SCALE)
    return scales / (scales.max() * scales.min()).sqrt()


def duo_scales(magnitude: Tensor, weight_size: Tensor, alpha: float) -> Tensor:
    """Compute AutoAWQ's and llm-compressor's scales from activations and weights ("duo scaling").

    `clamp(x^a / (w^(1 - a) + 1e-4), 1e-4)`, divided by `sqrt(max * min)`. No exponent gives scales of 1, so
    round-to-nearest is not among the candidates.

    Args:
        magnitude: `(in,)`, mean over tokens of abs(x).
        weight_size: `(in,)`, `relative_weight_size` of the linears that read this input.
        alpha: exponent `a` of the activations; the weights get `1 - a`.

    Returns:
        `(in,)`, positive.
    """
    scales = (magnitude.pow(alpha) / (weight_size.pow(1 - alpha) + SMALLEST_SCALE)).clamp(min=SMALLEST_SCALE)
    return scales / (scales.max() * scales.min()).sqrt()


def relative_weight_size(weight: Tensor, group_size: int) -> Tensor:
    """Compute AutoAWQ's weight statistic: mean over rows of `abs(w) / (largest abs(w) of the group + 1e-6)`.

    Args:
        weight: `(out, in)`, all linears that share the scale, stacked.
        group_size: weights per group; must divide `in`.

    Returns:
        `(in,)`, 0 to 1.
    """
    groups = weight.abs().unflatten(-1, (-1, group_size))  # (out, groups, g)
    relative = groups / (groups.amax(dim=-1, keepdim=True) + 1e-6)
    return relative.flatten(-2).mean(dim=0)


def linear_scales(magnitude: Tensor, alphas: Tensor) -> Tensor:
    """Compute one linear's scales for several exponents: `max(x / mean x, 1e-4)^alpha`.

    Dividing by the mean makes the lower bound relative, so that multiplying the inputs by a constant changes nothing
    and a dead channel affects no other. A constant factor on `s` does not change `Q(W s) / s`, so no further
    normalisation is needed (AWQ-Diag's `x^a / mean(x^a)` gives the same quantized weights).

    Args:
        magnitude: `(in,)`, mean over tokens of abs(x).
        alphas: `(alphas,)` exponents.

    Returns:
        `(alphas, in)`, positive; all 1 for alpha 0, and where all magnitudes are 0.
    """
    mean = magnitude.mean()
    ratio = magnitude / torch.where(mean > 0, mean, torch.ones_like(mean))
    ratio = torch.where(mean > 0, ratio, torch.ones_like(ratio)).clamp(min=SMALLEST_SCALE)
    return ratio.unsqueeze(0).pow(alphas.to(magnitude).unsqueeze(1))


def scaled_round_to_nearest(weight: Tensor, scales: Tensor, quantizer: QuantizerName, bits: int) -> Tensor:
    """Compute the effective quantized weights `Q(W s) / s`.

    Args:
        weight: `(out, in)`.
        scales: `(..., in)`, one scale per input channel.
        quantizer: name of the quantizer.
        bits: precision.

    Returns:
        `(..., out, in)`.
    """
    scales = scales.unsqueeze(-2)  # (..., 1, in)
    return round_to_nearest(weight * scales, quantizer, bits) / scales
