"""Access to a model's linears, independent of the layout in which they store their weights.

Everywhere in this package a linear's weight is `(out, in)`. GPT-2's `Conv1D` stores `(in, out)`, so its weight is
transposed when it is read and when it is written back.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from awq_core.architectures.description import UnknownArchitectureError


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear: an `nn.Linear` or a `Conv1D`."""
    return isinstance(module, (nn.Linear, Conv1D))


def linear(model: nn.Module, name: str) -> Any:
    """Find the linear called `name`, an `nn.Linear` or a `Conv1D`.

    Raises:
        UnknownArchitectureError: if there is no module of this name, or if it is something else: an adapter, an already
            quantized layer, or fused experts (see `awq_core.architectures.experts.separate_experts`).
    """
    try:
        module: nn.Module = model.get_submodule(name)
    except AttributeError as missing:
        raise UnknownArchitectureError(f"{name} is not there, where the table expects a linear: {missing}") from None
    if not is_linear(module):
        raise UnknownArchitectureError(f"{name} is a {type(module).__name__}, where the table expects a linear")
    return module


def weight_of(module: nn.Module) -> Tensor:
    """Return a view of a linear's weight, `(out, in)`, detached."""
    weight: Any = module.weight
    detached: Tensor = weight.detach()
    return detached.T if isinstance(module, Conv1D) else detached


def stored(module: nn.Module, weight: Tensor) -> Tensor:
    """Convert a weight `(out, in)` to the layout in which the linear stores it."""
    return weight.T.contiguous() if isinstance(module, Conv1D) else weight


def in_storage_layout(model: nn.Module, linears: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights `(out, in)`, by full parameter name, to the layouts in which the model stores them."""
    return {name: stored(linear(model, name.removesuffix(".weight")), weight) for name, weight in linears.items()}
