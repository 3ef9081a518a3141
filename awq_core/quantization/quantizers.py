"""Round-to-nearest quantizers: the deployed group-wise one and the AWQ-Diag study's per-row one.

Both return dequantized weights: claims are about what the rounding does to a linear's output. `rounding_differences`
has the same roundings for many scales at once, laid out so that every step runs along output rows: a group's range is
then a maximum over neighbouring lines and not within one, several times as fast.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

QuantizerName = Literal["asym-g128", "sym-channel"]

SMALLEST_RANGE = 1e-5
"""llm-awq's floor under a group's range, so that a constant group does not divide by zero."""


CHUNK_ELEMENTS = 250_000
"""Weights of one matrix that are rounded at once."""


class QuantizedGroups(NamedTuple):
    """Integer codes of a weight matrix with steps and zero points: `w = (code - zero_point) * step`."""

    codes: Tensor  # (..., out, in) integers in [0, 2^bits - 1], stored in the weights' dtype
    steps: Tensor  # (..., out, in / group_size)
    zero_points: Tensor  # (..., out, in / group_size) integers in [0, 2^bits - 1]

    def dequantize(self) -> Tensor:
        """Compute the weights `(..., out, in)`."""
        groups = self.steps.shape[-1]
        codes = self.codes.unflatten(-1, (groups, -1))  # (..., out, groups, g)
        weights = (codes - self.zero_points.unsqueeze(-1)) * self.steps.unsqueeze(-1)
        return weights.flatten(-2)


def deployed_group_size(in_features: int) -> int:
    """128 where it divides the width, else the width's largest divisor from 32 to 128, else the whole row."""
    return next((size for size in range(128, 31, -1) if in_features % size == 0), in_features)


def quantize_groups(weight: Tensor, bits: int, group_size: int) -> QuantizedGroups:
    """Quantize groups of weights along the input dimension asymmetrically, as llm-awq's `pseudo_quantize_tensor`.

    `step = max((max - min), 1e-5) / (2^b - 1)`, `zero_point = clamp(-round(min / step), 0, 2^b - 1)`,
    `code = clamp(round(w / step) + zero_point, 0, 2^b - 1)`. The range need not include zero, so a group whose weights
    all have the same sign can saturate: its error is not bounded by half a step.

    Args:
        weight: `(..., out, in)`.
        bits: 1 to 16.
        group_size: weights per group; must divide `in`.

    Raises:
        ValueError: if `group_size` does not divide the width, or `bits` is out of range.
    """
    _check_bits(bits)
    if group_size < 1 or weight.shape[-1] % group_size:
        raise ValueError(f"group_size must divide the input width {weight.shape[-1]}, got {group_size}")
    groups = weight.unflatten(-1, (-1, group_size))  # (..., out, groups, g)
    steps, zero_points = steps_and_zero_points(groups, bits)
    codes = (torch.round(groups / steps.unsqueeze(-1)) + zero_points.unsqueeze(-1)).clamp(0, 2**bits - 1)
    return QuantizedGroups(codes.flatten(-2), steps, zero_points)


