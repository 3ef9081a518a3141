"""The linears of a model, whichever way round they store their weight.

Everywhere in this package a linear's weight is `(out, in)`. GPT-2's `Conv1D` stores `(in, out)`: its weight is
transposed on the way out of the model and back.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from awq_core.architectures.description import UnknownArchitectureError


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear as this package understands it."""
    return isinstance(module, (nn.Linear, Conv1D))


def linear(model: nn.Module, name: str) -> Any:
    """The linear called `name`: an `nn.Linear`, or a `Conv1D`.

    Raises:
        UnknownArchitectureError: if there is none: an adapter, an already quantized layer, or experts that have not
            been separated (`awq_core.architectures.experts.separate_experts`).
    """
    try:
        module: nn.Module = model.get_submodule(name)
    except AttributeError as missing:
        raise UnknownArchitectureError(f"{name} is not there, where the table expects a linear: {missing}") from None
    if not is_linear(module):
        raise UnknownArchitectureError(f"{name} is a {type(module).__name__}, where the table expects a linear")
    return module


def weight_of(module: nn.Module) -> Tensor:
    """A linear's weight `(out, in)`, detached; a view, never a copy."""
    weight: Any = module.weight
    detached: Tensor = weight.detach()
    return detached.T if isinstance(module, Conv1D) else detached


def stored(module: nn.Module, weight: Tensor) -> Tensor:
    """A weight `(out, in)` in the layout in which the linear stores it."""
    return weight.T.contiguous() if isinstance(module, Conv1D) else weight


def in_storage_layout(model: nn.Module, linears: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights `(out, in)` by the full names of their parameters, each in its parameter's own layout."""
    return {name: stored(linear(model, name.removesuffix(".weight")), weight) for name, weight in linears.items()}
