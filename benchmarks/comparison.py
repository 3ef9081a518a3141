"""Comparison of the suite's block-level search with a replay of llm-awq's, in one run: seconds, choices and regrets."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch

from awq_core.architectures.block_stream import Blocks, BlockStream
from awq_core.architectures.model import applicable_folds
from awq_core.measure.methods.block_inputs import BlockInputs
from awq_core.measure.methods.scale_search import OFFICIAL_ALPHAS, FoundScale, search_group
from awq_core.quantization.quantizers import DEPLOYED
from benchmarks import official_search
from benchmarks.clock import Clock
from benchmarks.probes import Probes

GATHERING, SEARCHING = "gathering", "searching"
"""Parts of both searches: recording inputs, and trying exponents."""


@dataclass(frozen=True)
class Choice:
    """Results of both searches for one group at one precision.

    Attributes:
        block: index of the block.
        group: path of the inspected module.
        bits: precision.
        official: exponent that the official search chooses.
        suite: exponent that the suite's search chooses.
        regret: loss of the suite's choice minus the least loss, as a share of the least loss, by the official losses.
        tried: share of all pairs of exponent and token that the suite's search tried.
    """

    block: int
    group: str
    bits: int
    official: float
    suite: float
    regret: float
    tried: float


@dataclass(frozen=True)
class SearchComparison:
    """Comparison of both searches on the same blocks and tokens; durations are sums over blocks and precisions.

    Attributes:
        blocks: number of blocks.
        tokens: number of calibration tokens.
        official_gathering: seconds in which the official search records inputs and outputs.
        official_searching: seconds in which the official search tries exponents.
        gathering: seconds in which the suite's search runs the blocks and stores their inputs.
        searching: seconds in which the suite's search tries exponents.
        choices: results for every group at every precision.
    """

    blocks: int
    tokens: int
    official_gathering: float
    official_searching: float
    gathering: float
    searching: float
    choices: list[Choice]

    def ratios(self) -> dict[str, float]:
        """Ratios of official to suite's seconds (larger is better), and mean and largest regret (smaller is better)."""
        official, own = self.official_gathering + self.official_searching, self.gathering + self.searching
        regrets = [choice.regret for choice in self.choices]
        return {
            "search": official / own,
            "search-alone": self.official_searching / self.searching,
            "regret": mean(regrets),
            "regret-worst": max(regrets),
        }


def compare_searches(
    blocks: Blocks, ids: np.ndarray, bits: tuple[int, ...], arithmetic: torch.dtype, clock: Clock
) -> SearchComparison:
    """Search every block with both searches.

    Args:
        blocks: blocks of a model whose type `official_search` supports.
        ids: calibration token ids `[sequences, length]`.
        bits: precisions.
        arithmetic: dtype of the suite's second moments, which these searches do not use.
        clock: clock of the durations.
    """
    own, official = Probes(clock), Probes(clock)
    choices: list[Choice] = []
    with own.part(GATHERING):
        stream = BlockStream(blocks, blocks.architecture, {"": ids}, groups=1)
    with official.part(GATHERING):
        replay = official_search.Replay(blocks.model, ids)
    for block in range(len(blocks)):
        with blocks.open(block) as module:
            with official.part(GATHERING):
                recorded = replay.record(module)
            with own.part(GATHERING):
                stream.begin(block)
                inputs = BlockInputs(stream, block, "", arithmetic)
            for precision in bits:
                with own.part(SEARCHING):
                    found = [
                        search_group(blocks.model, blocks.architecture, block, fold, DEPLOYED, precision, inputs)
                        for fold in applicable_folds(blocks.model, blocks.architecture, block)
                    ]
                with official.part(SEARCHING):
                    published = official_search.search(recorded, precision)
                choices += [_choice(entry, precision, published[entry.fold.inspected]) for entry in found]
            stream.advance(block)
    return SearchComparison(
        len(blocks),
        ids.size,
        official.seconds[GATHERING],
        official.seconds[SEARCHING],
        own.seconds[GATHERING],
        own.seconds[SEARCHING],
        choices,
    )


def _choice(found: FoundScale, bits: int, published: official_search.Searched) -> Choice:
    losses = published.losses
    chosen, least = losses[OFFICIAL_ALPHAS.index(found.alpha)], min(losses)
    regret = 0.0 if chosen == least else (chosen - least) / least
    tried = mean(found.tried)
    return Choice(found.block, found.fold.inspected, bits, published.alpha, found.alpha, regret, tried)
