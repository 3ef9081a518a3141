"""GPTQ: columns are rounded one after another, and what rounding one costs is made up for in those that follow.

Frantar et al. 2022, "GPTQ", algorithm 1, as the reference implementation has it: damping of 1% of the mean
diagonal, lazy updates in blocks of columns, dead columns set to zero. The quantizer is the suite's own
(`AsymmetricGroups`), so that a comparison with AWQ compares what is done with the weights and not two roundings. Whose
inputs the second moment is of, the full-precision model's or the quantized one's, is the caller's choice
(`awq_core/measure/methods/table.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from awq_core.quantization.codes import CodedWeight
from awq_core.quantization.matmul import product_with_rows
from awq_core.quantization.quantizers import steps_and_zero_points

DAMPING = 0.01
"""Share of the mean diagonal that is added to the diagonal."""

BLOCK_SIZE = 128
"""Columns between two updates of all that follow. It decides the speed, not the result."""

INVERTED_AT_ONCE = 256
"""Width up to which a triangular factor is inverted by substitution. It too decides the speed alone."""


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
    """Codes of a linear after GPTQ, computed in the second moment's dtype.

    A group's step and zero point are taken from its weights as they stand when its first column is reached,
    with every earlier column's error made up for. Under `activation_order` columns are taken by falling
    second moment, and steps come from the weights as they were (static groups), so that the result needs no
    reordering at run time.

    Args:
        weight: `(out, in)`; rows do not influence one another, so linears that share an input may be stacked.
        second_moment: `(in, in)`, `G = X^T X`. A factor on it changes nothing.
        bits: precision.
        group_size: weights in a group; must divide `in`.
        activation_order: take the columns that matter most first.
        damping: share of the mean diagonal added to the diagonal, above 0.
        block_size: columns in a lazy update.

    Raises:
        ValueError: if the group size does not divide the width, or the damped second moment is not positive
            definite (a NaN among the inputs, or no damping).
    """
    in_features = weight.shape[1]
    if group_size < 1 or in_features % group_size:
        raise ValueError(f"group_size must divide the input width {in_features}, got {group_size}")
    moment = second_moment.clone()  # (in, in)
    dead = moment.diagonal() == 0
    moment.diagonal()[dead] = 1.0
    # Columns lie along the first dimension, so that each is one piece of memory.
    work = weight.to(moment.dtype).masked_fill(dead, 0.0).T.contiguous()  # (in, out)
    groups = torch.arange(in_features, device=work.device) // group_size  # group of every column
    steps, zero_points = _steps(work, bits, group_size)  # (groups, out)
    order = torch.arange(in_features, device=work.device)
    if activation_order:
        order = torch.argsort(moment.diagonal(), descending=True, stable=True)
        work, moment, groups = work[order], moment[order.unsqueeze(1), order], groups[order]
    propagation = _propagation(moment, damping)  # (in, in), upper triangular
    del moment
    diagonal = propagation.diagonal().tolist()  # plain numbers: a look at a device's would wait for it
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
    """Steps and zero points `(groups, out)` of columns `(groups * g, out)`."""
    return steps_and_zero_points(columns.unflatten(0, (-1, group_size)).movedim(1, -1), bits)


def _propagation(moment: Tensor, damping: float) -> Tensor:
    """`(in, in)`: row i says how column i's error, over its diagonal, is spread over the columns after it.

    The upper Cholesky factor of the inverse of the damped second moment H (the paper's step 3), without the inverse:
    with the columns in reverse order `H = L L^T`, and `L^-1` in reverse order is the factor. The second moment is
    overwritten: with wide inputs each matrix of its size counts.
    """
    moment.diagonal().add_(damping * moment.diagonal().mean())
    info = torch.empty((), dtype=torch.int32, device=moment.device)
    factor, _ = torch.linalg.cholesky_ex(moment.flip(0, 1), out=(moment, info))
    if int(info) != 0:
        raise ValueError("GPTQ's damped second moment is not positive definite; the inputs hold NaN, or damping is 0")
    _invert_lower(factor)
    return factor.flip(0, 1)


def _invert_lower(factor: Tensor) -> None:
    """Overwrite a lower triangular matrix with its inverse, by halves: nearly all of it is matrix products."""
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
    """Floating-point operations of one linear: a Cholesky factor and its inverse, and every column's update."""
    return in_features**3 + out_features * in_features**2
