"""Which folds a model allows, and which output rows of the previous linear make each channel of a site.

Between values and the attention's output stands a weighted mean over tokens, head by head: it commutes with a
scale of each channel. Under grouped-query attention one value head serves several query heads, whose channels must
then share their scale.
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
    """How value channels serve the channels of the attention's output.

    Attributes:
        count: key-value heads.
        repeats: query heads that read one of them, neighbours in the attention's output (`repeat_kv`).
        size: channels of a head.
    """

    count: int
    repeats: int
    size: int

    @property
    def width(self) -> int:
        """Channels of the attention's output."""
        return self.count * self.repeats * self.size

    def value_channels(self) -> Tensor:
        """For each channel of the attention's output the value channel that it averages, `(width,)`."""
        values = torch.arange(self.count * self.size).view(self.count, 1, self.size)
        return values.expand(-1, self.repeats, -1).reshape(-1)


def value_heads(config: Any) -> ValueHeads:
    """The value heads that a configuration asks for; without grouping, one for each query head."""
    heads = config.num_attention_heads
    count = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ValueHeads(count, heads // count, size)


def applicable_folds(model: Any, architecture: Architecture, block: int, *, grouped: bool = False) -> tuple[Fold, ...]:
    """The folds that change nothing before rounding.

    Args:
        model: with its configuration.
        architecture: its row of the table.
        block: index of the block.
        grouped: also fold values into the attention's output under grouped-query attention. There the scale must be
            shared by the query heads that read one key-value head: make it from `shared_magnitude`.
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
    """For each channel of a site the output row of the previous linear that makes it, `(width,)`.

    Returns:
        None where the shapes are not those of `fold.rows`. A row that occurs twice makes several channels.
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
    if fold.rows == "last-of-head":  # rows of a head: its query, its key, its value
        return channels // head * 3 * head + 2 * head + channels % head if produced == 3 * count else None
    return channels if produced == count else None


def shared_magnitude(model: Any, architecture: Architecture, block: int, fold: Fold, magnitude: Tensor) -> Tensor:
    """A site's channel magnitudes from which scales come out that the fold can absorb.

    Args:
        model: with its configuration.
        architecture: its row of the table.
        block: index of the block.
        fold: one of `applicable_folds(..., grouped=True)`.
        magnitude: `(width,)`.

    Returns:
        `(width,)`: unchanged, but under grouped-query attention, at the attention's output, the mean over the query
        heads that read one key-value head, at each of them.
    """
    if fold.kind != "linear" or architecture.site(fold.name).role != "attention_out":
        return magnitude
    heads = value_heads(model.config)
    if heads.repeats == 1:
        return magnitude
    grouped = magnitude.view(heads.count, heads.repeats, heads.size)
    return grouped.mean(dim=1, keepdim=True).expand_as(grouped).reshape(-1)
