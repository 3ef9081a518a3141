"""Clipping: shrinking a group's range costs its largest weights and makes every step smaller.

llm-awq searches, for every group of every output row, the best of ten symmetric shrinks of the largest absolute
weight. The loss is the error of the group's own part of the output: with `E = Q(clip(w)) - w` and the group's
diagonal block of `G = X^T X`, it is `E G_g E^T`, over all tokens, where llm-awq takes about 512.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awq_core.quantization.quantizers import quantize_groups

SHRINKS = tuple(1 - i / 20 for i in range(10))
"""1.0, 0.95 ... 0.55 of a group's largest absolute weight."""

UNCLIPPED_FAMILIES = ("q", "k", "qkv")
"""Left alone by llm-awq: errors of queries and keys go through the softmax, and this loss does not see it."""


def search_clipping(weight: Tensor, second_moment: Tensor, bits: int, group_size: int) -> Tensor:
    """The best limit of every group.

    Args:
        weight: `(out, in)`, scaled as it will be quantized.
        second_moment: `(in, in)` of the inputs that reach it (divided by the same scales).
        bits: precision.
        group_size: weights in a group; must divide `in`.

    Returns:
        `(out, in / group_size)`: weights are clamped to plus and minus this. The larger limit of a tie.
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
    """The weight with every group clamped to its limit.

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
    """The blocks `(groups, g, g)` of `(in, in)` that groups see of themselves."""
    count = len(second_moment) // group_size
    tiled = second_moment.unflatten(1, (count, group_size)).unflatten(0, (count, group_size))  # (n, g, n, g)
    return tiled.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
