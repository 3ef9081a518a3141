"""Blocks of a model with the results of searches in them: each method's weights, one block at a time.

Checkpoints (`awq_core.measure.checkpoints`) store what was found, from which any later pass, over other windows or
after a kill, rounds without searching.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from awq_core.architectures.block_stream import Blocks, BlockStream
from awq_core.architectures.folding import Parameters, exchanged
from awq_core.measure.checkpoints import Checkpoints, CheckpointsInMemory
from awq_core.measure.methods.block_inputs import BlockInputs
from awq_core.measure.methods.block_rounding import Applied, LayerFindings, Rounding, redraw_signs
from awq_core.measure.methods.search_results import SearchResults, from_arrays, to_arrays
from awq_core.measure.methods.searches import Calibration
from awq_core.measure.methods.table import METHODS, Strategy

Progress = Callable[[int, int], None]
CheckpointsByName = Callable[[str], Checkpoints]
"""Function from the name of a search to its checkpoints."""


class CalibratedBlocks:
    """Blocks of a model, each calibrated and rounded by any number of methods.

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
        self._open: dict[tuple[str, int], SearchResults] = {}  # of the last block read, by name of the search

    def found(self, search: Strategy, block: int) -> SearchResults:
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

    @contextmanager
    def opened(self, block: int, progress: Progress) -> Iterator[None]:
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
        searching, changed = Searching(self, [strategy]), Parameters()
        for block in range(len(self.blocks)):
            with self.opened(block, progress):
                searching.visit(block, partial(progress, block, len(self.blocks)))
                for name, value in self.parameters(strategy, block, applied).items():
                    changed[name] = value.to(self.blocks.model.get_parameter(name).detach())
        return changed

    def parameters(self, strategy: Strategy, block: int, applied: Applied | None = None) -> Parameters:
        """Make an opened block's parameters as a strategy has them, those that it changes.

        Args:
            strategy: what is done.
            block: index of the block.
            applied: gets what the block is scaled and clipped with.
        """

        def found(method: str) -> SearchResults:
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


class Searching:
    """Searches on which strategies depend and that some blocks still lack.

    Args:
        calibrated: the blocks.
        strategies: strategies that will be scored.

    Attributes:
        missing: the searches, with the blocks that lack them.
    """

    def __init__(self, calibrated: CalibratedBlocks, strategies: Sequence[Strategy]) -> None:
        self._calibrated = calibrated
        blocks = calibrated.blocks
        searches = calibrated.searches(strategies)
        lacking = {
            search: {block for block in range(len(blocks)) if calibrated.checkpoints(search.name).read(block) is None}
            for search in searches
        }
        self.missing = {search: missing for search, missing in lacking.items() if missing}
        of_text = dict.fromkeys(search.text for search in self.missing if not search.method.own_inputs)
        self._streams = {text: self._stream(text) for text in of_text}
        self._own = {search: self._stream(search.text) for search in self.missing if search.method.own_inputs}

    def _stream(self, text: str) -> BlockStream:
        blocks = self._calibrated.blocks
        return BlockStream(blocks, blocks.architecture, {text: self._calibrated.texts[text]}, groups=1)

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
                inputs = BlockInputs(stream, block, text, self._calibrated.arithmetic)
                for search in wanted:
                    self._search(search, block, inputs)
                    searched()
                del inputs
            stream.advance(block)
        for search, stream in self._own.items():
            stream.begin(block)
            if block in self.missing[search]:
                self._search(
                    search, block, BlockInputs(stream, block, search.text, self._calibrated.arithmetic, calls=False)
                )
                searched()
            with exchanged(self._calibrated.blocks.model, self._calibrated.parameters(search, block)):
                stream.advance(block)

    def _search(self, search: Strategy, block: int, inputs: BlockInputs) -> None:
        assert search.method.search is not None
        blocks, layers = self._calibrated.blocks, self._calibrated.layers
        at = Calibration(
            blocks.model,
            blocks.architecture,
            block,
            layers.quantizer,
            search.bits,
            inputs,
            lambda method: self._calibrated.found(Strategy(METHODS[method], search.bits, search.text), block),
            partial(redraw_signs, layers.seed, search.draw) if search.draw else None,
            self._calibrated.exhaustive,
        )
        found = at.timed(search.method.search)
        self._calibrated.checkpoints(search.name).write(block, to_arrays(found))
        self._calibrated._open[search.name, block] = found
