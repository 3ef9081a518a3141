"""GPTQ: columns are rounded one after another, and each rounding error is compensated in the columns that follow.

Frantar et al. 2022, "GPTQ", algorithm 1, with the reference implementation's damping of 1% of the mean diagonal, lazy
updates in blocks of columns, and dead columns set to zero. The quantizer is the suite's deployed one, so that GPTQ and
AWQ differ in how they treat the weights and not in how they round. The caller chooses whether the second moment comes
from the inputs of the full-precision model or of the partly quantized one (`awq_core/measure/methods/table.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from awq_core.quantization.codes import CodedWeight
from awq_core.quantization.matmul import product_with_rows
from awq_core.quantization.quantizers import steps_and_zero_points

DAMPING = 0.01
"""Damping: share of the second moment's mean diagonal that is added to its diagonal."""

BLOCK_SIZE = 128
"""Columns per lazy update of the columns that follow. It affects the speed, not the result."""

INVERTED_AT_ONCE = 256
"""Largest width at which a triangular factor is inverted by substitution. It affects the speed, not the result."""


def gptq_codes(
    weight: Tensor,
    second_moment: Tensor,
    bits: int,
    group_size: int,
    *,
    activation_order: bool = False,
    damping: float = DAMPING,
    block_size: int = BLOCK_SIZE,
) -> CodedWeight:
    """Quantize a linear by GPTQ, computing in the second moment's dtype.

    A group's step and zero point come from its weights when its first column is reached, after the errors of all
    earlier columns have been compensated. With `activation_order`, columns are taken by decreasing second moment, and
    steps come from the original weights (static groups), so that the result needs no reordering at run time.

    Args:
        weight: `(out, in)`. Rows are independent, so linears that share an input may be stacked.
        second_moment: `(in, in)`, `G = X^T X`. Multiplying it by a constant changes nothing.
        bits: precision.
        group_size: weights per group; must divide `in`.
        activation_order: round the columns with the largest second moments first.
        damping: share of the mean diagonal added to the diagonal, above 0.
        block_size: columns per lazy update.

    Raises:
        ValueError: if the group size does not divide the width, or if the damped second moment is not positive
            definite (the inputs hold a NaN, or damping is 0).
    """
    in_features = weight.shape[1]
    if group_size < 1 or in_features % group_size:
        raise ValueError(f"group_size must divide the input width {in_features}, got {group_size}")
    moment = second_moment.clone()  # (in, in)
    dead = moment.diagonal() == 0
    moment.diagonal()[dead] = 1.0
    # Columns lie along the first dimension, so that each is contiguous in memory.
    work = weight.to(moment.dtype).masked_fill(dead, 0.0).T.contiguous()  # (in, out)
    groups = torch.arange(in_features, device=work.device) // group_size  # group of every column
    steps, zero_points = _steps(work, bits, group_size)  # (groups, out)
    order = torch.arange(in_features, device=work.device)
    if activation_order:
        order = torch.argsort(moment.diagonal(), descending=True, stable=True)
        work, moment, groups = work[order], moment[order.unsqueeze(1), order], groups[order]
    propagation = _propagation(moment, damping)  # (in, in), upper triangular
    del moment
    diagonal = propagation.diagonal().tolist()  # on the host: reading one value from a device waits for it
    places, group_of = order.tolist(), groups.tolist()
    codes = torch.empty(work.shape, dtype=torch.uint8 if bits <= 8 else torch.int32, device=work.device)
    # A whole number of groups, so that a group's weights are up to date when its step is taken.
    width = max(1, block_size // group_size) * group_size
    for start in range(0, in_features, width):
        stop = min(start + width, in_features)
        errors = work.new_empty(stop - start, work.shape[1])
        for column in range(start, stop):
            group, values = group_of[column], work[column]
            if not activation_order and column % group_size == 0:
                fresh = _steps(work[column : column + group_size], bits, group_size)
                steps[group], zero_points[group] = fresh[0][0], fresh[1][0]
            step, zero_point = steps[group], zero_points[group]
            code = torch.div(values, step).round_().add_(zero_point).clamp_(0, 2**bits - 1)
            codes[places[column]] = code
            error = torch.sub(values, code.sub_(zero_point).mul_(step), out=errors[column - start])
            error.div_(diagonal[column])
            work[column:stop].addr_(propagation[column, column:stop], error, alpha=-1)
        work[stop:].addmm_(propagation[start:stop, stop:].T, errors, alpha=-1)
    return CodedWeight.of(codes.T, steps.T, zero_points.T, bits, weight.dtype)


def _steps(columns: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Compute steps and zero points `(groups, out)` of columns `(groups * g, out)`."""
    return steps_and_zero_points(columns.unflatten(0, (-1, group_size)).movedim(1, -1), bits)


def _propagation(moment: Tensor, damping: float) -> Tensor:
    """Compute the upper Cholesky factor of the inverse of the damped second moment H, `(in, in)` (the paper's step 3).

    Row i spreads column i's rounding error, divided by the diagonal element, over the columns after it. H itself is
    never inverted: with columns in reverse order `H = L L^T`, and `L^-1` in reverse order is the factor. `moment` is
    overwritten, because matrices of its size dominate memory when inputs are wide.

    Raises:
        ValueError: if the damped second moment is not positive definite.
    """
    moment.diagonal().add_(damping * moment.diagonal().mean())
    info = torch.empty((), dtype=torch.int32, device=moment.device)
    factor, _ = torch.linalg.cholesky_ex(moment.flip(0, 1), out=(moment, info))
    if int(info) != 0:
        raise ValueError("GPTQ's damped second moment is not positive definite; the inputs hold NaN, or damping is 0")
    _invert_lower(factor)
    return factor.flip(0, 1)


def _invert_lower(factor: Tensor) -> None:
    """Overwrite a lower triangular matrix with its inverse, by recursive halving: most work is matrix products."""
    width = len(factor)
    if width <= INVERTED_AT_ONCE:
        identity = torch.eye(width, dtype=factor.dtype, device=factor.device)
        factor.copy_(torch.linalg.solve_triangular(factor, identity, upper=False))
        return
    first, second = slice(0, width // 2), slice(width // 2, width)
    _invert_lower(factor[first, first])
    _invert_lower(factor[second, second])
    # (A 0; B C)^-1 = (A^-1 0; -C^-1 B A^-1 C^-1)
    spread = product_with_rows(factor[second, first], factor[first, first].T.contiguous())
    factor[second, first] = product_with_rows(factor[second, second], spread.T.contiguous()).neg_()


def gptq_operations(out_features: int, in_features: int) -> int:
    """Floating-point operations of GPTQ on one linear: a Cholesky factor, its inverse and the update of each column."""
    return in_features**3 + out_features * in_features**2
