"""Output errors of one linear, output row by output row, for many candidates at once.

Rows of a linear do not influence one another: its error is the sum of theirs. So some rows, spread over all, say how
candidates compare before the others have been looked at, and rows are what work is divided into.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from awq_core.measure.layers.racing import spread_order
from awq_core.measure.layers.second_moment import SecondMoment
from awq_core.quantization.quantizers import Quantizer, rounding_differences

CHUNK_ELEMENTS = 1_200_000
"""Rounded weights in one product: enough rows for it to be efficient, few enough to stay in a processor's cache."""

FEWEST_ROWS = 64
"""A share of the rows is never fewer than this."""

WHOLE_ROWS = 256
"""Up to so many rows (keys and values of few heads) all are looked at: they cost little, and a share would be few."""


def rows_looked_at(out_features: int, share: float) -> Tensor:
    """Indices of some output rows, in an order in which any first few are spread over all."""
    some = out_features if out_features <= WHOLE_ROWS else max(FEWEST_ROWS, round(share * out_features))
    return torch.as_tensor(spread_order(out_features)[:some])


class LinearRows:
    """The output rows of one linear, in an order in which any first few are spread over all.

    Args:
        weight: `(out, in)`.
        arithmetic: dtype of the errors.
        share: of the rows that is looked at; 1 for all.

    Attributes:
        count: how many rows are looked at.
        share: of all rows.
        weight: `(count, in)`, these rows.
    """

    def __init__(self, weight: Tensor, arithmetic: torch.dtype, share: float = 1.0) -> None:
        self.weight = weight[rows_looked_at(len(weight), share).to(weight.device)].to(arithmetic)  # (rows, in)
        self.count = len(self.weight)
        self.share = self.count / len(weight)
        self.transposed = self.weight.T.contiguous()  # (in, rows)

    def power(self, moment: SecondMoment) -> float:
        """Squared output without rounding, summed over rows and tokens; 1 where it is 0, as all errors are 0 then."""
        chunks = self.transposed.split(self._rows_at_once(), dim=1)
        power = sum(float(moment.row_errors(chunk).sum(dtype=torch.float64)) for chunk in chunks)
        return power if power != 0 else 1.0

    def total_errors(
        self, scales: Tensor, quantizer: Quantizer, bits: int, moments: Sequence[SecondMoment]
    ) -> np.ndarray:
        """Squared output errors under every candidate, `(splits, candidates)`, summed over rows; see `errors`."""
        total: np.ndarray = self.errors(scales, quantizer, bits, moments, slice(0, self.count)).sum(axis=2)
        return total

    def errors(
        self, scales: Tensor, quantizer: Quantizer, bits: int, moments: Sequence[SecondMoment], rows: slice
    ) -> np.ndarray:
        """Squared output errors of some rows under every candidate.

        Args:
            scales: `(candidates, in)`.
            quantizer: which rounding.
            bits: precision.
            moments: one for each split of the tokens.
            rows: which, in this object's order.

        Returns:
            `(splits, candidates, rows)`, float64.
        """
        # Gathered where the weights are: one transfer to the host, not one for every product.
        found = torch.empty(
            len(moments), len(scales), rows.stop - rows.start, dtype=torch.float64, device=self.transposed.device
        )
        for start in range(rows.start, rows.stop, self._rows_at_once()):
            stop = min(rows.stop, start + self._rows_at_once())
            chosen = self.transposed[:, start:stop]  # (in, n)
            at_once = max(1, CHUNK_ELEMENTS // chosen.numel())
            for first in range(0, len(scales), at_once):
                candidates = slice(first, min(len(scales), first + at_once))
                difference = rounding_differences(chosen, scales[candidates].T.contiguous(), quantizer, bits)
                for m, moment in enumerate(moments):
                    found[m, candidates, start - rows.start : stop - rows.start] = moment.row_errors(difference)
        return found.cpu().numpy()

    def _rows_at_once(self) -> int:
        return max(1, CHUNK_ELEMENTS // len(self.transposed))
