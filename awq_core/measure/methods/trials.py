"""Change of a module's output under other weights, computed from differences from full precision.

With `y` a linear's full-precision output for `x`, and `E = W^ - W`, its output for another input `x'` is
`y + (x' - x) W^T + x' E^T`. Products of differences need few digits: they are computed in bfloat16 if the processor has
instructions for it, which changes a squared change by a share of about 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from awq_core.quantization.matmul import multiplies_bfloat16, product_with_rows

Changes = dict[int, Tensor]
"""Changes `E^T`, `(in, out)`, by the identity of the weight that each changes."""


@dataclass
class KnownLinear:
    """Inputs, weight and output of a linear in full precision.

    Attributes:
        inputs: `(..., in)`.
        weight: `(out, in)`.
        output: `(..., out)`.
    """

    inputs: Tensor
    weight: Tensor
    output: Tensor

    @cached_property
    def low_precision_inputs(self) -> Tensor:
        """Inputs in the dtype of differences."""
        return low_precision(self.inputs)

    @cached_property
    def low_precision_weight(self) -> Tensor:
        """Weight in the dtype of differences."""
        return low_precision(self.weight)


Known = dict[int, KnownLinear]
"""Linears in full precision, by the identity of their weight."""


class Trial:
    """Module on some inputs: its full-precision output, and the change of this output under other weights.

    Args:
        module: the module.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.

    Attributes:
        full: output of the module in full precision.
    """

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._call = module, args, kwargs
        self._known: Known = {}
        self.full = self._output({})

    @property
    def size(self) -> int:
        """Size of what is stored, in bytes, with the copies in low precision that changes will need."""
        stored = self.full.nbytes + sum(known.inputs.nbytes + known.output.nbytes for known in self._known.values())
        if low_precision(self.full[:0]).dtype == self.full.dtype:
            return stored
        return stored + sum((known.inputs.nbytes + known.weight.nbytes) // 2 for known in self._known.values())

    def change(self, changes: Changes) -> Tensor:
        """Compute the change of the output, of the output's shape.

        The inputs of linears with changed weights must not depend on other changed weights.
        """
        return self._output(changes) - self.full

    def _output(self, changes: Changes) -> Tensor:
        module, args, kwargs = self._call
        with torch.no_grad(), Differences(self._known, changes):
            return output_of(module(*args, **kwargs))


class Differences(TorchFunctionMode):
    """Context in which some linears (`nn.Linear` and GPT-2's `Conv1D`) have changed weights.

    Args:
        known: full-precision linears; filled by a run without changes, and read by a run with changes.
        changes: changes of weights; empty for full precision.
    """

    def __init__(self, known: Known, changes: Changes) -> None:
        super().__init__()
        self._known = known
        self._changes = changes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear:
            return self._linear(args[0], args[1], args[2] if len(args) > 2 else kwargs.get("bias"), args[1])
        if func is torch.addmm:  # Conv1D: bias, inputs, weight (in, out)
            return self._linear(args[1], args[2].T, args[0], args[2])
        if func is functional.scaled_dot_product_attention:
            return self._attention(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, key: Tensor) -> Tensor:
        """Compute the output of a linear with weight `(out, in)`, which the identity of `key` identifies."""
        if not self._changes:
            self._known[id(key)] = KnownLinear(inputs, weight, product_with_rows(inputs, weight, bias))
            return self._known[id(key)].output
        known = self._known[id(key)]
        change = self._changes.get(id(key))
        if change is not None:  # its inputs are unchanged
            return known.output + known.low_precision_inputs @ change
        if inputs is known.inputs:
            return known.output
        return known.output + functional.linear(low_precision(inputs - known.inputs), known.low_precision_weight)

    def _attention(self, attend: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        return attend(*args, **kwargs)


def low_precision(difference: Tensor) -> Tensor:
    """Convert a difference to the dtype in which it is multiplied."""
    exact = difference.dtype != torch.float32 or not multiplies_bfloat16(difference.device)
    return difference if exact else difference.to(torch.bfloat16)


def mean_square(change: Tensor) -> Tensor:
    """Compute the mean of squares over the last dimension, in float64."""
    change = change.to(torch.promote_types(change.dtype, torch.float32))
    return change.square().mean(dim=-1).double()


def output_of(output: Any) -> Tensor:
    """Extract a module's main output from others that may come with it (attention weights, router scores)."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
