"""Interface between layer-level instruments and the models they measure: blocks of linears, with their inputs.

One source runs a real model (`awq_core.architectures.block_stream.BlockStream`), another is a control that draws its
inputs at random. Instruments treat all sources alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from awq_core.architectures.model import Role


@dataclass(frozen=True)
class LinearWeights:
    """Weight of one linear and its position in the model."""

    name: str
    block: int
    family: str
    role: Role
    site: str  # name of the input site, unique in the block
    weight: Tensor  # (out, in)


class LayerSource(Protocol):
    """Source of a model's blocks: their linears, and the inputs of each site in several splits of the tokens.

    Attributes:
        blocks: number of blocks.
    """

    blocks: int

    def linears(self, block: int) -> list[LinearWeights]:
        """List the block's linears."""
        ...

    def begin(self, block: int) -> None:
        """Open a block, before its first pass."""
        ...

    def passes(self, block: int, split: str) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Iterate over a split's batches: `(group, {site: inputs (tokens, width)})`, identical on every call.

        The inputs of an expert's site are `(0, width)` in a batch without tokens for it.
        """
        ...

    def advance(self, block: int) -> None:
        """Close a block and move on to the next one."""
        ...

    def skip(self, block: int) -> None:
        """Move past a block whose results are known, in place of all other calls; later inputs stay the same."""
        ...
