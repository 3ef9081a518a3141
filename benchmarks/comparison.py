"""The suite's block-level search against the official one, replayed, in one run: seconds, choices, errors."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from awq_core.calibrated import BLOCK, calibrate

from awq_core.architecture import Architecture
from benchmarks import official_search
from benchmarks.clock import Clock
from benchmarks.probes import Probes

GATHERING, SEARCHING = "gathering", "searching"


@dataclass(frozen=True)
class SearchComparison:
    """Both searches of the same blocks, tokens and precision; seconds are those of all blocks.

    Attributes:
        blocks: searched.
        tokens: they were searched on.
        bits: precision.
        official_gathering: seconds to record inputs and outputs.
        official_searching: seconds to search.
        gathering: seconds to run the blocks and gather second moments.
        searching: seconds to search.
        groups: searched, over all blocks.
        same_exponents: groups for which both chose the same exponent.
        official_error: squared relative error of a block's output under the official choices, mean over blocks.
        error: under the suite's.
    """

    blocks: int
    tokens: int
    bits: int
    official_gathering: float
    official_searching: float
    gathering: float
    searching: float
    groups: int
    same_exponents: int
    official_error: float
    error: float

    def ratios(self) -> dict[str, float]:
        """Official over the suite's: larger is better for the suite."""
        official, own = self.official_gathering + self.official_searching, self.gathering + self.searching
        return {
            "search": official / own,
            "search-alone": self.official_searching / self.searching,
            "search-error": self.official_error / self.error,
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def compare_searches(
    model: Any, architecture: Architecture, ids: np.ndarray, bits: int, arithmetic: torch.dtype, clock: Clock
) -> SearchComparison:
    """Search every block both ways.

    Args:
        model: of a type that the official replay knows; the same afterwards.
        architecture: its row of the table.
        ids: calibration tokens `[sequences, length]`.
        bits: precision.
        arithmetic: dtype of the suite's second moments.
        clock: which seconds.
    """
    own = Probes(clock)
    places = {"awq_core.calibrated:Calibrated.timed": lambda *_: SEARCHING}
    with own.installed({}, places), own.part(GATHERING):
        found = calibrate(model, architecture, ids, (bits,), (BLOCK,), arithmetic=arithmetic).scales[BLOCK, bits]
    if own.missing:
        raise RuntimeError(f"the suite's search cannot be timed: {own.missing[0]} is not there any more")
    suite: list[official_search.Choices] = [{} for _ in range(1 + max(entry.block for entry in found))]
    for entry in found:
        suite[entry.block][entry.fold.inspected] = entry.alpha, entry.scales
    official = Probes(clock)
    same, errors = 0, []
    for recorded, choices in zip(official_search.recorded_blocks(model, ids), suite, strict=True):
        with official.part(GATHERING):
            recorded.record()
        with official.part(SEARCHING):
            published = official_search.search(recorded, bits)
        same += sum(published[path][0] == alpha for path, (alpha, _) in choices.items())
        errors.append([official_search.block_error(recorded, c, bits) for c in (published, choices)])
    published_error, own_error = np.mean(errors, axis=0)
    return SearchComparison(
        len(suite),
        ids.size,
        bits,
        official.seconds[GATHERING],
        official.seconds[SEARCHING],
        own.seconds[GATHERING],
        own.seconds[SEARCHING],
        len(found),
        same,
        float(published_error),
        float(own_error),
    )