def steps_and_zero_points(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Compute the asymmetric quantizer's step and zero point of each group.

    Args:
        groups: `(..., g)` weights.
        bits: precision.

    Returns:
        `(steps, zero_points)`, both `(...)`.
    """
    top = 2**bits - 1
    low, high = groups.aminmax(dim=-1)  # (...)
    steps = (high - low).clamp(min=SMALLEST_RANGE) / top
    return steps, (-torch.round(low / steps)).clamp(0, top)


def quantize_rows(weight: Tensor, bits: int) -> Tensor:
    """Quantize output rows symmetrically, with one step per row, as in AWQ-Diag: `step = max|w| / 2^(b-1)`.

    Codes are from `-2^(b-1)` to `2^(b-1) - 1`, so a largest weight that is positive is clipped by one step.

    Args:
        weight: `(..., out, in)`.
        bits: 2 to 16.

    Returns:
        Dequantized weights `(..., out, in)`; a row of zeros stays zero.

    Raises:
        ValueError: if `bits` is out of range.
    """
    _check_bits(bits, least=2)
    half = 2 ** (bits - 1)
    steps = weight.abs().amax(dim=-1, keepdim=True) / half  # (..., out, 1)
    steps = torch.where(steps > 0, steps, torch.ones_like(steps))
    return torch.round(weight / steps).clamp(-half, half - 1) * steps


def round_to_nearest(weight: Tensor, quantizer: QuantizerName, bits: int) -> Tensor:
    """Dequantized weights `(..., out, in)` under one of the two quantizers that claims are judged with.

    Weights of half precision are rounded in single: which code is nearest is not for their format to blur.

    Raises:
        ValueError: for a quantizer that does not exist.
    """
    if quantizer not in ("asym-g128", "sym-channel"):
        raise ValueError(f"quantizer must be asym-g128 or sym-channel, got {quantizer!r}")

    def rounded(rows: Tensor) -> Tensor:
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        if quantizer == "sym-channel":
            return quantize_rows(rows, bits)
        return quantize_groups(rows, bits, deployed_group_size(rows.shape[-1])).dequantize()

    per_part = max(1, CHUNK_ELEMENTS // weight.shape[-1])
    if weight.ndim != 2 or len(weight) <= per_part:
        return rounded(weight).to(weight.dtype)
    # Rows are rounded apart from one another: a few at a time, every step works in the processor's cache.
    result = torch.empty_like(weight)
    for part, target in zip(weight.split(per_part), result.split(per_part), strict=True):
        target.copy_(rounded(part))
    return result


def _check_bits(bits: int, least: int = 1) -> None:
    if not least <= bits <= 16:
        raise ValueError(f"bits must be from {least} to 16, got {bits}")


def rounding_differences(weight: Tensor, scales: Tensor, quantizer: QuantizerName, bits: int) -> Tensor:
    """`Q(W s) / s - W` for every scale.

    Args:
        weight: `(in, rows)`: some output rows of a linear, transposed.
        scales: `(in, candidates)`, positive.
        quantizer: which rounding.
        bits: precision, 2 to 16.

    Returns:
        `(in, candidates, rows)`.

    Raises:
        ValueError: for a quantizer that does not exist.
    """
    scaled = weight.unsqueeze(1) * scales.unsqueeze(2)  # (in, A, rows)
    if quantizer == "asym-g128":
        difference = _grouped(scaled, bits, deployed_group_size(len(weight)))
    elif quantizer == "sym-channel":
        difference = _by_row(scaled, bits)
    else:
        raise ValueError(f"quantizer must be asym-g128 or sym-channel, got {quantizer!r}")
    return difference.div_(scales.unsqueeze(2))


def _grouped(scaled: Tensor, bits: int, group_size: int) -> Tensor:
    """`Q(V) - V` under `quantize_groups`; its input is overwritten."""
    top = 2**bits - 1
    groups = scaled.unflatten(0, (-1, group_size))  # (groups, g, A, rows)
    low, high = groups.amin(dim=1, keepdim=True), groups.amax(dim=1, keepdim=True)
    steps = (high - low).clamp_(min=SMALLEST_RANGE).div_(top)  # (groups, 1, A, rows)
    zero_points = (low / steps).round_().neg_().clamp_(0, top)
    exact = groups / steps
    # Codes less the zero point lie between these: round-to-nearest clamps them after adding it.
    difference = torch.clamp(torch.round(exact, out=groups), -zero_points, top - zero_points, out=groups)
    return difference.sub_(exact).mul_(steps).flatten(0, 1)


def _by_row(scaled: Tensor, bits: int) -> Tensor:
    """`Q(V) - V` under `quantize_rows`; its input is overwritten."""
    half = 2 ** (bits - 1)
    steps = torch.maximum(scaled.amax(dim=0), scaled.amin(dim=0).neg_()).div_(half)  # (A, rows)
    steps = torch.where(steps > 0, steps, torch.ones_like(steps))
    exact = scaled / steps
    difference = torch.round(exact, out=scaled).clamp_(-half, half - 1)
    return difference.sub_(exact).mul_(steps)
