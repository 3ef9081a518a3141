"""GPTQ: columns are rounded one after another, and what rounding one costs is made up for in those that follow.

Frantar et al. 2022, "GPTQ", algorithm 1, as the reference implementation has it: damping of 1% of the mean
diagonal, lazy updates in blocks of columns, dead columns set to zero. The quantizer is the suite's own
(`asym-g128`), so that a comparison with AWQ compares what is done with the weights and not two roundings. The
second moment is that of full-precision inputs; no error is passed on from block to block of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awq_core.quantizer import steps_and_zero_points

DAMPING = 0.01
"""Share of the mean diagonal that is added to the diagonal."""

BLOCK_SIZE = 128
"""Columns between two updates of all that follow. It decides the speed, not the result."""


def gptq(
    weight: Tensor,
    second_moment: Tensor,
    bits: int,
    group_size: int,
    *,
    activation_order: bool = False,
    damping: float = DAMPING,
    block_size: int = BLOCK_SIZE,
) -> Tensor:
    """Dequantized weights after GPTQ.

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

    Returns:
        `(out, in)`, in the weight's dtype.

    Raises:
        ValueError: if the group size does not divide the width, or the damped second moment is not positive
            definite (a NaN among the inputs, or no damping).
    """
    in_features = weight.shape[1]
    if group_size < 1 or in_features % group_size:
        raise ValueError(f"group_size must divide the input width {in_features}, got {group_size}")
    work = weight.to(second_moment.dtype).clone()  # (out, in)
    moment = second_moment.clone()  # (in, in)
    dead = moment.diagonal() == 0
    moment.diagonal()[dead] = 1.0
    work[:, dead] = 0.0
    groups = torch.arange(in_features, device=work.device) // group_size  # group of every column
    steps, zero_points = steps_and_zero_points(work.unflatten(1, (-1, group_size)), bits)  # (out, groups)
    order = torch.arange(in_features, device=work.device)
    if activation_order:
        order = torch.argsort(moment.diagonal(), descending=True, stable=True)
        work, moment, groups = work[:, order], moment[order][:, order], groups[order]
    propagation = _propagation(moment, damping)  # (in, in), upper triangular
    quantized = torch.empty_like(work)
    # A whole number of groups, so that a group's weights are up to date when its step is taken.
    width = max(1, block_size // group_size) * group_size
    for start in range(0, in_features, width):
        stop = min(start + width, in_features)
        block = work[:, start:stop]  # a view: updates within the block land in `work`
        errors = torch.empty_like(block)
        for i in range(stop - start):
            group = int(groups[start + i])
            if not activation_order and (start + i) % group_size == 0:
                fresh = steps_and_zero_points(block[:, i : i + group_size], bits)
                steps[:, group], zero_points[:, group] = fresh
            column = _rounded(block[:, i], steps[:, group], zero_points[:, group], bits)  # (out,)
            quantized[:, start + i] = column
            errors[:, i] = (block[:, i] - column) / propagation[start + i, start + i]
            block[:, i:].addr_(errors[:, i], propagation[start + i, start + i : stop], alpha=-1)
        work[:, stop:].addmm_(errors, propagation[start:stop, stop:], alpha=-1)
    restored = torch.empty_like(quantized)
    restored[:, order] = quantized
    return restored.to(weight.dtype)


def _propagation(moment: Tensor, damping: float) -> Tensor:
    """`(in, in)`: row i says how column i's error, over its diagonal, is spread over the columns after it.

    The upper Cholesky factor of the inverse of the damped second moment (the paper's step 3).
    """
    damped = moment.clone()
    damped.diagonal().add_(damping * moment.diagonal().mean())
    factor, info = torch.linalg.cholesky_ex(damped)
    if int(info) != 0:
        raise ValueError("GPTQ's damped second moment is not positive definite; the inputs hold NaN, or damping is 0")
    return torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)


def _rounded(column: Tensor, steps: Tensor, zero_points: Tensor, bits: int) -> Tensor:
    codes = (torch.round(column / steps) + zero_points).clamp(0, 2**bits - 1)
    return (codes - zero_points) * steps


def gptq_operations(out_features: int, in_features: int) -> int:
    """Floating-point operations of one linear: two Cholesky factors, an inverse, and every column's update."""
    return round(5 / 3 * in_features**3) + out_features * in_features**2
