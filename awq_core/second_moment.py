"""The second moment `G = X^T X` of an input site, gathered and multiplied at about half the operations.

`G` is symmetric, so the column blocks of its lower triangle are all there is to know, and

    e_r = sum_J  E_rJ . (2 G_J,<J E_r,<J + G_JJ E_rJ)        for row r of E = W^ - W

is the exact squared output of one row. Multiplied in bfloat16 it is several times as fast and nearly exact, as the many
terms' rounding errors average out; how nearly depends on how much the terms cancel (`exponent_race.py` looks).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from awq_core.products import product_with_rows

BLOCK_COLUMNS = 448
"""About how wide a column block is: narrower ones save more of the square, and each product gets less efficient."""


class SecondMoment:
    """`G` of one input site.

    Args:
        width: channels.
        arithmetic: dtype of products and sums.
        device: where the inputs live.

    Attributes:
        blocks: the column blocks.
    """

    def __init__(self, width: int, arithmetic: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.width = width
        self.arithmetic = arithmetic
        count = max(1, round(width / BLOCK_COLUMNS))
        edges = [width * index // count for index in range(count + 1)]
        self.blocks = [slice(start, stop) for start, stop in pairwise(edges)]
        self._triangle = [  # rows of block J, columns up to J's end
            torch.zeros(block.stop - block.start, block.stop, dtype=arithmetic, device=device) for block in self.blocks
        ]
        self._factors: dict[bool, list[Tensor]] = {}  # by whether in bfloat16

    def update(self, inputs: Tensor) -> None:
        """Add tokens, `(tokens, width)`."""
        self._factors.clear()
        transposed = inputs.to(self.arithmetic).T.contiguous()  # (width, T)
        for block, total in zip(self.blocks, self._triangle, strict=True):
            total += product_with_rows(transposed[block], transposed[: block.stop])

    def row_errors(self, rows: Tensor, *, short: bool = False) -> Tensor:
        """`e_r = E_r G E_r^T` of every row.

        Args:
            rows: `(width, rows)`, E transposed, in `arithmetic`.
            short: multiply in bfloat16, but for the diagonal of `G`, which holds most of the sum; add in `arithmetic`.

        Returns:
            `(rows,)`, in squared output units, summed over tokens.
        """
        factors = self._factors_of(short)
        if short:
            brief = rows.to(torch.bfloat16)
            errors = self._diagonal() @ rows.square()
            for block, factor in zip(self.blocks, factors, strict=True):
                errors += ((factor @ brief[: block.stop]) * rows[block]).sum(dim=0)
            return errors
        errors = rows.new_zeros(rows.shape[1])
        upright = rows.T.contiguous()  # (rows, width)
        for block, factor in zip(self.blocks, factors, strict=True):
            spread = product_with_rows(upright[:, : block.stop], factor)  # (rows, b)
            errors += spread.mul_(upright[:, block]).sum(dim=1)
        return errors

    def _factors_of(self, short: bool) -> list[Tensor]:
        """By block `[2 G_J,<J, G_JJ]`, `(b, up to J's end)`; in bfloat16 without the diagonal."""
        if short not in self._factors:
            self._factors[short] = []
            for block, total in zip(self.blocks, self._triangle, strict=True):
                factor = total.clone()
                factor[:, : block.start] *= 2
                if short:
                    factor[:, block].diagonal().zero_()
                    factor = factor.to(torch.bfloat16)
                self._factors[short].append(factor)
        return self._factors[short]

    def _diagonal(self) -> Tensor:
        return torch.cat([t[:, block].diagonal() for block, t in zip(self.blocks, self._triangle, strict=True)])

    def matrix(self) -> Tensor:
        """`G` in full, `(width, width)`."""
        full = self._triangle[0].new_zeros(self.width, self.width)
        for block, total in zip(self.blocks, self._triangle, strict=True):
            full[block, : block.stop] = total
            full[: block.start, block] = total[:, : block.start].T
        return full
