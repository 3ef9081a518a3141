"""Output errors of one linear, by an exhaustive grid or by racing exponents.

The exhaustive grid computes every error exactly, in the arithmetic of the settings. Racing is for models on which the
grid would take hours. It computes the errors of the best exponents and of exponents that claims name on all selected
rows, estimates the others on fewer rows (`awq_core.measure.layers.exponent_race`), and can leave out settings that no
claim reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from awq_core.measure.layers.exponent_race import race_exponents
from awq_core.measure.layers.mechanism import Mechanism, measure_mechanism
from awq_core.measure.layers.moments import MeasurementError
from awq_core.measure.layers.row_errors import LinearRows
from awq_core.measure.layers.second_moment import SecondMoment
from awq_core.measured import ALPHAS, JUDGED_BITS, is_judged
from awq_core.quantization.output_error import error_grid
from awq_core.quantization.quantizers import QuantizerName
from awq_core.quantization.scales import linear_scales

NAMED_ALPHAS = (0.0, 0.5, 1.0)
"""Exponents that claims name: 0 (no scales), 0.5 (the guide's optimum) and 1 (the largest)."""


@dataclass(frozen=True)
class LinearErrors:
    """Output errors of one linear.

    Attributes:
        errors: `(quantizers, bits, exponents, splits)`, squared relative output errors.
        row_share: `(quantizers, bits, exponents, splits)`, share of the output rows on which each error was measured: 1
            if exact, 0 if not measured (the error is then NaN).
        mechanism: effects of other scales.
    """

    errors: np.ndarray
    row_share: np.ndarray
    mechanism: Mechanism


def exhaustive_errors(
    weight: Tensor,
    magnitude: Tensor,
    moments: Sequence[SecondMoment],
    quantizers: tuple[QuantizerName, ...],
    bits: tuple[int, ...],
) -> LinearErrors:
    """Compute every error of the grid exactly.

    Args:
        weight: `(out, in)`, in the arithmetic of the errors.
        magnitude: `(in,)`, mean of abs(x) over calibration tokens.
        moments: second moments on calibration and on held-out tokens.
        quantizers: names of quantizers.
        bits: precisions.
    """
    matrices = [moment.matrix() for moment in moments]
    errors = error_grid(weight, alpha_scales(weight, magnitude), quantizers, bits, matrices)
    found = errors.cpu().numpy().astype(np.float64)

    def others(scales: Tensor, bits: Sequence[int], *, heldout_only: bool) -> np.ndarray:
        return error_grid(weight, scales, ("asym-g128",), bits, matrices)[0].double().cpu().numpy()

    return LinearErrors(found, np.ones_like(found), measure_mechanism(weight, magnitude, others, JUDGED_BITS))


def raced_errors(
    weight: Tensor,
    magnitude: Tensor,
    moments: tuple[SecondMoment, SecondMoment],
    quantizers: tuple[QuantizerName, ...],
    bits: tuple[int, ...],
    shares: tuple[float, float],
) -> LinearErrors:
    """Compute errors by racing exponents: exact for the best and the named exponents, estimated for the others.

    Args:
        weight: `(out, in)`.
        magnitude: `(in,)`, mean of abs(x) over calibration tokens.
        moments: second moments on calibration and on held-out tokens.
        quantizers: names of quantizers.
        bits: precisions.
        shares: shares of the output rows to select, at settings that claims read and at all others. If the second is 0,
            only round-to-nearest is measured at the other settings, on the rows of the first.
    """
    arithmetic = moments[0].arithmetic
    rows = LinearRows(weight, arithmetic, shares[0])
    shown = rows if shares[1] in (0, shares[0]) else LinearRows(weight, arithmetic, shares[1])
    scales = alpha_scales(rows.weight, magnitude)
    powers = {looked_at: tuple(looked_at.power(moment) for moment in moments) for looked_at in {rows, shown}}
    shape = (len(quantizers), len(bits), len(ALPHAS), len(moments))
    errors, row_share = np.full(shape, np.nan), np.zeros(shape)
    for q, quantizer in enumerate(quantizers):
        for b, precision in enumerate(bits):
            judged = is_judged(quantizer, precision)
            if not judged and shares[1] == 0:
                rtn = rows.total_errors(scales[:1], quantizer, precision, moments)  # (splits, 1)
                errors[q, b, 0], row_share[q, b, 0] = rtn[:, 0] / np.array(powers[rows]), rows.share
                continue
            looked_at = rows if judged else shown
            asked = [ALPHAS.index(alpha) for alpha in (NAMED_ALPHAS if judged else NAMED_ALPHAS[:1])]
            found = race_exponents(looked_at, scales, quantizer, precision, moments, powers[looked_at], asked)
            errors[q, b], row_share[q, b] = found.errors, found.row_share

    def others(scales: Tensor, bits: Sequence[int], *, heldout_only: bool) -> np.ndarray:
        found = np.full((len(bits), len(scales), len(moments)), np.nan)
        first = 1 if heldout_only else 0
        for b, precision in enumerate(bits):
            summed = rows.total_errors(scales, "asym-g128", precision, moments[first:])
            found[b, :, first:] = summed.T / np.array(powers[rows][first:])
        return found

    mechanism = measure_mechanism(rows.weight, magnitude, others, JUDGED_BITS)
    return LinearErrors(errors, row_share, mechanism)


def alpha_scales(weight: Tensor, magnitude: Tensor) -> Tensor:
    """Compute the scales for every exponent of `ALPHAS`, `(exponents, in)`, in the weight's dtype."""
    alphas = torch.tensor(ALPHAS, dtype=weight.dtype, device=weight.device)
    return linear_scales(magnitude.to(weight), alphas)


def checked(found: LinearErrors, name: str) -> LinearErrors:
    """Return the errors after checking that they are finite.

    Raises:
        MeasurementError: if one is NaN or infinite.
    """
    if not np.isfinite(found.errors[found.row_share > 0]).all():
        raise MeasurementError(f"{name}: an output error is NaN or infinite")
    return found
