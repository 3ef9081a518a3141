"""A model's blocks, one at a time: full-precision hidden states in, every input site's tokens out.

Each block runs on the hidden states that the block before left behind, so at most one block's intermediate results are
alive, and at most one block's weights need be: those of a model that lies on disk are read when a block is opened and
dropped when it is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from awq_core.architectures.model import Architecture, blocks_of, linear, linears_of_block, weight_of
from awq_core.architectures.sources import LinearWeights
from awq_core.quantization.matmul import Products

BATCH_TOKENS = 4096
"""Tokens in one forward pass of a block, or of a part of it."""

Fill = Callable[[int, nn.Module], None]
"""Gives a block, by its index, parameters that hold their values: read from disk, or drawn."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional (after the hidden states) and keyword arguments of a call."""


class _Reached(Exception):  # noqa: N818 -- a signal, not an error
    """Stops a forward pass once what was looked for is known."""


class Blocks:
    """The blocks of a causal language model, and what stands before and after them.

    Args:
        model: in evaluation mode; where `fill` is given, its blocks' parameters are on the meta device.
        architecture: its row of the table.
        fill: makes the parameters of a block that is opened; None where the whole model is in memory.
    """

    def __init__(self, model: Any, architecture: Architecture, fill: Fill | None = None) -> None:
        self.model = model
        self.architecture = architecture
        self._fill = fill
        self.modules = blocks_of(model, architecture)
        self.device: torch.device = model.get_input_embeddings().weight.device
        self._arguments: dict[int, list[Arguments]] = {}  # by sequence length
        self._returns_tuple = False

    def __len__(self) -> int:
        return len(self.modules)

    @contextmanager
    def open(self, block: int) -> Iterator[nn.Module]:
        """One block with its weights in memory, for a while."""
        module = self.modules[block]
        if self._fill is None or not any(parameter.is_meta for parameter in module.parameters()):
            yield module  # in memory, or opened already further out
            return
        try:
            self._fill(block, module)
            yield module
        finally:
            for name, parameter in list(module.named_parameters()):
                put_parameter(module, name, torch.empty_like(parameter, device="meta"))

    def forward(self, block: int, hidden: Tensor) -> Tensor:
        """Output of one opened block.

        Args:
            block: index of the block.
            hidden: `(batch, length, width)`.

        Returns:
            Of the input's shape.
        """
        arguments, keywords = self.arguments(hidden.shape[1])[block]
        with torch.no_grad(), Products():
            output = self.modules[block](hidden, *arguments, **keywords)
        return output[0] if isinstance(output, tuple) else output

    def embed(self, ids: Tensor) -> Tensor:
        """Input `(batch, length, width)` of the first block for token ids `(batch, length)`."""
        kept: list[Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append(args[0] if args else kwargs["hidden_states"])
            raise _Reached

        with torch.no_grad(), hooked(self.modules[0], stop), suppress(_Reached):
            self.model(input_ids=ids, use_cache=False)
        return kept[0]

    def finish(self, hidden: Tensor) -> Tensor:
        """Compute what reaches the language-model head, `(batch, length, width)`, from the last block's output."""
        ids = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        with torch.no_grad(), self._replaced(lambda block, given: hidden):
            found: Tensor = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return found

    def arguments(self, length: int) -> list[Arguments]:
        """Make the arguments of every block beside hidden states (positions, masks), for sequences of one length.

        Such sequences have no padding, so these hold, broadcast, for any batch.
        """
        if length in self._arguments:
            return self._arguments[length]
        recorded: list[Arguments] = [((), {}) for _ in self.modules]

        def record(index: int) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                recorded[index] = args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}

            return hook

        def note(_: nn.Module, __: Any, output: Any) -> None:
            self._returns_tuple = isinstance(output, tuple)

        ids = torch.zeros(1, length, dtype=torch.int64, device=self.device)
        with torch.no_grad(), ExitStack() as stack:
            for index, module in enumerate(self.modules):
                stack.enter_context(hooked(module, record(index)))
            stack.enter_context(self.open(0))
            handle = self.modules[0].register_forward_hook(note)
            stack.callback(handle.remove)
            # What is passed to a block depends on no block's weights: the first shows what a block returns.
            stack.enter_context(self._replaced(lambda block, given: given, first=1))
            self.model.base_model(input_ids=ids, use_cache=False)
        self._arguments[length] = recorded
        return recorded

    def linears(self, block: int) -> list[LinearWeights]:
        """An opened block's linears with their weights `(out, in)`."""
        return [
            LinearWeights(n.name, n.block, n.family, n.role, n.site, weight_of(linear(self.model, n.name)))
            for n in linears_of_block(self.architecture, block)
        ]

    @contextmanager
    def _replaced(self, output: Callable[[int, Tensor], Tensor], first: int = 0) -> Iterator[None]:
        """Let blocks from `first` on return something else than they compute, given their index and input."""

        def stub(index: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                found = output(index, args[0] if args else kwargs["hidden_states"])
                return (found,) if self._returns_tuple else found

            return forward

        replaced = list(enumerate(self.modules))[first:]
        try:
            for index, module in replaced:
                module.forward = stub(index)
            yield
        finally:
            for _, module in replaced:
                module.__dict__.pop("forward", None)


class BlockStream:
    """Runs the blocks of a causal language model one after another over fixed sequences.

    Args:
        model: in evaluation mode, or its `Blocks`.
        architecture: its row of the table.
        sequences: token ids `[sequences, length]` by split.
        groups: groups of neighbouring sequences that a split is divided into.

    `passes(block, split)` yields the tokens of a block's sites; `advance(block)` must follow before the next block.
    """

    def __init__(
        self, model: Any, architecture: Architecture, sequences: dict[str, np.ndarray], groups: int = 16
    ) -> None:
        self.source = model if isinstance(model, Blocks) else Blocks(model, architecture)
        self.architecture = architecture
        self.blocks = len(self.source)
        self.groups = groups
        self._opened = ExitStack()
        for array in sequences.values():
            self.source.arguments(array.shape[1])  # now: what a block is hooked for later is its tokens alone
        self.hidden: dict[str, list[tuple[int, Tensor]]] = {
            split: [(group, self.source.embed(self._ids(ids))) for group, ids in _batches(array, groups)]
            for split, array in sequences.items()
        }

    def linears(self, block: int) -> list[LinearWeights]:
        """The block's linears with their weights `(out, in)`."""
        return self.source.linears(block)

    def passes(self, block: int, split: str, *, outputs: bool = True) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """One forward pass of a block over a split: `(group, {site: inputs (tokens, width)})` for each batch.

        Without `outputs` a pass ends when all sites' inputs are known, and `advance` runs the block again.
        """
        captured: dict[str, Tensor] = {}

        def capture(site: str) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                captured[site] = args[0]
                if not outputs and len(captured) == len(self.architecture.sites):
                    raise _Reached

            return hook

        with ExitStack() as stack:
            for site in self.architecture.sites:
                reader = self.source.modules[block].get_submodule(site.linears[0][1])
                stack.enter_context(hooked(reader, capture(site.name)))
            for index, (group, hidden) in enumerate(self.hidden[split]):
                captured.clear()
                with suppress(_Reached):
                    output = self.source.forward(block, hidden)
                    self.outputs[split][index] = output if outputs else None
                yield group, {site: x.flatten(0, -2) for site, x in captured.items()}

    def begin(self, block: int) -> None:
        """Open a block and make room for its outputs."""
        self._opened.enter_context(self.source.open(block))
        self.outputs: dict[str, list[Tensor | None]] = {s: [None] * len(batches) for s, batches in self.hidden.items()}

    def advance(self, block: int) -> None:
        """Replace the hidden states with the block's outputs, and close the block.

        A split that was not passed over is run now.
        """
        for split, batches in self.hidden.items():
            self.hidden[split] = [
                (group, self.source.forward(block, hidden) if output is None else output)
                for (group, hidden), output in zip(batches, self.outputs[split], strict=True)
            ]
        self._opened.close()

    def skip(self, block: int) -> None:
        """Run a block over every split and move on, capturing nothing: for one whose results are known."""
        self.begin(block)
        self.advance(block)

    def _ids(self, ids: np.ndarray) -> Tensor:
        return torch.as_tensor(ids, device=self.source.device)


class hooked:  # noqa: N801 -- used as a context manager, reads as a verb
    """A forward pre-hook that is removed on leaving."""

    def __init__(self, module: nn.Module, hook: Callable[..., None]) -> None:
        self.handle = module.register_forward_pre_hook(hook, with_kwargs=True)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def in_batches(sequences: Tensor) -> Iterable[Tensor]:
    """Sequences `(n, length, ...)` in parts of about `BATCH_TOKENS` tokens."""
    return sequences.split(max(1, BATCH_TOKENS // sequences.shape[1]))


def _batches(sequences: np.ndarray, groups: int) -> Iterator[tuple[int, np.ndarray]]:
    """`(group, sequences)` in order; no batch spans two groups of neighbouring sequences."""
    per_batch = max(1, BATCH_TOKENS // sequences.shape[1])
    for group, members in enumerate(np.array_split(sequences, min(groups, len(sequences)))):
        for start in range(0, len(members), per_batch):
            yield group, members[start : start + per_batch]


def put_parameter(module: nn.Module, name: str, values: Tensor) -> None:
    """Give a parameter other values, on whatever device they are."""
    owner, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(owner), attribute, nn.Parameter(values, requires_grad=False))
