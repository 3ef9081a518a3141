"""The sizes of a model on which its costs depend, read from the model and its row of the table of architectures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from awq_core.architecture import Architecture, applicable_folds, blocks_of, is_linear, linear, weight_of
from awq_core.fold_rows import value_heads


@dataclass(frozen=True)
class LinearShape:
    """One linear of a block: its family, its site, `(out, width)`."""

    family: str
    site: str
    out: int
    width: int


@dataclass(frozen=True)
class SearchedGroup:
    """Linears that share a scale in the block-level search.

    Attributes:
        rounded: the group's linears.
        replayed: the inspected module's linears; the linear itself where that is inspected.
        is_linear: whether the inspected module is a linear.
        with_attention: whether it holds the attention's products.
    """

    rounded: tuple[LinearShape, ...]
    replayed: tuple[LinearShape, ...]
    is_linear: bool
    with_attention: bool


@dataclass(frozen=True)
class ModelShape:
    """A model's sizes; its blocks are taken to be alike.

    Attributes:
        blocks: how many are measured.
        hidden: width of the residual stream.
        vocabulary: columns of the head.
        heads: query heads.
        head_size: channels of a head.
        linears: of one block.
        dtype: of forward passes.
        arithmetic: of second moments, errors and GPTQ.
    """

    blocks: int
    hidden: int
    vocabulary: int
    heads: int
    head_size: int
    linears: tuple[LinearShape, ...]
    dtype: torch.dtype
    arithmetic: torch.dtype

    @property
    def sites(self) -> tuple[tuple[int, int], ...]:
        """`(width, output rows of all its linears)` of every input site of a block."""
        widths: dict[str, int] = {}
        rows: dict[str, int] = {}
        for entry in self.linears:
            widths[entry.site] = entry.width
            rows[entry.site] = rows.get(entry.site, 0) + entry.out
        return tuple((widths[site], rows[site]) for site in widths)


def shape_of(model: Any, architecture: Architecture, arithmetic: torch.dtype) -> ModelShape:
    """Read a model's sizes, from its first block."""
    linears = []
    for site in architecture.sites:
        for family, path in site.linears:
            out, width = weight_of(linear(model, f"{architecture.blocks}.0.{path}")).shape
            linears.append(LinearShape(family, site.name, out, width))
    config = model.config
    return ModelShape(
        len(blocks_of(model, architecture)),
        config.hidden_size,
        len(model.get_output_embeddings().weight),
        config.num_attention_heads,
        value_heads(config).size,
        tuple(linears),
        next(model.parameters()).dtype,
        arithmetic,
    )


def searched_groups(
    model: Any, architecture: Architecture, linears: tuple[LinearShape, ...], *, grouped: bool = False
) -> tuple[SearchedGroup, ...]:
    """The groups that the block-level search looks at in the first block.

    Args:
        model: the model.
        architecture: its row of the table.
        linears: of a block, in the table's order.
        grouped: also o's under grouped-query attention, with the scale that query heads share.
    """
    paths = [path for site in architecture.sites for _, path in site.linears]
    found = []
    for fold in applicable_folds(model, architecture, 0, grouped=grouped):
        inspected = model.get_submodule(f"{architecture.blocks}.0.{fold.inspected}".rstrip("."))
        replayed = tuple(entry for entry, path in zip(linears, paths, strict=True) if _inside(path, fold.inspected))
        attention = any(architecture.site(entry.site).role == "attention_in" for entry in replayed)
        rounded = tuple(entry for entry in linears if entry.site in fold.sites)
        found.append(SearchedGroup(rounded, replayed, is_linear(inspected), attention))
    return tuple(found)


def _inside(path: str, module: str) -> bool:
    return not module or path == module or path.startswith(f"{module}.")
