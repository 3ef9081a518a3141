"""Output errors of one linear by output row, for many candidates at once.

A linear's squared output error is the sum of its rows' errors, and rows are independent. A sample of rows therefore
estimates how candidates compare, and work is divided by rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from awq_core.measure.layers.racing import spread_order
from awq_core.measure.layers.second_moment import SecondMoment
from awq_core.quantization.quantizers import QuantizerName, rounding_differences

CHUNK_ELEMENTS = 1_200_000
"""Rounded weights in one product: enough for the product to be efficient, few enough for the processor's cache."""

FEWEST_ROWS = 64
"""Smallest number of rows that a share of the rows selects."""

WHOLE_ROWS = 256
"""Number of output rows up to which all are selected: linears this small (keys and values of few heads) cost little,
and a share of their rows would be few."""


def rows_looked_at(out_features: int, share: float) -> Tensor:
    """Select output rows, in an order in which any first few are spread over all.

    Args:
        out_features: number of output rows.
        share: share of the rows to select, subject to `FEWEST_ROWS` and `WHOLE_ROWS`.

    Returns:
        `(selected,)`, row indices.
    """
    some = out_features if out_features <= WHOLE_ROWS else max(FEWEST_ROWS, round(share * out_features))
    return torch.as_tensor(spread_order(out_features)[:some])


class LinearRows:
    """Output rows of one linear, all or a selection, in an order in which any first few are spread over all.

    Args:
        weight: `(out, in)`.
        arithmetic: dtype of the errors.
        share: share of the rows to select; 1 for all.

    Attributes:
        count: number of selected rows.
        share: share of the linear's rows that is selected.
        weight: `(count, in)`, the selected rows.
        transposed: `(in, count)`, the selected rows transposed.
    """

    def __init__(self, weight: Tensor, arithmetic: torch.dtype, share: float = 1.0) -> None:
        self.weight = weight[rows_looked_at(len(weight), share).to(weight.device)].to(arithmetic)  # (rows, in)
        self.count = len(self.weight)
        self.share = self.count / len(weight)
        self.transposed = self.weight.T.contiguous()  # (in, rows)

    def power(self, moment: SecondMoment) -> float:
        """Squared output without rounding, summed over rows and tokens; 1 if it is 0 (an expert without tokens)."""
        chunks = self.transposed.split(self._rows_at_once(), dim=1)
        power = sum(float(moment.row_errors(chunk).sum(dtype=torch.float64)) for chunk in chunks)
        return power if power != 0 else 1.0

    def total_errors(
        self, scales: Tensor, quantizer: QuantizerName, bits: int, moments: Sequence[SecondMoment]
    ) -> np.ndarray:
        """Compute squared output errors summed over all selected rows, `(splits, candidates)`; see `errors`."""
        total: np.ndarray = self.errors(scales, quantizer, bits, moments, slice(0, self.count)).sum(axis=2)
        return total

    def errors(
        self, scales: Tensor, quantizer: QuantizerName, bits: int, moments: Sequence[SecondMoment], rows: slice
    ) -> np.ndarray:
        """Compute squared output errors of some rows with each candidate's scales.

        Args:
            scales: `(candidates, in)`.
            quantizer: name of the quantizer.
            bits: precision.
            moments: second moments, one for each split of the tokens.
            rows: range of selected rows, in this object's order.

        Returns:
            `(splits, candidates, rows)`, float64, summed over tokens.
        """
        # Collected on the device of the weights, for one transfer to the host instead of one per product.
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
