"""What the layer-level instruments measure: blocks of linears, and the tokens at their inputs.

A real model is one source (`awq_core.architectures.block_stream.BlockStream`); a control that draws its inputs is
another.
The instruments cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from awq_core.architectures.model import Role


@dataclass(frozen=True)
class LinearWeights:
    """One linear of a block."""

    name: str
    block: int
    family: str
    role: Role
    site: str  # unique in the block; the role, but for experts
    weight: Tensor  # (out, in)


class LayerSource(Protocol):
    """Blocks of linears with the tokens that reach them, in both splits."""

    blocks: int

    def linears(self, block: int) -> list[LinearWeights]:
        """The block's linears."""
        ...

    def begin(self, block: int) -> None:
        """Called before a block's first pass."""
        ...

    def passes(self, block: int, split: str) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """`(group, {site: inputs (tokens, width)})` for each batch; the same tokens every time it is called.

        An expert's site may have no tokens in a batch: its inputs are then `(0, width)`.
        """
        ...

    def advance(self, block: int) -> None:
        """Called when nothing more is needed of the block."""
        ...

    def skip(self, block: int) -> None:
        """Called in place of all others where a block's results are known; the next block's tokens come out alike."""
        ...
