"""A model's blocks, one at a time: full-precision hidden states in, every input site's tokens out.

Each block runs on the hidden states that the block before left behind, so at most one block's intermediate
results are alive, and a block can be run again (for what needs a first pass's results) without the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from awq_core.architecture import Architecture, blocks_of, linear, linears_of_block, weight_of
from awq_core.sources import LinearWeights

BATCH_TOKENS = 4096
"""Tokens in one forward pass of a block."""

_Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional (after the hidden states) and keyword arguments of a call."""


class _ReachedFirstBlock(Exception):  # noqa: N818 -- a signal, not an error
    """Stops the model's forward pass once the first block's input is known."""


class BlockStream:
    """Runs the blocks of a causal language model one after another over fixed sequences.

    Args:
        model: in evaluation mode.
        architecture: its row of the table.
        sequences: token ids `[sequences, length]` by split.
        groups: groups of neighbouring sequences that a split is divided into.

    `passes(block, split)` yields the tokens of a block's sites; `advance(block)` must follow before the next block.
    """

    def __init__(
        self, model: Any, architecture: Architecture, sequences: dict[str, np.ndarray], groups: int = 16
    ) -> None:
        self.model = model
        self.architecture = architecture
        self.device = model.get_input_embeddings().weight.device
        self.modules = blocks_of(model, architecture)
        self.blocks = len(self.modules)
        self.groups = groups
        self.block_arguments: dict[int, list[_Arguments]] = {}  # by sequence length: splits may differ in it
        self.hidden: dict[str, list[tuple[int, Tensor]]] = {
            split: [(group, self._embed(ids)) for group, ids in _batches(array, groups)]
            for split, array in sequences.items()
        }

    def linears(self, block: int) -> list[LinearWeights]:
        """The block's linears with their weights `(out, in)`."""
        return [
            LinearWeights(n.name, n.block, n.family, n.role, n.site, weight_of(linear(self.model, n.name)))
            for n in linears_of_block(self.architecture, block)
        ]

    def passes(self, block: int, split: str) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """One forward pass of a block over a split: `(group, {site: inputs (tokens, width)})` for each batch."""
        captured: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for site in self.architecture.sites:
                reader = self.modules[block].get_submodule(site.linears[0][1])
                stack.enter_context(_hooked(reader, _keep_input(captured, site.name)))
            for index, (group, hidden) in enumerate(self.hidden[split]):
                self.outputs[split][index] = self.forward(block, hidden)
                yield group, {site: x.flatten(0, -2) for site, x in captured.items()}

    def begin(self, block: int) -> None:
        """Make room for a block's outputs; every split must be passed over before `advance`."""
        self.outputs: dict[str, list[Tensor | None]] = {s: [None] * len(batches) for s, batches in self.hidden.items()}

    def advance(self, block: int) -> None:
        """Replace the hidden states with the block's outputs."""
        for split, batches in self.hidden.items():
            fresh = []
            for (group, _), output in zip(batches, self.outputs[split], strict=True):
                if output is None:
                    raise RuntimeError(f"block {block} was not passed over {split} before moving on")
                fresh.append((group, output))
            self.hidden[split] = fresh

    def skip(self, block: int) -> None:
        """Run a block over every split and move on, capturing nothing: for one whose results are known."""
        for split, batches in self.hidden.items():
            self.hidden[split] = [(group, self.forward(block, hidden)) for group, hidden in batches]

    def forward(self, block: int, hidden: Tensor) -> Tensor:
        """Output `(batch, length, width)` of one block for its input of the same shape."""
        arguments, keywords = self.block_arguments[hidden.shape[1]][block]
        with torch.no_grad():
            output = self.modules[block](hidden, *arguments, **keywords)
        return output[0] if isinstance(output, tuple) else output

    def _embed(self, ids: np.ndarray) -> Tensor:
        """Input of the first block; on the first call for a length also every block's other arguments."""
        batch = torch.as_tensor(ids, device=self.device)
        if batch.shape[1] not in self.block_arguments:
            self.block_arguments[batch.shape[1]] = _block_arguments(self.model, self.modules, batch[:1])
        kept: list[Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append(args[0] if args else kwargs["hidden_states"])
            raise _ReachedFirstBlock

        with torch.no_grad(), _hooked(self.modules[0], stop), suppress(_ReachedFirstBlock):
            self.model(input_ids=batch, use_cache=False)
        return kept[0]


def _batches(sequences: np.ndarray, groups: int) -> Iterator[tuple[int, np.ndarray]]:
    """`(group, sequences)` in order; no batch spans two groups of neighbouring sequences."""
    per_batch = max(1, BATCH_TOKENS // sequences.shape[1])
    for group, members in enumerate(np.array_split(sequences, min(groups, len(sequences)))):
        for start in range(0, len(members), per_batch):
            yield group, members[start : start + per_batch]


def _block_arguments(model: Any, modules: nn.ModuleList, ids: Tensor) -> list[_Arguments]:
    """What each block is called with beside hidden states (positions, masks), for a batch of one sequence.

    Sequences of one length have no padding, so these hold, broadcast, for every batch of that length.
    """
    arguments: list[_Arguments] = [((), {}) for _ in modules]

    def keep(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            arguments[index] = args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}

        return hook

    with torch.no_grad(), ExitStack() as stack:
        for index, module in enumerate(modules):
            stack.enter_context(_hooked(module, keep(index)))
        model(input_ids=ids, use_cache=False)
    return arguments


def _keep_input(captured: dict[str, Tensor], site: str) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        captured[site] = args[0]

    return hook


class _hooked:  # noqa: N801 -- used as a context manager, reads as a verb
    """A forward pre-hook that is removed on leaving."""

    def __init__(self, module: nn.Module, hook: Callable[..., None]) -> None:
        self.handle = module.register_forward_pre_hook(hook, with_kwargs=True)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.handle.remove()
