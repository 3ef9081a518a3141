"""Pass through a model's blocks with many methods: every block is searched, and then rounded and run by each method.

All blocks are searched first; then each method carries its own held-out hidden states from block to block. A method's
weights exist for one block at a time, so no quantized model is ever in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from awq_core.architectures.block_stream import in_batches
from awq_core.architectures.folding import exchanged
from awq_core.measure.layers.moments import MeasurementError
from awq_core.measure.methods.calibrated_blocks import CalibratedBlocks, Progress, Searching
from awq_core.measure.methods.losses import Scores, compare
from awq_core.measure.methods.table import FULL, Strategy

STATE_BYTES = 2**29
"""Largest size of the hidden states of all methods, in bytes; windows that need more are scored in several turns."""


class MethodPass(CalibratedBlocks):
    """Calibration and scoring of any number of methods in one pass; for its arguments see `CalibratedBlocks`."""

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
        searching = Searching(self, strategies)
        passes = int(bool(searching.missing)) + len(turns)

        def step(before: int, done: int, total: int) -> None:
            progress(before * total + done, passes * total)

        # Before all turns, because searches and the states of all methods together would take the most memory.
        for block in range(len(self.blocks)) if searching.missing else ():
            with self.opened(block, partial(step, 0)):
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

    def _pass(
        self, strategies: Sequence[Strategy], ids: Tensor, progress: Progress = lambda done, total: None
    ) -> tuple[Tensor, list[Tensor]]:
        """Compute the head's inputs in full precision and under every strategy, `(windows, T, width)` each."""
        everything = [FULL, *strategies]
        embedded = torch.cat([self.blocks.embed(batch) for batch in in_batches(ids)])
        states = [embedded] * len(everything)
        self.blocks.arguments(ids.shape[1])
        for block in range(len(self.blocks)):
            with self.opened(block, progress):
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

    def _finished(self, state: Tensor) -> Tensor:
        return torch.cat([self.blocks.finish(batch) for batch in in_batches(state)])
