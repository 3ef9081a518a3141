"""Pass through a model's blocks with many methods: each block is calibrated, and rounded and run by every method.

All blocks are searched first; then each method carries its own held-out hidden states from block to block. A method's
weights exist for one block at a time, so no quantized model is ever in memory as a whole. Checkpoints
(`awq_core.measure.checkpoints`) store the results of searches, from which every pass over windows, also a later one or
one after a kill, rounds without searching.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from awq_core.architectures.block_stream import Blocks, BlockStream, in_batches
from awq_core.architectures.folding import Parameters
from awq_core.measure.checkpoints import Checkpoints, CheckpointsInMemory
from awq_core.measure.layers.moments import MeasurementError
from awq_core.measure.methods.block_inputs import BlockInputs
from awq_core.measure.methods.block_rounding import Applied, LayerFindings, Rounding, redraw_signs
from awq_core.measure.methods.found import Found, from_arrays, to_arrays
from awq_core.measure.methods.losses import Scores, compare
from awq_core.measure.methods.searches import Calibration
from awq_core.measure.methods.table import FULL, METHODS, Strategy

STATE_BYTES = 2**29
"""Largest size of the hidden states of all methods, in bytes; windows that need more are scored in several turns."""

Progress = Callable[[int, int], None]
CheckpointsByName = Callable[[str], Checkpoints]
"""Function from the name of a search to its checkpoints."""


class MethodPass:
    """Calibration and scoring of any number of methods in one pass.

    Args:
        blocks: blocks of the full-precision model, which is unchanged afterwards.
        texts: calibration token ids `[sequences, length]` by text set; `""` is the usual one.
        layers: results of the layer-level instruments.
        arithmetic: dtype of second moments and GPTQ.
        checkpoints: by name of the search; in memory by default.
        exhaustive: whether searches try every exponent on every token.
    """

    def __init__(
        self,
        blocks: Blocks,
        texts: dict[str, np.ndarray],
        layers: LayerFindings,
        arithmetic: torch.dtype = torch.float32,
        checkpoints: CheckpointsByName | None = None,
        *,
        exhaustive: bool = False,
    ) -> None:
        self.blocks = blocks
        self.texts = texts
        self.layers = layers
        self.arithmetic = arithmetic
        in_memory: defaultdict[str, Checkpoints] = defaultdict(CheckpointsInMemory)
        self.checkpoints = checkpoints or in_memory.__getitem__
        self.exhaustive = exhaustive
        self._open: dict[tuple[str, int], Found] = {}  # of the last block read, by name of the search

    def score(
        self,
        strategies: Sequence[Strategy],
        windows: np.ndarray,
        progress: Progress = lambda done, total: None,
        *,
        bfloat16: bool = False,
    ) -> list[Scores]:
        """Measure losses of strategies and their divergences from full precision.

        Args:
            strategies: strategies to score.
            windows: held-out token ids `[windows, length]`.
            progress: called with `(blocks done, blocks)`, summed over the searches and all turns, also after each
                search.
            bfloat16: whether to multiply differences from full precision by the head in bfloat16 (`losses.compare`).

        Returns:
            Scores of each strategy, in order.

        Raises:
            MeasurementError: if a loss is NaN or infinite, also in a search.
        """
        ids = self._ids(windows)
        element = next(self.blocks.model.get_output_embeddings().parameters()).element_size()
        width = self.blocks.model.get_input_embeddings().weight.shape[1]
        of_window = (1 + len(strategies)) * ids.shape[1] * width * element
        turns = ids.split(max(1, STATE_BYTES // of_window))

        searching = _Searching(self, strategies)
        passes = int(bool(searching.missing)) + len(turns)

        def step(before: int, done: int, total: int) -> None:
            progress(before * total + done, passes * total)

        # Before all turns, because searches and the states of all methods together would take the most memory.
        for block in range(len(self.blocks)) if searching.missing else ():
            with self._opened(block, partial(step, 0)):
                searching.visit(block, partial(step, 0, block, len(self.blocks)))
        del searching
        scores: list[list[Scores]] = [[] for _ in strategies]
        for before, part in enumerate(turns, start=passes - len(turns)):
            full, states = self._pass(strategies, part, partial(step, before))
            compared = compare(self.blocks, part, full, states, bfloat16=bfloat16)
            del full, states  # before the next turn's
            for of_strategy, found in zip(scores, compared, strict=True):
                of_strategy.append(found)
        joined = [Scores.joined(parts) for parts in scores]
        for strategy, score in zip(strategies, joined, strict=True):
            if not (np.isfinite(score.loss).all() and np.isfinite(score.divergence).all()):
                raise MeasurementError(f"strategy {strategy.name}: a window's loss is NaN or infinite")
        return joined

    def bfloat16_change(self, strategy: Strategy, windows: np.ndarray) -> float:
        """Measure the change of a strategy's mean loss or divergence by bfloat16 products, the larger one, in nats.

        Args:
            strategy: a strategy that needs no search.
            windows: held-out token ids `[windows, length]`, few enough for one turn.
        """
        ids = self._ids(windows)
        full, states = self._pass([strategy], ids)
        (exact,), (other,) = (compare(self.blocks, ids, full, states, bfloat16=chosen) for chosen in (False, True))
        changes = other.loss - exact.loss, other.divergence - exact.divergence
        return max(abs(float(change.mean())) for change in changes)

    def _ids(self, windows: np.ndarray) -> Tensor:
        return torch.as_tensor(windows, device=self.blocks.device)

    def found(self, search: Strategy, block: int) -> Found:
        """Return a search's results in a block, from the checkpoints or from memory.

        Raises:
            LookupError: if the search has not been made.
        """
        key = search.name, block
        if key not in self._open:
            arrays = self.checkpoints(search.name).read(block)
            if arrays is None:
                raise LookupError(f"{search.name} has not been searched in block {block}")
            self._open = {known: found for known, found in self._open.items() if known[1] == block}
            self._open[key] = from_arrays(arrays, self.blocks.architecture, block, self.blocks.device)
        return self._open[key]

    def _pass(
        self, strategies: Sequence[Strategy], ids: Tensor, progress: Progress = lambda done, total: None
    ) -> tuple[Tensor, list[Tensor]]:
        """Compute the head's inputs in full precision and under every strategy, `(windows, T, width)` each."""
        everything = [FULL, *strategies]
        embedded = torch.cat([self.blocks.embed(batch) for batch in in_batches(ids)])
        states = [embedded] * len(everything)
        self.blocks.arguments(ids.shape[1])
        for block in range(len(self.blocks)):
            with self._opened(block, progress):
                for index, strategy in enumerate(everything):
                    if strategy == FULL and index:
                        states[index] = states[0]
                        continue
                    with exchanged(self.blocks.model, self.parameters(strategy, block)):
                        moved = [self.blocks.forward(block, batch) for batch in in_batches(states[index])]
                    states[index] = torch.cat(moved)
        for index, strategy in enumerate(everything):
            # The same object for full precision, which `compare` then does not multiply again.
            states[index] = states[0] if strategy == FULL and index else self._finished(states[index])
        return states[0], states[1:]

    @contextmanager
    def _opened(self, block: int, progress: Progress) -> Iterator[None]:
        """One block, open for a while, with the searches' results that are read in it."""
        with self.blocks.open(block):
            yield
        self._open.clear()
        progress(block + 1, len(self.blocks))

    def quantized(
        self, strategy: Strategy, applied: Applied, progress: Progress = lambda done, total: None
    ) -> Parameters:
        """Every parameter that a strategy changes, by its name, in the model's own layout, dtype and device.

        Args:
            strategy: what is done.
            applied: gets what it scales and clips with.
            progress: called with `(blocks done, blocks)`, after each search too.

        Raises:
            MeasurementError: if a search meets a loss that is NaN or infinite.
        """
        searching, changed = _Searching(self, [strategy]), Parameters()
        for block in range(len(self.blocks)):
            with self._opened(block, progress):
                searching.visit(block, partial(progress, block, len(self.blocks)))
                for name, value in self.parameters(strategy, block, applied).items():
                    changed[name] = value.to(self.blocks.model.get_parameter(name).detach())
        return changed

    def _finished(self, state: Tensor) -> Tensor:
        return torch.cat([self.blocks.finish(batch) for batch in in_batches(state)])

    def parameters(self, strategy: Strategy, block: int, applied: Applied | None = None) -> Parameters:
        """Make an opened block's parameters as a strategy has them, those that it changes.

        Args:
            strategy: what is done.
            block: index of the block.
            applied: gets what the block is scaled and clipped with.
        """

        def found(method: str) -> Found:
            draw = strategy.draw if METHODS[method].draws_searched else 0
            return self.found(Strategy(METHODS[method], strategy.bits, self._text(strategy.text), draw), block)

        model, architecture, draw = self.blocks.model, self.blocks.architecture, strategy.draw
        noted = Applied() if applied is None else applied
        return strategy.method.round(
            Rounding(model, architecture, block, strategy.bits, self.layers, found, draw, noted)
        )

    def searches(self, strategies: Sequence[Strategy]) -> list[Strategy]:
        """List the searches on which strategies depend, each once, in order."""
        listed = [
            Strategy(search.method, search.bits, self._text(search.text), search.draw)
            for strategy in strategies
            for search in strategy.searches()
        ]
        return list(dict.fromkeys(listed))

    def _text(self, name: str) -> str:
        """Name the text set to calibrate on; `matched` is the usual set if it has as many sequences."""
        same = name == "matched" and len(self.texts["matched"]) == len(self.texts[""])
        return "" if same else name


