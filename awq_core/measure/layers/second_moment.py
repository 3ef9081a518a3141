"""Second moment `G = X^T X` of an input site, accumulated and multiplied with about half of the operations.

`G` is symmetric, so the blocks of its lower triangle suffice, and

    e_r = sum_J  E_rJ . (2 G_J,<J E_r,<J + G_JJ E_rJ)        for row r of E = W^ - W

is the exact squared output of one row. If the arithmetic is single precision and the processor has instructions for
bfloat16, the off-diagonal terms are multiplied in bfloat16, twice as fast: the rounding errors of many terms average
out.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from awq_core.quantization.matmul import multiplies_bfloat16, product_with_rows

BLOCK_COLUMNS = 192
"""Approximate width of a block of columns: narrower blocks save more of the square but make products less efficient."""

HEAVY_SHARE = 1 / 16
"""Share of a candidate's total error: a row whose off-diagonal terms exceed it is recomputed without bfloat16, because
in a few large or cancelling terms the rounding errors (at most 2^-8 of each) would not average out."""


TOKENS_AT_ONCE = 2048
"""Tokens per product: fewer make it inefficient, more only take memory."""


class SecondMoment:
    """Second moment `G` of one input site.

    Args:
        width: number of channels.
        arithmetic: dtype of products and sums.
        device: device of the inputs.

    Attributes:
        blocks: blocks of columns, as slices.
        bfloat16: whether off-diagonal terms of row errors are multiplied in bfloat16.
    """

    def __init__(self, width: int, arithmetic: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.width = width
        self.arithmetic = arithmetic
        count = max(1, round(width / BLOCK_COLUMNS))
        edges = [width * index // count for index in range(count + 1)]
        self.blocks = [slice(start, stop) for start, stop in pairwise(edges)]
        self._summed = [  # rows of block J, columns up to J's end
            torch.zeros(block.stop - block.start, block.stop, dtype=arithmetic, device=device) for block in self.blocks
        ]
        self._waiting: list[Tensor] = []  # tokens that are not in the sums yet
        self.bfloat16 = arithmetic == torch.float32 and multiplies_bfloat16(torch.device(device))
        self._known_factors: dict[bool, list[Tensor]] = {}  # by whether in bfloat16

    def update(self, inputs: Tensor) -> None:
        """Add tokens, `(tokens, width)`."""
        self._known_factors.clear()
        self._waiting.append(inputs)
        if sum(map(len, self._waiting)) >= TOKENS_AT_ONCE:
            self._add_waiting()

    def _add_waiting(self) -> None:
        if not self._waiting:
            return
        joined = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)
        for inputs in joined.split(TOKENS_AT_ONCE):
            transposed = inputs.to(self.arithmetic).T.contiguous()  # (width, T)
            for block, total in zip(self.blocks, self._summed, strict=True):
                total += product_with_rows(transposed[block], transposed[: block.stop])
        self._waiting.clear()

    @property
    def _triangle(self) -> list[Tensor]:
        """Lower triangle of `G` over all tokens so far: for each block J, its rows and the columns up to J's end."""
        self._add_waiting()
        return self._summed

    def row_errors(self, rows: Tensor) -> Tensor:
        """Compute `e_r = E_r G E_r^T` for every row of E.

        Args:
            rows: `(width, ..., rows)`, E transposed, for one or several candidates, in `arithmetic`.

        Returns:
            `(..., rows)`, in squared output units, summed over tokens.
        """
        flat = rows.flatten(1)
        if not self.bfloat16:
            return self._exactly(flat).reshape(rows.shape[1:])
        brief, together = flat.to(torch.bfloat16), flat.new_zeros(flat.shape[1])
        for block, factor in zip(self.blocks, self._factors(bfloat16=True), strict=True):
            together += ((factor @ brief[: block.stop]) * flat[block]).sum(dim=0)
        errors = self._diagonal() @ flat.square() + together
        summed = errors.reshape(rows.shape[1:]).sum(dim=-1, keepdim=True)
        heavy = (together.reshape(rows.shape[1:]).abs() > HEAVY_SHARE * summed).flatten()
        if heavy.any():
            errors[heavy] = self._exactly(flat[:, heavy])
        return errors.reshape(rows.shape[1:])

    def _exactly(self, rows: Tensor) -> Tensor:
        errors = rows.new_zeros(rows.shape[1])
        upright = rows.T.contiguous()  # (rows, width)
        for block, factor in zip(self.blocks, self._factors(bfloat16=False), strict=True):
            spread = product_with_rows(upright[:, : block.stop], factor)  # (rows, b)
            errors += spread.mul_(upright[:, block]).sum(dim=1)
        return errors

    def _factors(self, *, bfloat16: bool) -> list[Tensor]:
        """Build `[2 G_J,<J, G_JJ]`, `(b, up to J's end)`, for each block J; in bfloat16 without the diagonal."""
        if bfloat16 not in self._known_factors:
            factors = self._known_factors[bfloat16] = []
            for block, total in zip(self.blocks, self._triangle, strict=True):
                factor = total.clone()
                factor[:, : block.start] *= 2
                if bfloat16:
                    factor[:, block].diagonal().zero_()
                    factor = factor.to(torch.bfloat16)
                factors.append(factor)
        return self._known_factors[bfloat16]

    def _diagonal(self) -> Tensor:
        return torch.cat([t[:, block].diagonal() for block, t in zip(self.blocks, self._triangle, strict=True)])

    def matrix(self) -> Tensor:
        """Build the full matrix `G`, `(width, width)`."""
        full = self._triangle[0].new_zeros(self.width, self.width)
        for block, total in zip(self.blocks, self._triangle, strict=True):
            full[block, : block.stop] = total
            full[: block.start, block] = total[:, : block.start].T
        return full
