"""Folds that a model allows, and the output rows of the previous linear that produce each channel of a site.

Attention averages values over tokens, head by head, and this average commutes with a scale per channel. Values can
therefore absorb the scale of the attention's output projection. Under grouped-query attention one value head serves
several query heads, whose channels must then share their scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from awq_core.architectures.description import Architecture, Fold, unmet
from awq_core.architectures.linear_modules import linear, weight_of


@dataclass(frozen=True)
class ValueHeads:
    """Layout of an attention's value heads.

    Attributes:
        count: number of key-value heads.
        repeats: number of query heads that read each key-value head; they are adjacent in the attention's output
            (`repeat_kv`).
        size: number of channels per head.
    """

    count: int
    repeats: int
    size: int

    @property
    def width(self) -> int:
        """Number of channels of the attention's output."""
        return self.count * self.repeats * self.size

    def value_channels(self) -> Tensor:
        """List the value channel that each channel of the attention's output averages, `(width,)`."""
        values = torch.arange(self.count * self.size).view(self.count, 1, self.size)
        return values.expand(-1, self.repeats, -1).reshape(-1)


def value_heads(config: Any) -> ValueHeads:
    """Read the layout of value heads from a configuration; without grouped queries, one per query head."""
    heads = config.num_attention_heads
    count = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ValueHeads(count, heads // count, size)


def applicable_folds(model: Any, architecture: Architecture, block: int, *, grouped: bool = False) -> tuple[Fold, ...]:
    """List the folds of a block that leave the model's function unchanged before rounding.

    Args:
        model: the model, with the block's linears present.
        architecture: the model's row of the table.
        block: index of the block.
        grouped: whether values also absorb the scale of the attention's output under grouped-query attention. The query
            heads that read one key-value head must then share their scales: compute them from `shared_magnitude`.
    """

    def fits(fold: Fold) -> bool:
        if unmet(fold.requires, model.config):
            return False
        if fold.kind != "linear":
            norm = model.get_submodule(f"{architecture.blocks}.{block}.{fold.previous}")
            return getattr(norm, "weight", None) is not None  # a norm without a weight has nothing to divide
        rows = rows_of_channels(model, architecture, block, fold)
        return rows is not None and (grouped or len(rows.unique()) == len(rows))

    return tuple(fold for fold in architecture.folds if fits(fold))


def rows_of_channels(model: Any, architecture: Architecture, block: int, fold: Fold) -> Tensor | None:
    """Find the output row of the previous linear that produces each channel of a fold's first site.

    Returns:
        `(width,)`, row indices; a row that occurs several times produces several channels. None if the shapes do not
        agree with `fold.rows`.
    """
    prefix = f"{architecture.blocks}.{block}"
    site = architecture.site(fold.name)
    produced = len(weight_of(linear(model, f"{prefix}.{fold.previous}")))
    width = weight_of(linear(model, f"{prefix}.{site.linears[0][1]}")).shape[1]
    channels = torch.arange(width)
    head = width
    if site.role == "attention_out":
        heads = value_heads(model.config)
        if heads.width != width:
            return None
        channels, head = heads.value_channels(), heads.size
    count = int(channels.max()) + 1
    if fold.rows == "last":
        return channels + (produced - count) if produced > count else None
    if fold.rows == "last-of-head":  # a head's rows are its query, key and value
        return channels // head * 3 * head + 2 * head + channels % head if produced == 3 * count else None
    return channels if produced == count else None


def shared_magnitude(model: Any, architecture: Architecture, block: int, fold: Fold, magnitude: Tensor) -> Tensor:
    """Average magnitudes over channels whose scales a fold requires to be equal.

    Args:
        model: the model, for its configuration.
        architecture: the model's row of the table.
        block: index of the block.
        fold: one of `applicable_folds(..., grouped=True)`.
        magnitude: `(width,)`.

    Returns:
        `(width,)`: at the attention's output under grouped-query attention, the mean over the query heads that read one
        key-value head, repeated for each of them; elsewhere `magnitude` itself.
    """
    if fold.kind != "linear" or architecture.site(fold.name).role != "attention_out":
        return magnitude
    heads = value_heads(model.config)
    if heads.repeats == 1:
        return magnitude
    grouped = magnitude.view(heads.count, heads.repeats, heads.size)
    return grouped.mean(dim=1, keepdim=True).expand_as(grouped).reshape(-1)
