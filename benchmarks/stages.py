"""Measuring one model as `fixtures.measuring` does, stage by stage, every stage timed and held against its work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from awq_core.calibrated import BLOCK, CLIP, DUO, GPTQ, GPTQ_ORDER, GROUPED, Calibrated
from awq_core.losses import measure_losses
from awq_core.model_level import ModelTokens, calibrate_model
from awq_core.strategies import Strategies, Strategy
from torch import Tensor, nn

from awq_core.architecture import Architecture, blocks_of
from awq_core.layers import measure_layers
from awq_core.measured import BITS, JUDGED_BITS
from awq_core.second_moment import SecondMoment
from awq_core.streaming import BlockStream
from awq_core.traffic import measure_traffic
from benchmarks import operations
from benchmarks.clock import Clock
from benchmarks.machine import peak_memory
from benchmarks.model_shape import ModelShape, SearchedGroup, searched_groups, shape_of
from benchmarks.operations import Work
from benchmarks.probes import Probes
from fixtures.measuring import TRAFFIC_TWINS, TWIN_SEEDS, ModelMeasurement
from fixtures.models.work import STRATEGIES

FORWARD = "block forward"
HEAD = "head and divergence"
RUNS = ("layers", "traffic", "calibrating", "losses")
"""What `fixtures.measuring` runs on a model; its untrained twins go through the first two once more."""

FORWARD_PLACE = "awq_core.streaming:BlockStream.forward"
PLACES: dict[str, dict[str, str]] = {
    "layers": {
        "awq_core.layers:BlockSites": "gathering moments",
        "awq_core.layers:exhaustive_errors": "layer grid",
        "awq_core.layers:raced_errors": "layer grid",
        "awq_core.linear_errors:measure_mechanism": "mechanism",
        "awq_core.layers:summed_by_group": "replay by group",
    },
    "traffic": {"awq_core.traffic:_Traffic._gather": "gathering moments"},
    "calibrating": {"awq_core.calibrated:BlockInputs": "gathering moments"},
    "losses": {"awq_core.losses:_final_hidden": FORWARD, "awq_core.losses:_score": HEAD},
}
"""Where the parts of a run are in the suite."""


def _of_product(left: Tensor, right: Tensor) -> tuple[torch.dtype, int]:
    """Operations of `(m, k) @ (n, k).T`."""
    return left.dtype, 2 * left.shape[0] * left.shape[1] * right.shape[0]


def _of_short_errors(moment: SecondMoment, rows: Tensor) -> tuple[torch.dtype, int]:
    """Operations in bfloat16; those in full precision are counted product by product."""
    return torch.bfloat16, moment.short * rows[0].numel() * sum(
        2 * (block.stop - block.start) * block.stop for block in moment.blocks
    )


COUNTED: dict[str, Callable[..., tuple[torch.dtype, int]]] = {
    "awq_core.second_moment:product_with_rows": _of_product,
    "awq_core.group_replay:product_with_rows": _of_product,
    "awq_core.second_moment:SecondMoment.row_errors": _of_short_errors,
}
"""Products that are counted as they are made: their number depends on what exponents are ruled out early."""

REMAINDER = {"layers": "rest", "traffic": "errors", "calibrating": "rest", "losses": "quantized weights"}
"""What is left of a run when its parts are taken out."""

METHODS = {
    BLOCK: "block search",
    DUO: "block search, AutoAWQ's scales",
    GROUPED: "block search, o averaged",
    CLIP: "clip search",
    GPTQ: "GPTQ",
    GPTQ_ORDER: "GPTQ, activation order",
}

KINDS_OF_STRATEGY = ("full", "rtn-4", "awq-linear-4", "awq-block-4", "awq-block-clip-4", "gptq-4")
"""Strategies that are timed: one of each way to make parameters. The suite scores ten times as many."""


@dataclass(frozen=True)
class Stage:
    """One stage, measured.

    Attributes:
        run: which of `RUNS`.
        name: what was done.
        seconds: by the clock.
        work: what was done: products as counted where they are, else by formula; None for what a run does beside its
            parts.
        definition: operations by formula: what trying everything would take.
        peak: bytes of memory at most in use up to the end of its run.
    """

    run: str
    name: str
    seconds: float
    work: Work | None
    definition: int | None
    peak: dict[str, int]


@dataclass
class StageRuns:
    """The runs of one model.

    Args:
        measurement: the model with its tokens, opened and not measured.
        blocks: so many of its blocks alone; all where None.
        clock: which seconds.
        report: called with a line before each run.

    Attributes:
        missing: places of `PLACES` that are not in the suite any more: their seconds count for the rest of their run.
    """

    measurement: ModelMeasurement
    blocks: int | None
    clock: Clock
    report: Callable[[str], None]

    def __post_init__(self) -> None:
        self.model = self.measurement.model()
        self.architecture = self.measurement.architecture
        self.tokens = self.measurement.tokens
        self.arithmetic = self.measurement.layer_settings.arithmetic
        self.missing: list[str] = []
        with first_blocks(self.model, self.architecture, self.blocks):
            self.shape = shape_of(self.model, self.architecture, self.arithmetic)
            self.groups = searched_groups(self.model, self.architecture, self.shape.linears)
            every = searched_groups(self.model, self.architecture, self.shape.linears, grouped=True)
        self.averaged = tuple(group for group in every if group not in self.groups)

    def measure(self, runs: tuple[str, ...]) -> list[Stage]:
        """Run what was asked for, and what it needs, in order."""
        found: list[Stage] = []
        with first_blocks(self.model, self.architecture, self.blocks):
            layers: Any = None
            if {"layers", "traffic", "losses"} & set(runs):
                layers, stages = self._timed("layers", self._layers)
                found += stages
            if "traffic" in runs:
                _, stages = self._timed("traffic", lambda: self._traffic(layers[0], layers[1]))
                found += stages
            calibrated: dict[str, Calibrated] = {}
            if {"calibrating", "losses"} & set(runs):
                calibrated, stages = self._timed("calibrating", self._calibrate)
                found += stages
            if "losses" in runs:
                _, stages = self._timed("losses", lambda: self._losses(layers[0], layers[1], calibrated[""]))
                found += stages
        return found

    def _timed(self, run: str, action: Callable[[], Any]) -> tuple[Any, list[Stage]]:
        self.report(run)
        probes = Probes(self.clock)
        places = {**PLACES[run], FORWARD_PLACE: FORWARD}
        managers = {"awq_core.calibrated:Calibrated.timed": lambda _, method, device: METHODS[method]}
        with probes.installed(places, managers, COUNTED), probes.part(REMAINDER[run]):
            result = action()
        self.missing += probes.missing
        work, peak = self._work(run), peak_memory(self.clock.device)
        stages = []
        for name in [*work, *(name for name in probes.seconds if name not in work)]:
            if name in probes.seconds:
                formula = work.get(name)
                definition = None if formula is None else formula.operations
                if formula is not None and self.measurement.layer_settings.raced and name in probes.products:
                    formula = Work(probes.products[name], formula.traffic)
                stages.append(Stage(run, name, probes.seconds[name], formula, definition, peak))
        return result, stages

    def _work(self, run: str) -> dict[str, Work]:
        """The work of each part, in the order in which parts are shown."""
        shape, heldout = self.shape, self.tokens.heldout
        if run == "layers":
            splits = list(self._layer_tokens().values())
            return {
                FORWARD: operations.total(_forward(shape, split) for split in splits),
                "gathering moments": operations.gathering(shape, sum(split.size for split in splits)),
                "layer grid": operations.layer_grid(shape, len(self.measurement.layer_settings.bits)),
                "mechanism": operations.mechanism(shape),
                "replay by group": operations.group_replay(shape, splits[-1].size),
            }
        if run == "traffic":
            splits = list(self._traffic_tokens().values())
            return {
                FORWARD: operations.total(_forward(shape, split) for split in splits),
                "gathering moments": operations.gathering(shape, sum(split.size for split in splits)),
                REMAINDER[run]: operations.traffic_errors(shape),
            }
        if run == "calibrating":
            return self._calibrating_work()
        count = len(KINDS_OF_STRATEGY)
        return {
            FORWARD: _forward(shape, heldout).times(count),
            HEAD: operations.head(shape, heldout.size).times(count),
            REMAINDER[run]: operations.rounding(shape).times(count - 1),
        }

    def _calibrating_work(self) -> dict[str, Work]:
        """Every method on the usual tokens; the block search on fewer, foreign and as many usual ones too, and GPTQ on
        the last two."""
        shape, judged, tokens = self.shape, len(JUDGED_BITS), self._model_tokens()
        usual, others = tokens.calibration, [tokens.foreign]
        if len(tokens.foreign) != len(usual):
            others.append(tokens.matched)
        every = [usual, tokens.few, *others]

        def searching(groups: tuple[SearchedGroup, ...], sets: list[Any]) -> Work:
            return operations.total(operations.block_search(shape, groups, *_size(ids), judged) for ids in sets)

        return {
            FORWARD: operations.total(_forward(shape, ids) for ids in every),
            "gathering moments": operations.gathering(shape, sum(ids.size for ids in every)),
            METHODS[BLOCK]: searching(self.groups, every),
            METHODS[DUO]: searching(self.groups, [usual]),
            METHODS[GROUPED]: searching(self.averaged, [usual]),
            METHODS[CLIP]: operations.clip_search(shape, judged),
            METHODS[GPTQ]: operations.gptq(shape, judged).times(1 + len(others)),
            METHODS[GPTQ_ORDER]: operations.gptq(shape, judged),
        }

    def _layer_tokens(self) -> dict[str, Any]:
        return self.measurement.plan.tokens(self.tokens.calibration, self.tokens.heldout)

    def _traffic_tokens(self) -> dict[str, Any]:
        kinds = self.measurement.traffic.splits()
        return self.measurement.plan.traffic(self.tokens.calibration, self.tokens.heldout, kinds, of_twin=False)

    def _layers(self) -> tuple[Any, Any]:
        settings = self.measurement.layer_settings
        stream = BlockStream(self.model, self.architecture, self._layer_tokens(), settings.groups)
        return measure_layers(stream, settings)

    def _traffic(self, channels: Any, errors: Any) -> None:
        stream = BlockStream(self.model, self.architecture, self._traffic_tokens(), groups=1)
        plan = self.measurement.plan
        measure_traffic(stream, channels, errors, plan.traffic_settings(of_twin=False))

    def _calibrate(self) -> dict[str, Calibrated]:
        return calibrate_model(self.model, self.architecture, self._model_tokens(), self.arithmetic)

    def _model_tokens(self) -> ModelTokens:
        return ModelTokens(self.tokens.calibration, self.measurement.traffic.foreign, self.tokens.heldout)

    def _losses(self, channels: Any, errors: Any, found: Calibrated) -> None:
        made = Strategies(self.model, self.architecture, channels, errors, self.measurement.settings.seed)
        listed: list[Strategy] = made.standard(JUDGED_BITS, found)
        chosen = [strategy for strategy in listed if strategy.name in KINDS_OF_STRATEGY]
        measure_losses(self.model, chosen, self.tokens.heldout, {})


def _forward(shape: ModelShape, ids: Any) -> Work:
    return operations.block_forward(shape, *_size(ids))


def _size(ids: Any) -> tuple[int, int]:
    """Tokens, and tokens in a sequence, of `[sequences, length]`."""
    return ids.size, ids.shape[1]


@contextmanager
def first_blocks(model: Any, architecture: Architecture, count: int | None) -> Iterator[None]:
    """The model with its first blocks alone, for a while; with all of them where `count` is None."""
    every = blocks_of(model, architecture)
    if count is None or count >= len(every):
        yield
        return
    model.set_submodule(architecture.blocks, nn.ModuleList(every[:count]))
    layers = model.config.num_hidden_layers
    model.config.num_hidden_layers = count
    try:
        yield
    finally:
        model.config.num_hidden_layers = layers
        model.set_submodule(architecture.blocks, every)


def times_in_whole(stage: Stage, blocks: int, measured: int) -> float:
    """How often a whole measurement does what a stage did: twins, the strategies not timed, the blocks left out.

    Args:
        stage: as measured.
        blocks: of the model.
        measured: of them, how many were.
    """
    twins, scored = len(TWIN_SEEDS), STRATEGIES / len(KINDS_OF_STRATEGY)
    by_run = {"layers": 1 + twins, "traffic": 1 + len(TRAFFIC_TWINS), "calibrating": 1, "losses": scored}
    count = by_run[stage.run]
    if stage.name == "layer grid":
        count = 1 + twins * len(JUDGED_BITS) / len(BITS)  # twins are measured at the judged precisions alone
    return count if stage.name == HEAD else count * blocks / measured
