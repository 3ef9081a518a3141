"""Replay of a linear's held-out outputs by group of windows, for confidence intervals of a single linear's reduction.

Second moments by group would need a matrix for each group; replaying a few candidates needs none. With exhaustive
errors every linear is replayed. With racing exponents, a linear is replayed only if its reduction on calibration tokens
is the largest so far: a claim about one linear picks the largest of all, which is the last one replayed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from awq_core.measure.layers.errors import LinearErrors, alpha_scales
from awq_core.measured import JUDGED_BITS, is_judged
from awq_core.quantization.matmul import product_with_rows
from awq_core.quantization.quantizers import QuantizerName
from awq_core.quantization.scales import scaled_round_to_nearest

CHOICES = ("rtn", "best")
"""Exponents whose outputs are replayed: 0, and the best on calibration tokens."""
REPLAY = torch.float32
"""Dtype of replayed outputs, which are squared and then summed in float64: the sums are exact to about 1e-6."""

OUTPUT_ELEMENTS = 4_000_000
"""Largest number of replayed outputs in memory at once."""

Setting = tuple[int, int]
"""Index of a quantizer, and index of a precision in `JUDGED_BITS`."""


def read_settings(quantizers: tuple[QuantizerName, ...]) -> list[Setting]:
    """List the settings whose errors claims read by group."""
    return [
        (q, b)
        for q, quantizer in enumerate(quantizers)
        for b, bits in enumerate(JUDGED_BITS)
        if is_judged(quantizer, bits)
    ]


class Leaders:
    """Record, by setting, of the largest reduction on calibration tokens among the linears so far.

    Args:
        quantizers: quantizers of the errors.
        bits: precisions of the errors.
        everyone: whether to replay every linear.
    """

    def __init__(self, quantizers: tuple[QuantizerName, ...], bits: tuple[int, ...], everyone: bool) -> None:
        self.settings = read_settings(quantizers)
        self._bits = bits
        self._everyone = everyone
        self._largest: dict[Setting, float] = {}

    def replayed(self, errors: Sequence[np.ndarray]) -> list[list[Setting]]:
        """Choose the settings at which each linear of a block is replayed, and record the new leaders.

        A linear is replayed where its reduction is the largest in the block and of all blocks before.

        Args:
            errors: errors of each linear, `(quantizers, bits, exponents, splits)`.

        Returns:
            A list of settings for each linear.
        """
        found: list[list[Setting]] = [[] for _ in errors]
        for q, b in self.settings:
            calibration = [table[q, self._bits.index(JUDGED_BITS[b]), :, 0] for table in errors]
            gains = [row[0] / row.min() if row.min() > 0 else 1.0 for row in calibration]
            leader = int(np.argmax(gains))
            if gains[leader] > self._largest.get((q, b), 0.0):
                self._largest[q, b] = gains[leader]
                found[leader].append((q, b))
        return [self.settings] * len(errors) if self._everyone else found


def candidates(
    weight: Tensor,
    magnitude: Tensor,
    errors: LinearErrors,
    settings: list[Setting],
    quantizers: tuple[QuantizerName, ...],
    bits: tuple[int, ...],
) -> Tensor:
    """Stack the matrices whose outputs are replayed.

    Args:
        weight: `(out, in)`, in the arithmetic of the errors.
        magnitude: `(in,)`, mean of abs(x) over calibration tokens.
        errors: errors of the linear.
        settings: settings at which the linear is replayed.
        quantizers: quantizers of the errors.
        bits: precisions of the errors.

    Returns:
        `(1 + 2 settings, out, in)`: the weight W, then for each setting `W^ - W` of round-to-nearest and of the best
        exponent.
    """
    scales = alpha_scales(weight, magnitude)
    found = [weight]
    for q, b in settings:
        best = int(errors.errors[q, bits.index(JUDGED_BITS[b]), :, 0].argmin())
        for index in (0, best):
            found.append(scaled_round_to_nearest(weight, scales[index], quantizers[q], JUDGED_BITS[b]) - weight)
    return torch.stack(found).to(REPLAY)


def summed_by_group(stacked: Tensor, batches: Iterable[tuple[int, Tensor]], groups: int) -> np.ndarray:
    """Sum each candidate's squared outputs over tokens and output rows, by group.

    Args:
        stacked: `(candidates, out, in)`.
        batches: pairs of a group index and inputs `(tokens, in)`.
        groups: number of groups.

    Returns:
        `(groups, candidates)`, float64.
    """
    summed = torch.zeros(groups, len(stacked), dtype=torch.float64, device=stacked.device)
    per_part = max(1, OUTPUT_ELEMENTS // (len(stacked) * stacked.shape[1]))
    for group, inputs in batches:
        for part in inputs.split(per_part):
            outputs = product_with_rows(part.to(REPLAY), stacked.flatten(0, 1))  # (t, candidates * out)
            squares = outputs.square_().unflatten(1, stacked.shape[:2])
            summed[group] += squares.sum(dim=(0, 2), dtype=torch.float64)
    return summed.cpu().numpy()


def group_errors(summed: np.ndarray, settings: list[Setting], quantizers: int) -> np.ndarray:
    """Arrange replayed errors as `(quantizers, judged bits, choices, groups)`; settings not replayed are NaN."""
    found = np.full((quantizers, len(JUDGED_BITS), len(CHOICES), len(summed)), np.nan)
    for index, (q, b) in enumerate(settings):
        found[q, b] = summed[:, 1 + 2 * index : 3 + 2 * index].T
    return found