class _Searching:
    """Searches on which strategies depend and that some blocks still lack.

    Args:
        methods: the pass.
        strategies: strategies that will be scored.

    Attributes:
        missing: the searches, with the blocks that lack them.
    """

    def __init__(self, methods: MethodPass, strategies: Sequence[Strategy]) -> None:
        self._pass = methods
        blocks = methods.blocks
        searches = methods.searches(strategies)
        lacking = {
            search: {block for block in range(len(blocks)) if methods.checkpoints(search.name).read(block) is None}
            for search in searches
        }
        self.missing = {search: missing for search, missing in lacking.items() if missing}
        of_text = dict.fromkeys(search.text for search in self.missing if not search.method.own_inputs)
        self._streams = {text: self._stream(text) for text in of_text}
        self._own = {search: self._stream(search.text) for search in self.missing if search.method.own_inputs}

    def _stream(self, text: str) -> BlockStream:
        blocks = self._pass.blocks
        return BlockStream(blocks, blocks.architecture, {text: self._pass.texts[text]}, groups=1)

    def visit(self, block: int, searched: Callable[[], None]) -> None:
        """Make the searches that an opened block lacks, and run the block on all calibration sets.

        Args:
            block: index of the block.
            searched: called after each search.
        """
        for text, stream in self._streams.items():
            stream.begin(block)
            wanted = [s for s, missing in self.missing.items() if s.text == text and block in missing]
            wanted = [search for search in wanted if not search.method.own_inputs]
            if wanted:
                inputs = BlockInputs(stream, block, text, self._pass.arithmetic)
                for search in wanted:
                    self._search(search, block, inputs)
                    searched()
                del inputs
            stream.advance(block)
        for search, stream in self._own.items():
            stream.begin(block)
            if block in self.missing[search]:
                self._search(search, block, BlockInputs(stream, block, search.text, self._pass.arithmetic, calls=False))
                searched()
            with exchanged(self._pass.blocks.model, self._pass.parameters(search, block)):
                stream.advance(block)

    def _search(self, search: Strategy, block: int, inputs: BlockInputs) -> None:
        assert search.method.search is not None
        blocks, layers = self._pass.blocks, self._pass.layers
        at = Calibration(
            blocks.model,
            blocks.architecture,
            block,
            layers.quantizer,
            search.bits,
            inputs,
            lambda method: self._pass.found(Strategy(METHODS[method], search.bits, search.text), block),
            partial(redraw_signs, layers.seed, search.draw) if search.draw else None,
            self._pass.exhaustive,
        )
        found = at.timed(search.method.search)
        self._pass.checkpoints(search.name).write(block, to_arrays(found))
        self._pass._open[search.name, block] = found


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
