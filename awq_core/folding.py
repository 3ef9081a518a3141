"""Folding scales into the operation before a linear, so that inference costs nothing more.

`W x = (W s) (x / s)`: the linear's input columns are multiplied by `s`, and whatever makes `x` is divided by it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from awq_core.architecture import Architecture, Fold, linear

Parameters = dict[str, Tensor]
"""New values of parameters by their full name."""


def fold_block(
    model: Any, architecture: Architecture, block: int, scales: list[tuple[Fold, Tensor]]
) -> tuple[Parameters, Parameters]:
    """A block's parameters after folding, before any rounding.

    Args:
        model: the unmodified model.
        architecture: its row of the table.
        block: index of the block.
        scales: the folds to apply, each with its scales `(width of the site,)`.

    Returns:
        `(linears, others)`: every linear weight of the block, scaled or not, and the norms and biases that changed.

    Raises:
        ValueError: if a scale is not positive and finite: dividing by it would lose the channel.
    """
    prefix = f"{architecture.blocks}.{block}"
    parameters: Parameters = {}
    for site in architecture.sites:
        for _, path in site.linears:
            parameters[f"{prefix}.{path}.weight"] = linear(model, f"{prefix}.{path}").weight.detach().clone()
    linears = set(parameters)
    for fold, scale in scales:
        if not bool((scale > 0).all() and torch.isfinite(scale).all()):
            raise ValueError(f"block {block}: scales of {fold.role} must be positive and finite")
        for _, path in architecture.site(fold.role).linears:
            name = f"{prefix}.{path}.weight"
            parameters[name] = parameters[name] * scale.to(parameters[name])  # (out, in) * (in,)
        _divide_previous(model, prefix, fold, scale, parameters)
    return (
        {name: value for name, value in parameters.items() if name in linears},
        {name: value for name, value in parameters.items() if name not in linears},
    )


def _divide_previous(model: Any, prefix: str, fold: Fold, scale: Tensor, parameters: Parameters) -> None:
    module = model.get_submodule(f"{prefix}.{fold.previous}")
    weight_name, bias_name = f"{prefix}.{fold.previous}.weight", f"{prefix}.{fold.previous}.bias"
    weight = parameters.get(weight_name, module.weight.detach())
    divisor = scale.to(weight)
    parameters[weight_name] = weight / (divisor if fold.kind == "norm" else divisor.unsqueeze(1))
    bias = getattr(module, "bias", None)
    if bias is not None:
        parameters[bias_name] = parameters.get(bias_name, bias.detach()) / divisor
