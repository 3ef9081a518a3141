"""What rounding changes, `E = Q(W s) / s - W`, for many scales at once, channels first.

The same roundings as `awq_core.quantizer`, laid out so that every step runs along output rows: a group's range is then
a maximum over neighbouring lines and not within one, several times as fast, and nothing is allocated but the result
and one more array like it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awq_core.quantizer import SMALLEST_RANGE, QuantizerName, deployed_group_size


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
    """`Q(V) - V` under `quantizer.quantize_groups`; its input is overwritten."""
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
    """`Q(V) - V` under `quantizer.quantize_rows`; its input is overwritten."""
    half = 2 ** (bits - 1)
    steps = torch.maximum(scaled.amax(dim=0), scaled.amin(dim=0).neg_()).div_(half)  # (A, rows)
    steps = torch.where(steps > 0, steps, torch.ones_like(steps))
    exact = scaled / steps
    difference = torch.round(exact, out=scaled).clamp_(-half, half - 1)
    return difference.sub_(exact).mul_(steps)
