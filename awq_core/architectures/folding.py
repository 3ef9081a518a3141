"""Folding of scales into the operation before a linear, so that they add nothing to the cost of inference.

`W x = (W s) (x / s)`: the linear's input columns are multiplied by `s`, and the operation that produces `x` is divided
by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from awq_core.architectures.description import Architecture, Fold
from awq_core.architectures.fold_rows import rows_of_channels
from awq_core.architectures.linear_modules import in_storage_layout, linear, weight_of

__all__ = ["Parameters", "exchanged", "fold_block", "in_storage_layout"]

Parameters = dict[str, Tensor]
"""Values of parameters by full name."""


def fold_block(
    model: Any, architecture: Architecture, block: int, scales: list[tuple[Fold, Tensor]]
) -> tuple[Parameters, Parameters]:
    """Compute a block's parameters after folding, before any rounding.

    Args:
        model: the unmodified model.
        architecture: the model's row of the table.
        block: index of the block.
        scales: folds to apply, each with its scales `(width of its sites,)`.

    Returns:
        `(linears, others)`: all linear weights of the block, scaled or not, as `(out, in)` regardless of their storage
        layout (`in_storage_layout` converts them); and the norms, biases and routers that changed, as stored.

    Raises:
        ValueError: if a scale is not positive and finite, if the previous linear does not produce the fold's channels,
            or if channels produced by the same output row have different scales.
    """
    prefix = f"{architecture.blocks}.{block}"
    linears: Parameters = {}
    for site in architecture.sites:
        for _, path in site.linears:
            linears[f"{prefix}.{path}.weight"] = weight_of(linear(model, f"{prefix}.{path}")).clone()
    others: Parameters = {}
    for fold, scale in scales:
        if not bool((scale > 0).all() and torch.isfinite(scale).all()):
            raise ValueError(f"block {block}: scales of {fold.name} must be positive and finite")
        for name in fold.sites:
            for _, path in architecture.site(name).linears:
                _multiply_columns(linears, f"{prefix}.{path}.weight", scale)
        for path in fold.further:
            name = f"{prefix}.{path}.weight"
            others.setdefault(name, model.get_parameter(name).detach())  # routers are stored (out, in)
            _multiply_columns(others, name, scale)
        if fold.kind == "linear":
            _divide_linear(model, architecture, block, fold, scale, linears, others)
        else:
            _divide_norm(model, prefix, fold, scale, others)
    return linears, others


def _multiply_columns(parameters: Parameters, name: str, scale: Tensor) -> None:
    parameters[name] = parameters[name] * scale.to(parameters[name])  # (out, in) * (in,)


def _divide_norm(model: Any, prefix: str, fold: Fold, scale: Tensor, others: Parameters) -> None:
    norm = model.get_submodule(f"{prefix}.{fold.previous}")
    name = f"{prefix}.{fold.previous}.weight"
    weight = others.get(name, norm.weight.detach())
    divisor = scale.to(weight)
    others[name] = (1 + weight) / divisor - 1 if fold.kind == "norm-plus-one" else weight / divisor
    _divide_bias(norm, f"{prefix}.{fold.previous}.bias", divisor, others)


def _divide_linear(
    model: Any,
    architecture: Architecture,
    block: int,
    fold: Fold,
    scale: Tensor,
    linears: Parameters,
    others: Parameters,
) -> None:
    path = f"{architecture.blocks}.{block}.{fold.previous}"
    rows = rows_of_channels(model, architecture, block, fold)
    if rows is None:
        raise ValueError(f"block {block}: {fold.previous} does not make the channels of {fold.name}")
    weight = linears[f"{path}.weight"]  # (out, in)
    rows = rows.to(weight.device)
    scale = scale.to(weight)
    divisor = torch.ones(len(weight), dtype=weight.dtype, device=weight.device)
    divisor[rows] = scale
    if not torch.equal(divisor[rows], scale):
        raise ValueError(f"block {block}: scales of {fold.name} must be equal where one row of {fold.previous} is read")
    linears[f"{path}.weight"] = weight / divisor.unsqueeze(1)
    _divide_bias(linear(model, path), f"{path}.bias", divisor, others)


def _divide_bias(module: Any, name: str, divisor: Tensor, others: Parameters) -> None:
    bias = getattr(module, "bias", None)
    if bias is not None:
        others[name] = others.get(name, bias.detach()) / divisor


@contextmanager
def exchanged(model: Any, parameters: Parameters) -> Iterator[None]:
    """Exchange some parameters of a model inside the context; the originals are restored even after an error.

    The parameters' storage is exchanged and never overwritten. Two published implementations overwrite weights of which
    their backup is an alias, and so score every exponent after the first on damaged weights.

    Raises:
        AttributeError: if the model lacks a parameter.
    """
    present = {name: model.get_parameter(name) for name in parameters}
    originals = {name: parameter.data for name, parameter in present.items()}
    try:
        for name, value in parameters.items():
            present[name].data = value.to(originals[name])
        yield
    finally:
        for name, original in originals.items():
            present[name].data = original
