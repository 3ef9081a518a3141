"""A module with other weights: how its output changes, from differences to full precision alone.

With `y` a linear's full-precision output for `x`, and `E = W^ - W`, its output for another input `x'` is
`y + (x' - x) W^T + x' E^T`. Products of differences need few digits: they are made in bfloat16 where the processor has
instructions for that, and a squared change loses a share of about 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from awq_core.quantization.matmul import multiplies_bfloat16, product_with_rows

Changes = dict[int, Tensor]
"""`E^T`, `(in, out)`, by the identity of the weight that it changes."""


@dataclass
class KnownLinear:
    """A linear in full precision.

    Attributes:
        inputs: what it reads.
        weight: `(out, in)`.
        output: what it makes of them.
    """

    inputs: Tensor
    weight: Tensor
    output: Tensor

    @cached_property
    def brief_inputs(self) -> Tensor:
        """The inputs in the dtype of differences."""
        return brief(self.inputs)

    @cached_property
    def brief_weight(self) -> Tensor:
        """The weight in the dtype of differences."""
        return brief(self.weight)


Known = dict[int, KnownLinear]
"""Linears in full precision by the identity of their weight."""


GIVEN = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Largest difference, over the size of the output at a place, that attention there may show to the whole module's."""


class Trial:
    """A module on some inputs: its full-precision output, and how other weights change it.

    Args:
        module: what is called.
        args: positional arguments.
        kwargs: keyword arguments.

    Attributes:
        full: its output with its own weights.
    """

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._call = module, args, kwargs
        self._known: Known = {}
        self.full = self._output({})

    def change(self, changes: Changes) -> Tensor:
        """The change of the output, of its shape. Linears whose weight changes must read what they read before."""
        return self._output(changes) - self.full

    def _output(self, changes: Changes) -> Tensor:
        module, args, kwargs = self._call
        with torch.no_grad(), Differences(self._known, changes):
            return output_of(module(*args, **kwargs))


class WholeSequences(Trial):
    """A module on whole sequences, of whose output some places count.

    Args:
        module: what is called.
        args: positional arguments.
        kwargs: keyword arguments.
        places: `(sequences, places)`.
    """

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], places: Tensor) -> None:
        self._places = places
        super().__init__(module, args, kwargs)

    def _output(self, changes: Changes) -> Tensor:
        return _at(super()._output(changes), self._places)


class AttentionAtPlaces(Trial):
    """Attention whose queries stand at some places, with keys and values of whole sequences.

    The module runs twice: over whole sequences until keys and values are known, with queries of one head that are
    thrown away; and at the places, with keys and values of one head that are exchanged for those. Whether a module
    allows that, `gives` finds out.

    Args:
        module: attention with three projections.
        args: positional arguments.
        kwargs: keyword arguments.
        places: `(sequences, places)`.
        projections: identities of the weights of queries, keys and values.
    """

    def __init__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], places: Tensor, projections: list[int]
    ) -> None:
        self._query, *self._others = projections
        hidden = args[0] if args else kwargs["hidden_states"]
        length, places = hidden.shape[1], places.to(hidden.device)
        self._at_places = (
            tuple(_argument_at(value, places, length) for value in args),
            {
                name: None if name == "attention_mask" else _argument_at(value, places, length)
                for name, value in kwargs.items()
            },
        )
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = torch.arange(length, device=places.device) <= places.unsqueeze(2)  # (S, P, T)
        else:
            mask = _at(mask.flatten(0, 1), places)  # of all heads and sequences
        mask = mask.unsqueeze(1)
        self._mask = mask
        super().__init__(module, args, kwargs)

    @classmethod
    def gives(
        cls,
        expected: Tensor,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        places: Tensor,
        projections: list[int],
    ) -> bool:
        """Whether the module can be run so, and gives the expected output at the places."""
        try:
            found = cls(module, args, kwargs, places, projections).full
        except Exception:  # whatever a module makes of a tensor of one head
            return False
        if found.shape != expected.shape:
            return False
        # At each place by itself: where all attend to one token (an attention sink) outputs may be a thousand times
        # as large as elsewhere.
        off, size = (found - expected).float().norm(dim=-1), expected.float().norm(dim=-1)
        return bool((off <= GIVEN[expected.dtype] * size).all())

    def _output(self, changes: Changes) -> Tensor:
        module, args, kwargs = self._call
        width = int(getattr(module, "head_dim"))  # noqa: B009 -- not an attribute of every module
        whole = _KeysAndValues(self._known, changes, {self._query}, width)
        with torch.no_grad(), suppress(_ReachedAttention), whole:
            module(*args, **kwargs)
        args, kwargs = self._at_places
        with torch.no_grad(), _AtPlaces(self._known, changes, {*self._others}, width, whole.reached, self._mask):
            return output_of(module(*args, **kwargs))


