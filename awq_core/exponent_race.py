"""Which exponent is best for one linear, without trying all of them on all of it.

The exhaustive grid (2 quantizers, 5 precisions, 21 exponents, calibration and held-out tokens) is 420 products of a
linear with a second moment, most of them for exponents that a few rows rule out. Here exponents race over output rows,
calibration tokens deciding: after each round, those that are behind by more than chance explains are dropped. What is
left after the last row has been tried in full, so the winner is the exhaustive grid's, or within `TOLERANCE`
(`racing.py`) of it.

An exponent that was dropped has an estimate from the rows that it was tried on: its error there over the winner's on
the same rows, times the winner's. `row_share` says for every number what share of the rows it was measured on: 1 for
the winner, for round-to-nearest, and for the exponents that claims name, on both splits.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from awq_core.quantizer import QuantizerName
from awq_core.racing import survivors
from awq_core.row_errors import LinearRows
from awq_core.second_moment import SecondMoment

FIRST_SHARE = 1 / 16
"""Of the rows in the first round."""

FIRST_ROWS = 128
"""At least: a few heavy rows decide what fewer say."""

HELDOUT_ROWS = 64
"""On so many rows at most every exponent's held-out error is estimated, or on `HELDOUT_SHARE` of fewer."""

HELDOUT_SHARE = 1 / 8
FEWEST_HELDOUT_ROWS = 32

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
    quantizer: QuantizerName,
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
    total = rows.count
    finish = _race(rows, scales, quantizer, bits, moments[0])
    calibration, tried = finish.errors, finish.tried
    full = np.array(sorted({*finish.left, *named}))  # several are left only where all rows were tried
    for exponent in full:
        _try(rows, scales, quantizer, bits, moments[:1], np.array([exponent]), total, calibration, tried)
    winner = int(full[np.argmin(calibration[full].sum(axis=1))])
    judged = np.array(sorted({winner, *named}))  # on held-out tokens, which choose nothing
    few = min(total, HELDOUT_ROWS, max(FEWEST_HELDOUT_ROWS, round(HELDOUT_SHARE * total)))
    heldout = np.full((len(scales), total), np.nan)
    heldout[:, :few] = rows.errors(scales, quantizer, bits, moments[1:], slice(0, few))[0]
    if few < total:
        rest = rows.errors(scales[judged.tolist()], quantizer, bits, moments[1:], slice(few, total))[0]
        heldout[judged, few:] = rest
    everyone = np.arange(len(scales))
    measured = np.stack([tried, np.where(np.isin(everyone, judged), total, few)], axis=1)
    errors = np.stack([_in_full(calibration, winner), _in_full(heldout, winner)], axis=1) / np.array(powers)
    # What was dropped is worse than the winner, whatever the few rows say that it was tried on.
    others = ~np.isin(everyone, full) & (errors[winner, 0] > 0)
    errors[others, 0] = np.maximum(errors[others, 0], np.nextafter(errors[winner, 0], np.inf))
    return RacedErrors(errors, measured / total * rows.share)


def fittest_exponent(
    rows: LinearRows, scales: Tensor, quantizer: QuantizerName, bits: int, moment: SecondMoment
) -> int:
    """Index of the exponent with the least error on calibration tokens, and nothing about the others.

    Args:
        rows: of the linear.
        scales: `(exponents, in)`, from calibration tokens.
        quantizer: which rounding.
        bits: precision.
        moment: of calibration tokens.
    """
    return _race(rows, scales, quantizer, bits, moment).winner


@dataclass(frozen=True)
class _Finish:
    """How a race ended.

    Attributes:
        winner: index of the exponent that is ahead.
        left: indices of those that nothing ruled out, all tried as far as each other.
        errors: `(exponents, rows)`, squared output errors; NaN where not tried.
        tried: `(exponents,)`, on how many rows each was tried.
    """

    winner: int
    left: np.ndarray
    errors: np.ndarray
    tried: np.ndarray


def _race(rows: LinearRows, scales: Tensor, quantizer: QuantizerName, bits: int, moment: SecondMoment) -> _Finish:
    """Drop exponents until one is left, or all rows have been tried."""
    count, total = len(scales), rows.count
    errors = np.full((count, total), np.nan)
    tried = np.zeros(count, dtype=int)
    left = np.arange(count)
    upto = min(total, max(FIRST_ROWS, round(FIRST_SHARE * total)))
    while True:
        _try(rows, scales, quantizer, bits, (moment,), left, upto, errors, tried)
        if upto == total:
            break
        left = left[survivors(errors[left, :upto], total, CHANCE)]
        if len(left) == 1:
            break
        upto = min(total, upto * GROWTH)
    winner = int(left[np.argmin(errors[left, :upto].sum(axis=1))])
    return _Finish(winner, left, errors, tried)


def _try(
    rows: LinearRows,
    scales: Tensor,
    quantizer: QuantizerName,
    bits: int,
    moments: tuple[SecondMoment, ...],
    exponents: np.ndarray,
    upto: int,
    errors: np.ndarray,
    tried: np.ndarray,
) -> None:
    """Measure some exponents, all tried as far as each other, on the rows up to one; writes into the last two."""
    start = int(tried[exponents[0]])
    if start < upto:
        errors[exponents, start:upto] = rows.errors(
            scales[exponents.tolist()], quantizer, bits, moments, slice(start, upto)
        )[0]
        tried[exponents] = upto


def _in_full(errors: np.ndarray, winner: int) -> np.ndarray:
    """`(exponents,)` sums over all rows, of `(exponents, rows)` with NaN where an exponent was not tried.

    What lacks rows is the winner's sum times their ratio on the rows that were tried.
    """
    sums = np.empty(len(errors))
    for exponent, row in enumerate(errors):
        known = ~np.isnan(row)
        if known.all():
            sums[exponent] = row.sum()
        else:
            base = errors[winner, known].sum()
            sums[exponent] = row[known].sum() / base * errors[winner].sum() if base > 0 else row[known].sum()
    return sums
