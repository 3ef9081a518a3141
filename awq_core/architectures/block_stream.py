"""Execution of a model block by block: full-precision hidden states in, the inputs of all sites out.

Each block runs on the hidden states that the previous block returned, so at most one block's intermediate results are
in memory. At most one block's weights need be: a block of a model on disk is read when it is opened and dropped when it
is closed.
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
"""Tokens in one forward pass of a block or of one of its modules."""

Fill = Callable[[int, nn.Module], None]
"""Function that replaces the meta parameters of a block, given its index and module, by values: loaded or drawn."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a block's call other than the hidden states: positional, then keyword."""


class _Reached(Exception):  # noqa: N818 -- a signal, not an error
    """Signal that stops a forward pass once the wanted tensors are known."""


class Blocks:
    """Blocks of a causal language model, with the operations before and after them.

    Args:
        model: the model, in evaluation mode; if `fill` is given, its blocks' parameters are on the meta device.
        architecture: the model's row of the table.
        fill: loads the parameters of a block that is opened; None if the whole model is in memory.
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
        """Hold one block's weights in memory inside the context."""
        module = self.modules[block]
        if self._fill is None or not any(parameter.is_meta for parameter in module.parameters()):
            yield module  # in memory already, or opened by an outer context
            return
        try:
            self._fill(block, module)
            yield module
        finally:
            for name, parameter in list(module.named_parameters()):
                put_parameter(module, name, torch.empty_like(parameter, device="meta"))

    def forward(self, block: int, hidden: Tensor) -> Tensor:
        """Run one opened block.

        Args:
            block: index of the block.
            hidden: `(batch, length, width)`.

        Returns:
            `(batch, length, width)`.
        """
        arguments, keywords = self.arguments(hidden.shape[1])[block]
        with torch.no_grad(), Products():
            output = self.modules[block](hidden, *arguments, **keywords)
        return output[0] if isinstance(output, tuple) else output

    def embed(self, ids: Tensor) -> Tensor:
        """Compute the first block's input `(batch, length, width)` from token ids `(batch, length)`."""
        kept: list[Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append(args[0] if args else kwargs["hidden_states"])
            raise _Reached

        with torch.no_grad(), hooked(self.modules[0], stop), suppress(_Reached):
            self.model(input_ids=ids, use_cache=False)
        return kept[0]

    def finish(self, hidden: Tensor) -> Tensor:
        """Compute the input of the language-model head from the last block's output, both `(batch, length, width)`."""
        ids = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        with torch.no_grad(), self._replaced(lambda block, given: hidden):
            found: Tensor = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return found

    def arguments(self, length: int) -> list[Arguments]:
        """Record each block's arguments other than the hidden states (positions, masks) for sequences of one length.

        Sequences have no padding, so the arguments of one sequence broadcast to any batch.
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
            # No argument depends on a block's weights. Only the first block runs, to show whether blocks return tuples.
            stack.enter_context(self._replaced(lambda block, given: given, first=1))
            self.model.base_model(input_ids=ids, use_cache=False)
        self._arguments[length] = recorded
        return recorded

    def linears(self, block: int) -> list[LinearWeights]:
        """List an opened block's linears with their weights `(out, in)`."""
        return [
            LinearWeights(n.name, n.block, n.family, n.role, n.site, weight_of(linear(self.model, n.name)))
            for n in linears_of_block(self.architecture, block)
        ]

    @contextmanager
    def _replaced(self, output: Callable[[int, Tensor], Tensor], first: int = 0) -> Iterator[None]:
        """Replace the forward pass of blocks from `first` on by `output`, a function of block index and input."""

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
    """Layer source that runs a causal language model's blocks one after another over fixed sequences.

    For each block in order: `begin(block)`, then `passes(block, split)` for each split of interest, then
    `advance(block)`; or `skip(block)` alone.

    Args:
        model: the model, in evaluation mode, or its `Blocks`.
        architecture: the model's row of the table.
        sequences: token ids `[sequences, length]` by split.
        groups: number of groups of neighbouring sequences into which each split is divided.
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
            self.source.arguments(array.shape[1])  # now, while no hook would capture this run
        self.hidden: dict[str, list[tuple[int, Tensor]]] = {
            split: [(group, self.source.embed(self._ids(ids))) for group, ids in _batches(array, groups)]
            for split, array in sequences.items()
        }

    def linears(self, block: int) -> list[LinearWeights]:
        """List an opened block's linears with their weights `(out, in)`."""
        return self.source.linears(block)

    def passes(self, block: int, split: str, *, outputs: bool = True) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Run a block over a split, yielding `(group, {site: inputs (tokens, width)})` for each batch.

        With `outputs=False` each forward pass stops once the inputs of all sites are known, and `advance` runs the
        block again to get its outputs.
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
        """Open a block and discard the outputs of the previous one."""
        self._opened.enter_context(self.source.open(block))
        self.outputs: dict[str, list[Tensor | None]] = {s: [None] * len(batches) for s, batches in self.hidden.items()}

    def advance(self, block: int) -> None:
        """Replace the hidden states by the block's outputs and close the block.

        Batches whose outputs are not known yet are run here.
        """
        for split, batches in self.hidden.items():
            self.hidden[split] = [
                (group, self.source.forward(block, hidden) if output is None else output)
                for (group, hidden), output in zip(batches, self.outputs[split], strict=True)
            ]
        self._opened.close()

    def skip(self, block: int) -> None:
        """Run a block whose results are known over every split, capturing nothing."""
        self.begin(block)
        self.advance(block)

    def _ids(self, ids: np.ndarray) -> Tensor:
        return torch.as_tensor(ids, device=self.source.device)


class hooked:  # noqa: N801 -- used as a context manager, reads as a verb
    """Context in which a forward pre-hook is registered on a module."""

    def __init__(self, module: nn.Module, hook: Callable[..., None]) -> None:
        self.handle = module.register_forward_pre_hook(hook, with_kwargs=True)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def in_batches(sequences: Tensor) -> Iterable[Tensor]:
    """Split sequences `(n, length, ...)` into batches of at most `BATCH_TOKENS` tokens, at least one sequence each."""
    return sequences.split(max(1, BATCH_TOKENS // sequences.shape[1]))


def _batches(sequences: np.ndarray, groups: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield `(group, batch of sequences)` in order; no batch spans two groups of neighbouring sequences."""
    per_batch = max(1, BATCH_TOKENS // sequences.shape[1])
    for group, members in enumerate(np.array_split(sequences, min(groups, len(sequences)))):
        for start in range(0, len(members), per_batch):
            yield group, members[start : start + per_batch]


def put_parameter(module: nn.Module, name: str, values: Tensor) -> None:
    """Replace a module's parameter by new values, on the device of the values."""
    owner, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(owner), attribute, nn.Parameter(values, requires_grad=False))