class Differences(TorchFunctionMode):
    """Lets some linears have other weights: `nn.Linear`, and GPT-2's `Conv1D`.

    Args:
        known: of every linear that is called; filled where nothing changes.
        changes: of the linears whose weights change.
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
        """Output of a linear with a weight `(out, in)`, known by `key`."""
        if not self._changes:
            self._known[id(key)] = KnownLinear(inputs, weight, product_with_rows(inputs, weight, bias))
            return self._known[id(key)].output
        known = self._known[id(key)]
        change = self._changes.get(id(key))
        if change is not None:  # it reads what it read before
            return known.output + known.brief_inputs @ change
        if inputs is known.inputs:
            return known.output
        return known.output + functional.linear(brief(inputs - known.inputs), known.brief_weight)

    def _attention(self, attend: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        return attend(*args, **kwargs)


class _ReachedAttention(Exception):  # noqa: N818 -- a signal, not an error
    """Stops an attention module once its keys and values are known."""


class _OneHead(Differences):
    """Gives some projections one head of zeros, which is thrown away.

    Args:
        known: see `Differences`.
        changes: see `Differences`.
        emptied: identities of the projections' weights.
        width: of a head.
    """

    def __init__(self, known: Known, changes: Changes, emptied: set[int], width: int) -> None:
        super().__init__(known, changes)
        self._emptied = emptied
        self._width = width

    def _linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, key: Tensor) -> Tensor:
        if id(key) in self._emptied:
            return inputs.new_zeros(*inputs.shape[:-1], self._width)
        return super()._linear(inputs, weight, bias, key)


class _KeysAndValues(_OneHead):
    """Takes the keys and values that reach attention, and stops there."""

    reached: tuple[Tensor, Tensor]

    def _attention(self, attend: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        _, *reached = args[:3] if len(args) >= 3 else (kwargs["query"], kwargs["key"], kwargs["value"])
        self.reached = reached[0], reached[1]
        raise _ReachedAttention


class _AtPlaces(_OneHead):
    """Attends from queries at some places to given keys and values."""

    def __init__(
        self,
        known: Known,
        changes: Changes,
        emptied: set[int],
        width: int,
        reached: tuple[Tensor, Tensor],
        mask: Tensor,
    ) -> None:
        super().__init__(known, changes, emptied, width)
        self._reached = reached
        self._mask = mask

    def _attention(self, attend: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        query = args[0] if args else kwargs["query"]
        key, value = self._reached
        heads, places = query.shape[1:3]
        # Neighbouring query heads share a key head: their queries stand one after another, and no key is repeated.
        shared = heads // key.shape[1]
        query = query.reshape(len(query), -1, shared * places, query.shape[-1])  # (S, key heads, shared P, d)
        mask = self._mask.repeat(1, 1, shared, 1)  # (S, 1, shared P, T)
        found = attend(query, key, value, attn_mask=mask, scale=kwargs.get("scale"))
        return found.reshape(len(query), heads, places, -1)


def brief(difference: Tensor) -> Tensor:
    """A difference in the dtype in which it is multiplied."""
    exact = difference.dtype != torch.float32 or not multiplies_bfloat16(difference.device)
    return difference if exact else difference.to(torch.bfloat16)


def mean_square(change: Tensor) -> Tensor:
    """Mean over the last dimension of the squares, float64."""
    change = change.to(torch.promote_types(change.dtype, torch.float32))
    return change.square().mean(dim=-1).double()


def output_of(output: Any) -> Tensor:
    """A module's output without what may come beside it (attention weights, router scores)."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _at(values: Tensor, places: Tensor) -> Tensor:
    """Values `(sequences or 1, T, ...)` at the places `(sequences, P)` of each: `(sequences, P, ...)`."""
    if len(values) == 1:
        return values[0][places]
    return values[torch.arange(len(values), device=values.device)[:, None], places]


def _argument_at(value: Any, places: Tensor, length: int) -> Any:
    """An argument of attention at some places: hidden states, positions and what was made of them."""
    if isinstance(value, tuple):
        return tuple(_argument_at(part, places, length) for part in value)
    if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == length:
        return _at(value, places)
    return value
