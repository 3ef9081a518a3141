"""The second moment `G = X^T X` of an input site, gathered and multiplied at about half the operations.

`G` is symmetric, so the column blocks of its lower triangle are all there is to know, and

    e_r = sum_J  E_rJ . (2 G_J,<J E_r,<J + G_JJ E_rJ)        for row r of E = W^ - W

is the exact squared output of one row. In single precision, what channels add together is multiplied in bfloat16 where
the processor has instructions for it, twice as fast: the rounding errors of many terms average out.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from awq_core.quantization.matmul import multiplies_bfloat16, product_with_rows

BLOCK_COLUMNS = 192
"""About how wide a column block is: narrower ones save more of the square, and each product gets less efficient."""

HEAVY_SHARE = 1 / 16
"""A row in which channels add together more than this share of its candidate's errors is multiplied exactly: where few
terms weigh so much, or cancel, their rounding errors (2^-8 of them at most) would not average out."""


TOKENS_AT_ONCE = 2048
"""Tokens that are multiplied at once: fewer make a product inefficient, and more only take memory."""


class SecondMoment:
    """`G` of one input site.

    Args:
        width: channels.
        arithmetic: dtype of products and sums.
        device: where the inputs live.

    Attributes:
        blocks: the column blocks.
        bfloat16: whether products are made in bfloat16.
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
        """Sums over all tokens: rows of block J, columns up to J's end."""
        self._add_waiting()
        return self._summed

    def row_errors(self, rows: Tensor) -> Tensor:
        """`e_r = E_r G E_r^T` of every row.

        Args:
            rows: `(width, ..., rows)`, E transposed, of one candidate or of several, in `arithmetic`.

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
        """By block `[2 G_J,<J, G_JJ]`, `(b, up to J's end)`; in bfloat16 without the diagonal."""
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
        """`G` in full, `(width, width)`."""
        full = self._triangle[0].new_zeros(self.width, self.width)
        for block, total in zip(self.blocks, self._triangle, strict=True):
            full[block, : block.stop] = total
            full[: block.start, block] = total[:, : block.start].T
        return full
