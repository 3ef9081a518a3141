"""Stages of measuring one model as `fixtures/measuring/` does, with their durations and operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from awq_core.architectures.block_stream import Blocks, BlockStream
from awq_core.architectures.model import blocks_of
from awq_core.measure.layers.instrument import measure_layers
from awq_core.measure.layers.traffic import measure_traffic
from awq_core.measure.methods.block_rounding import LayerFindings
from awq_core.measure.methods.one_pass import MethodPass
from awq_core.measure.methods.table import FULL, METHODS, Strategy
from awq_core.measured import JUDGED_BITS
from awq_core.quantization.matmul import multiplies_bfloat16
from benchmarks.clock import Clock
from benchmarks.machine import peak_memory
from benchmarks.probes import Part, Probes
from fixtures.measuring.model import ModelMeasurement
from fixtures.texts.calibration import calibration_texts

RUNS = ("layers", "traffic", "methods")
"""Runs of `fixtures.measuring.model` on a model; untrained twins go through the first two as well."""

FORWARD, HEAD, REST = "block forward", "head and losses", "rest"
"""Names of stages."""

PLACES: dict[str, Part] = {
    "awq_core.architectures.block_stream:Blocks.forward": FORWARD,
    "awq_core.measure.layers.moments:ChannelMoments.update": "moments",
    "awq_core.measure.layers.second_moment:SecondMoment.update": "second moments",
    "awq_core.measure.layers.instrument:exhaustive_errors": "error grid",
    "awq_core.measure.layers.instrument:raced_errors": "error grid",
    "awq_core.measure.layers.traffic:_Traffic._errors": "error grid",
    "awq_core.measure.layers.errors:measure_mechanism": "mechanism",
    "awq_core.measure.layers.instrument:summed_by_group": "replay by group",
    "awq_core.measure.methods.calibrated_blocks:Searching._search": lambda made, search, *_: (
        f"search: {search.method.name}"
    ),
    "awq_core.measure.methods.calibrated_blocks:CalibratedBlocks.parameters": "rounding",
    "awq_core.measure.methods.one_pass:compare": HEAD,
}
"""Stage for which each function of the suite counts, by the function's place."""


@dataclass(frozen=True)
class Stage:
    """Measured costs of one stage.

    Attributes:
        run: run of the stage, one of `RUNS`.
        name: name of the stage.
        seconds: duration in seconds.
        products: operations of its matrix products by dtype.
        peak: peak memory up to the end of its run, in bytes.
    """

    run: str
    name: str
    seconds: float
    products: Counter[torch.dtype]
    peak: dict[str, int]

    @property
    def operations(self) -> int:
        """Operations of all dtypes."""
        return sum(self.products.values())


@dataclass
class StageRuns:
    """Timed runs of one model.

    Args:
        measurement: the model with its tokens.
        blocks: blocks of the model.
        clock: clock of the durations.
        report: called with a line before each run.

    Attributes:
        missing: places of `PLACES` that no longer exist in the suite; their time is counted for their callers.
    """

    measurement: ModelMeasurement
    blocks: Blocks
    clock: Clock
    report: Callable[[str], None]

    def __post_init__(self) -> None:
        self.missing: list[str] = []

    def measure(self, runs: tuple[str, ...]) -> list[Stage]:
        """Time the given runs, after `layers`, on which all others depend."""
        if not runs:
            return []
        (channels, errors), found = self._timed("layers", self._layers)
        if "traffic" in runs:
            found += self._timed("traffic", lambda: self._traffic(channels, errors))[1]
        if "methods" in runs:
            found += self._timed("methods", lambda: self._methods(channels, errors))[1]
        return found

    def _timed(self, run: str, action: Callable[[], Any]) -> tuple[Any, list[Stage]]:
        self.report(run)
        probes = Probes(self.clock)
        with probes.installed(PLACES), probes.part(REST):
            result = action()
        self.missing = probes.missing
        peak = peak_memory(self.clock.device)
        return result, [Stage(run, name, spent, probes.products[name], peak) for name, spent in probes.seconds.items()]

    def _layers(self) -> tuple[Any, Any]:
        settings, plan, tokens = self.measurement.layer_settings, self.measurement.plan, self.measurement.tokens
        split = plan.tokens(tokens.calibration, tokens.heldout)
        return measure_layers(BlockStream(self.blocks, self.blocks.architecture, split, settings.groups), settings)

    def _traffic(self, channels: Any, errors: Any) -> None:
        plan, tokens = self.measurement.plan, self.measurement.tokens
        split = plan.traffic(tokens.calibration, tokens.heldout, self.measurement.traffic.splits(), of_twin=False)
        stream = BlockStream(self.blocks, self.blocks.architecture, split, groups=1)
        measure_traffic(stream, channels, errors, plan.traffic_settings(of_twin=False))

    def _methods(self, channels: Any, errors: Any) -> None:
        """Score the methods that claims need, each once at the lowest precision, on the windows of the first look."""
        measurement = self.measurement
        texts = calibration_texts(measurement.tokens.calibration, measurement.traffic.foreign)
        layers = LayerFindings.of(channels, errors, JUDGED_BITS, measurement.settings.seed)
        made = MethodPass(self.blocks, texts, layers, measurement.layer_settings.arithmetic)
        every = [method for method in METHODS.values() if not method.shown]
        listed = [FULL, *(Strategy(method, min(JUDGED_BITS)) for method in every)]
        windows = measurement.tokens.heldout[np.sort(measurement.looks.new_windows(0))]
        made.score(listed, windows, bfloat16=multiplies_bfloat16(self.blocks.device))


def keep_first(blocks: Blocks, count: int | None) -> None:
    """Remove all but the first `count` blocks from a model; None for all."""
    if count is None or count >= len(blocks):
        return
    model, path = blocks.model, blocks.architecture.blocks
    model.set_submodule(path, nn.ModuleList(list(blocks.modules)[:count]))
    model.config.num_hidden_layers = count
    blocks.modules = blocks_of(model, blocks.architecture)
