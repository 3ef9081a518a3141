"""Replaying a linear's held-out outputs group by group of windows: what the interval of a single linear rests on.

The group's own second moments would take one matrix for each group; a few candidates replayed take none. Where the
errors are exhaustive every linear is replayed. Where exponents race, only those are whose reduction on calibration
tokens is the largest so far: a claim about one linear picks the largest of all, which is the last of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from awq_core.measure.layers.errors import LinearErrors, alpha_scales
from awq_core.measured import JUDGED_BITS, is_judged
from awq_core.quantization.matmul import product_with_rows
from awq_core.quantization.quantizers import Quantizers
from awq_core.quantization.scales import scaled_round_to_nearest

CHOICES = ("rtn", "best")
REPLAY = torch.float32
"""Replayed outputs are only squared and summed (in float64): single precision is exact to about 1e-6."""

OUTPUT_ELEMENTS = 4_000_000
"""Replayed outputs that are held at once."""

Setting = tuple[int, int]
"""Indices of a quantizer and of a judged precision."""


def read_settings(quantizers: Quantizers) -> list[Setting]:
    """What claims read group by group."""
    return [
        (q, b) for q in range(len(quantizers)) for b, bits in enumerate(JUDGED_BITS) if is_judged(bits, deployed=q == 0)
    ]


class Leaders:
    """By setting, the largest reduction on calibration tokens of the linears seen so far.

    Args:
        quantizers: of the errors.
        bits: of the errors.
        everyone: replay every linear.
    """

    def __init__(self, quantizers: Quantizers, bits: tuple[int, ...], everyone: bool) -> None:
        self.settings = read_settings(quantizers)
        self._bits = bits
        self._everyone = everyone
        self._largest: dict[Setting, float] = {}

    def replayed(self, errors: Sequence[np.ndarray]) -> list[list[Setting]]:
        """By linear of one block, the settings at which it is replayed: where it takes the lead, and keeps it.

        Args:
            errors: of every linear, `(quantizers, bits, exponents, splits)`.
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
    quantizers: Quantizers,
    bits: tuple[int, ...],
) -> Tensor:
    """What is replayed, `(1 + 2 settings, out, in)`: the weight itself, then `W^ - W` of RTN and of the best exponent.

    Args:
        weight: `(out, in)`, in the arithmetic of the errors.
        magnitude: `(in,)`, of calibration tokens.
        errors: of the linear.
        settings: at which it is replayed.
        quantizers: of the errors.
        bits: of the errors.
    """
    scales = alpha_scales(weight, magnitude)
    found = [weight]
    for q, b in settings:
        best = int(errors.errors[q, bits.index(JUDGED_BITS[b]), :, 0].argmin())
        for index in (0, best):
            found.append(scaled_round_to_nearest(weight, scales[index], quantizers[q], JUDGED_BITS[b]) - weight)
    return torch.stack(found).to(REPLAY)


def summed_by_group(stacked: Tensor, batches: Iterable[tuple[int, Tensor]], groups: int) -> np.ndarray:
    """Every candidate's squared output, `(groups, candidates)`, summed over tokens and output rows.

    Args:
        stacked: `(candidates, out, in)`.
        batches: group, and inputs `(tokens, in)`.
        groups: how many there are.
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
    """`(quantizers, judged bits, choices, groups)` of what was replayed; NaN elsewhere."""
    found = np.full((quantizers, len(JUDGED_BITS), len(CHOICES), len(summed)), np.nan)
    for index, (q, b) in enumerate(settings):
        found[q, b] = summed[:, 1 + 2 * index : 3 + 2 * index].T
    return found
