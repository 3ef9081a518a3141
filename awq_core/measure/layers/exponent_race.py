"""Which exponent is best for one linear, without trying all of them on all of it.

The exhaustive grid (2 quantizers, 5 precisions, 21 exponents, calibration and held-out tokens) is 420 products of a
linear with a second moment, most of them for exponents that a few rows rule out. Here exponents race over output rows,
calibration tokens deciding: after each round, those that are behind by more than chance explains are dropped. What is
left after the last row has been tried in full, so the winner is the exhaustive grid's, or within `TOLERANCE`
(`racing.py`) of it.

The winner, round-to-nearest and the exponents that claims name are measured on all rows of both splits. Any other has
an estimate: its error on the rows that it was tried on over the winner's there, times the winner's. `row_share` says
for every number what share of the rows it was measured on.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from awq_core.measure.layers.racing import survivors
from awq_core.measure.layers.row_errors import LinearRows
from awq_core.measure.layers.second_moment import SecondMoment
from awq_core.quantization.quantizers import Quantizer

FIRST_SHARE = 1 / 16
"""Share of the rows in the first round."""

FIRST_ROWS = 128
"""At least: a few heavy rows decide what fewer say."""

HELDOUT_ROWS = 64
"""On so many rows every exponent's held-out error is estimated."""

GROWTH = 2
CHANCE = 1e-4
"""How often chance alone may drop an exponent that is as good as the best so far (Student's t, paired by row)."""


@dataclass(frozen=True)
class RacedErrors:
    """What was found for one quantizer and precision.

    Attributes:
        errors: `(exponents, 2)`, squared relative output error on calibration and on held-out tokens.
        row_share: `(exponents, 2)`, share of the linear's rows that each was measured on.
    """

    errors: np.ndarray
    row_share: np.ndarray


def race_exponents(
    rows: LinearRows,
    scales: Tensor,
    quantizer: Quantizer,
    bits: int,
    moments: tuple[SecondMoment, SecondMoment],
    powers: tuple[float, ...],
    named: Collection[int],
) -> RacedErrors:
    """Errors of every exponent, exact where they count.

    Args:
        rows: of the linear.
        scales: `(exponents, in)`, from calibration tokens.
        quantizer: which rounding.
        bits: precision.
        moments: of calibration and of held-out tokens.
        powers: squared output on either, summed over the rows.
        named: indices of exponents that are measured in full whoever wins.
    """
    total, few = rows.count, min(rows.count, HELDOUT_ROWS)
    winner, calibration = _race(rows, scales, quantizer, bits, moments[0])
    full = sorted({winner, *named})
    heldout = np.full_like(calibration, np.nan)
    heldout[:, :few] = rows.errors(scales, quantizer, bits, moments[1:], slice(0, few))[0]
    heldout[full, few:] = rows.errors(scales[full], quantizer, bits, moments[1:], slice(few, total))[0]
    for exponent in full:
        rest = slice(int(np.isfinite(calibration[exponent]).sum()), total)
        calibration[exponent, rest] = rows.errors(scales[[exponent]], quantizer, bits, moments[:1], rest)[0]
    winner = full[calibration[full].sum(axis=1).argmin()]
    errors, tried = np.stack([_in_full(split, winner) for split in (calibration, heldout)], axis=2)  # (exponents, 2)
    errors = errors / np.array(powers)
    # What was dropped is worse than the winner, whatever the few rows say that it was tried on.
    dropped = ~np.isin(np.arange(len(errors)), full) & (errors[winner, 0] > 0)
    errors[dropped, 0] = np.maximum(errors[dropped, 0], np.nextafter(errors[winner, 0], np.inf))
    return RacedErrors(errors, tried / total * rows.share)


def fittest_exponent(rows: LinearRows, scales: Tensor, quantizer: Quantizer, bits: int, moment: SecondMoment) -> int:
    """Index of the exponent with the least error on calibration tokens, and nothing about the others.

    Args:
        rows: of the linear.
        scales: `(exponents, in)`, from calibration tokens.
        quantizer: which rounding.
        bits: precision.
        moment: of calibration tokens.
    """
    return _race(rows, scales, quantizer, bits, moment)[0]


def _race(
    rows: LinearRows, scales: Tensor, quantizer: Quantizer, bits: int, moment: SecondMoment
) -> tuple[int, np.ndarray]:
    """Drop exponents until one is left, or all rows have been tried.

    Returns:
        Index of the exponent that is ahead, and `(exponents, rows)` squared output errors, NaN where not tried.
    """
    total = rows.count
    errors = np.full((len(scales), total), np.nan)
    left = np.arange(len(scales))
    done, upto = 0, min(total, max(FIRST_ROWS, round(FIRST_SHARE * total)))
    while True:
        errors[left, done:upto] = rows.errors(scales[left.tolist()], quantizer, bits, [moment], slice(done, upto))[0]
        if upto == total:
            break
        left = left[survivors(errors[left, :upto], total, CHANCE)]
        if len(left) == 1:
            break
        done, upto = upto, min(total, upto * GROWTH)
    return int(left[np.argmin(errors[left, :upto].sum(axis=1))]), errors


def _in_full(errors: np.ndarray, winner: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums over all rows, and on how many rows each exponent was tried, both `(exponents,)`.

    Args:
        errors: `(exponents, rows)`, NaN beyond the rows that an exponent was tried on; its sum is then the winner's
            times their ratio on these.
        winner: was tried on all rows.
    """
    tried = np.isfinite(errors).sum(axis=1)
    summed = errors.cumsum(axis=1)[np.arange(len(errors)), tried - 1]
    winners = errors[winner].cumsum()
    base = winners[tried - 1]
    return np.where(base > 0, summed / np.where(base > 0, base, 1) * winners[-1], summed), tried
