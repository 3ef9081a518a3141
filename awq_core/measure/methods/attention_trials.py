"""Change of attention's output at some positions of a sequence, with keys and values of all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from awq_core.measure.methods.trials import Changes, Differences, Known, Trial, output_of

MATCH_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Tolerance by dtype: largest norm of the difference between the outputs of attention at a position and of the whole
module there, relative to the norm of the output."""


class WholeSequences(Trial):
    """Trial of a module on whole sequences, with outputs at some positions.

    Args:
        module: the module.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
        positions: `(sequences, positions)`, positions in each sequence.
    """

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], positions: Tensor) -> None:
        self._positions = positions
        super().__init__(module, args, kwargs)

    def _output(self, changes: Changes) -> Tensor:
        return _at(super()._output(changes), self._positions)


class AttentionAtPositions(Trial):
    """Trial of attention with queries at some positions, and keys and values of whole sequences.

    The module runs twice: over whole sequences until keys and values are known, with a single head of zeros as queries;
    and at the given positions, with a single head of zeros as keys and values, which are then replaced by the known
    ones. `matches` tests whether a module supports this.

    Args:
        module: attention with separate projections of queries, keys and values.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
        positions: `(sequences, positions)`, positions in each sequence.
        projections: identities of the weights of queries, keys and values.
    """

    def __init__(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        positions: Tensor,
        projections: list[int],
    ) -> None:
        self._query, *self._others = projections
        hidden = args[0] if args else kwargs["hidden_states"]
        length, positions = hidden.shape[1], positions.to(hidden.device)
        self._at_positions = (
            tuple(_argument_at(value, positions, length) for value in args),
            {
                name: None if name == "attention_mask" else _argument_at(value, positions, length)
                for name, value in kwargs.items()
            },
        )
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = torch.arange(length, device=positions.device) <= positions.unsqueeze(2)  # (S, P, T)
        else:
            mask = _at(mask.flatten(0, 1), positions)  # one mask per sequence, for all heads
        mask = mask.unsqueeze(1)
        self._mask = mask
        super().__init__(module, args, kwargs)

    @classmethod
    def matches(
        cls,
        expected: Tensor,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        positions: Tensor,
        projections: list[int],
    ) -> bool:
        """Test whether the module can run in this way and gives the expected outputs at the positions.

        Args:
            expected: outputs of the whole module at the positions, `(sequences, positions, width)`; for the other
                arguments see the class.
        """
        try:
            found = cls(module, args, kwargs, positions, projections).full
        except Exception:  # modules may fail in any way on tensors of one head
            return False
        if found.shape != expected.shape:
            return False
        # Each position is compared by itself, because outputs may be a thousand times as large at some positions as at
        # others (attention sinks).
        off, size = (found - expected).float().norm(dim=-1), expected.float().norm(dim=-1)
        return bool((off <= MATCH_TOLERANCE[expected.dtype] * size).all())

    def _output(self, changes: Changes) -> Tensor:
        module, args, kwargs = self._call
        width = int(getattr(module, "head_dim"))  # noqa: B009 -- not an attribute of every module
        whole = _KeysAndValues(self._known, changes, {self._query}, width)
        with torch.no_grad(), suppress(_ReachedAttention), whole:
            module(*args, **kwargs)
        args, kwargs = self._at_positions
        with torch.no_grad(), _AtPositions(self._known, changes, {*self._others}, width, whole.reached, self._mask):
            return output_of(module(*args, **kwargs))


class _ReachedAttention(Exception):  # noqa: N818 -- a signal, not an error
    """Signal that stops an attention module once its keys and values are known."""


class _OneHead(Differences):
    """Context in which the output of some projections is a single head of zeros, as a placeholder.

    Args:
        known: see `Differences`.
        changes: see `Differences`.
        emptied: identities of the projections' weights.
        width: number of channels of a head.
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
    """Context that records the keys and values at attention, and stops the module there.

    Attributes:
        reached: keys and values, `(sequences, key heads, T, d)` each.
    """

    reached: tuple[Tensor, Tensor]

    def _attention(self, attend: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        _, *reached = args[:3] if len(args) >= 3 else (kwargs["query"], kwargs["key"], kwargs["value"])
        self.reached = reached[0], reached[1]
        raise _ReachedAttention


class _AtPositions(_OneHead):
    """Context in which attention uses queries at some positions with given keys and values."""

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
        heads, positions = query.shape[1:3]
        # Adjacent query heads share a key head: their queries are concatenated, so that no key is repeated.
        shared = heads // key.shape[1]
        query = query.reshape(len(query), -1, shared * positions, query.shape[-1])  # (S, key heads, shared P, d)
        mask = self._mask.repeat(1, 1, shared, 1)  # (S, 1, shared P, T)
        found = attend(query, key, value, attn_mask=mask, scale=kwargs.get("scale"))
        return found.reshape(len(query), heads, positions, -1)


def _at(values: Tensor, positions: Tensor) -> Tensor:
    """Select values `(sequences or 1, T, ...)` at positions `(sequences, P)`: `(sequences, P, ...)`."""
    if len(values) == 1:
        return values[0][positions]
    return values[torch.arange(len(values), device=values.device)[:, None], positions]


def _argument_at(value: Any, positions: Tensor, length: int) -> Any:
    """Select an argument of attention at some positions, if it has a dimension of tokens (hidden states, positions)."""
    if isinstance(value, tuple):
        return tuple(_argument_at(part, positions, length) for part in value)
    if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == length:
        return _at(value, positions)
    return value
