"""Weight clipping: a smaller range costs a group its largest weights but makes its quantization step smaller.

As in llm-awq, each group of each output row gets the best of ten symmetric limits, fractions of its largest absolute
weight. The loss is the error of the group's own part of the output, `E G_g E^T`, with `E = Q(clip(w)) - w` and `G_g`
the group's diagonal block of `G = X^T X`. It is exact over all tokens, where llm-awq samples about 512.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awq_core.quantization.quantizers import quantize_groups

SHRINKS = tuple(1 - i / 20 for i in range(10))
"""Candidate limits, as fractions of a group's largest absolute weight: 1.0, 0.95 ... 0.55."""

UNCLIPPED_FAMILIES = ("q", "k", "qkv")
"""Families that are not clipped, as in llm-awq: errors of queries and keys pass through the softmax, which the clipping
loss ignores."""


def search_clipping(weight: Tensor, second_moment: Tensor, bits: int, group_size: int) -> Tensor:
    """Find the clip limit of each group that minimises the group's own output error.

    Args:
        weight: `(out, in)`, already multiplied by the scales with which it will be quantized.
        second_moment: `(in, in)`, `X^T X` of the inputs, already divided by the same scales.
        bits: precision.
        group_size: weights per group; must divide `in`.

    Returns:
        `(out, in / group_size)`: limits on the absolute weight. A tie goes to the larger limit.
    """
    groups = weight.unflatten(-1, (-1, group_size))  # (out, groups, g)
    blocks = diagonal_blocks(second_moment, group_size)  # (groups, g, g)
    largest = groups.abs().amax(dim=-1)  # (out, groups)
    best = largest.clone()
    least = torch.full_like(largest, torch.inf, dtype=second_moment.dtype)
    for shrink in SHRINKS:
        limit = largest * shrink
        quantized = quantize_groups(clipped(weight, limit), bits, group_size).dequantize()
        difference = (quantized - weight).unflatten(-1, (-1, group_size)).to(second_moment.dtype)  # (out, groups, g)
        error = (torch.einsum("ogi,gij->ogj", difference, blocks) * difference).sum(dim=-1)  # (out, groups)
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better, limit, best)
    return best


def clipped(weight: Tensor, limits: Tensor) -> Tensor:
    """Clamp each group of a weight to plus and minus its limit.

    Args:
        weight: `(out, in)`.
        limits: `(out, groups)`, at least 0.

    Returns:
        `(out, in)`.
    """
    groups = weight.unflatten(-1, (limits.shape[-1], -1))  # (out, groups, g)
    bound = limits.unsqueeze(-1)
    return groups.clamp(-bound, bound).flatten(-2)


def diagonal_blocks(second_moment: Tensor, group_size: int) -> Tensor:
    """Extract the diagonal blocks `(groups, g, g)` of a second moment `(in, in)`, one per group of input channels."""
    count = len(second_moment) // group_size
    tiled = second_moment.unflatten(1, (count, group_size)).unflatten(0, (count, group_size))  # (n, g, n, g)
    return tiled.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
