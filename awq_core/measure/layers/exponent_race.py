"""Search for the best exponent of one linear by a race over its output rows.

The exhaustive grid (2 quantizers, 5 precisions, 21 exponents, 2 splits) takes 420 products of a linear with a second
moment, most of them for exponents that a few rows rule out. Here exponents race over output rows on calibration tokens:
after each round, exponents that are worse than the best by more than chance explains are dropped. Exponents that remain
to the end are measured on all rows, so the winner's error is the exhaustive grid's minimum, or within `TOLERANCE`
(`racing.py`) of it.

The winner, round-to-nearest and the exponents that claims name are measured on all rows of both splits. The error of
any other exponent is a ratio estimate: the winner's error on all rows, times the ratio of the two errors on the rows on
which the exponent was tried. `row_share` gives the share of rows behind each error.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from awq_core.measure.layers.racing import survivors
from awq_core.measure.layers.row_errors import LinearRows
from awq_core.measure.layers.second_moment import SecondMoment
from awq_core.quantization.quantizers import QuantizerName

FIRST_SHARE = 1 / 16
"""Share of the rows in the first round, but at least `FIRST_ROWS`."""

FIRST_ROWS = 128
"""Smallest number of rows in the first round: on fewer rows, a few with large errors would decide."""

HELDOUT_ROWS = 64
"""Number of rows (all, if there are fewer) on which the held-out errors of all exponents are measured."""

GROWTH = 2
"""Factor by which the number of rows grows from round to round."""
CHANCE = 1e-4
"""Probability of dropping an exponent that is as good as the best so far (Student's t, paired by row)."""


@dataclass(frozen=True)
class RacedErrors:
    """Errors of all exponents for one quantizer and precision.

    Attributes:
        errors: `(exponents, 2)`, squared relative output errors on calibration and on held-out tokens.
        row_share: `(exponents, 2)`, share of the linear's rows on which each error was measured.
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
    """Measure the errors of all exponents, on all rows for the winner and the named ones.

    Args:
        rows: output rows of the linear.
        scales: `(exponents, in)`, from calibration tokens.
        quantizer: name of the quantizer.
        bits: precision.
        moments: second moments on calibration and on held-out tokens.
        powers: squared output without rounding, summed over rows and tokens, for each of `moments`.
        named: indices of exponents that are always measured on all rows.
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
    # A dropped exponent must not win by its estimate from a few rows.
    dropped = ~np.isin(np.arange(len(errors)), full) & (errors[winner, 0] > 0)
    errors[dropped, 0] = np.maximum(errors[dropped, 0], np.nextafter(errors[winner, 0], np.inf))
    return RacedErrors(errors, tried / total * rows.share)


def fittest_exponent(
    rows: LinearRows, scales: Tensor, quantizer: QuantizerName, bits: int, moment: SecondMoment
) -> int:
    """Find the index of the exponent with the least error on calibration tokens.

    Args:
        rows: output rows of the linear.
        scales: `(exponents, in)`, from calibration tokens.
        quantizer: name of the quantizer.
        bits: precision.
        moment: second moment on calibration tokens.
    """
    return _race(rows, scales, quantizer, bits, moment)[0]


def _race(
    rows: LinearRows, scales: Tensor, quantizer: QuantizerName, bits: int, moment: SecondMoment
) -> tuple[int, np.ndarray]:
    """Drop exponents until one is left, or all rows have been tried.

    Returns:
        Index of the winner, and `(exponents, rows)` squared output errors, NaN where not tried.
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
    """Estimate each exponent's sum of errors over all rows.

    Args:
        errors: `(exponents, rows)`, NaN after the rows on which an exponent was tried.
        winner: index of an exponent that was tried on all rows.

    Returns:
        Sums `(exponents,)`: exact if all rows were tried, else the winner's sum times the ratio of the two errors on
        the rows that were; and numbers of rows tried, `(exponents,)`.
    """
    tried = np.isfinite(errors).sum(axis=1)
    summed = errors.cumsum(axis=1)[np.arange(len(errors)), tried - 1]
    winners = errors[winner].cumsum()
    base = winners[tried - 1]
    return np.where(base > 0, summed / np.where(base > 0, base, 1) * winners[-1], summed), tried
