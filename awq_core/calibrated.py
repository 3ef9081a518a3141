"""Calibrating a model block by block: the scale searches, the clip search and GPTQ, from one pass of the tokens.

Blocks are searched in sequence on full-precision inputs, as llm-awq does; GPTQ works from the same second moments.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from awq_core.architecture import Architecture, Fold, applicable_folds, linear, weight_of
from awq_core.block_inputs import BlockInputs
from awq_core.block_search import Formula, FoundScale, search_group
from awq_core.clipping import UNCLIPPED_FAMILIES, search_clipping
from awq_core.folding import fold_block
from awq_core.gptq import gptq, gptq_operations
from awq_core.quantizer import deployed_group_size, round_to_nearest
from awq_core.streaming import BlockStream

BLOCK, CLIP, DUO, GROUPED = "awq-block", "awq-block-clip", "awq-duo", "awq-grouped"
GPTQ, GPTQ_ORDER = "gptq", "gptq-order"
METHODS = (BLOCK, CLIP, DUO, GROUPED, GPTQ, GPTQ_ORDER)
"""What can be calibrated: llm-awq's scales, the same with its clipping, AutoAWQ's scales, llm-awq's with the
key-value heads' averaged scale at o, GPTQ, and GPTQ in the order of the activations."""


@dataclass
class CalibrationCost:
    """What calibrating with one method took, over all blocks and precisions.

    Attributes:
        seconds: wall-clock time, without gathering the second moments, which all share.
        operations: floating-point operations of its matrix products, by count.
    """

    seconds: float = 0.0
    operations: int = 0


@dataclass
class Calibrated:
    """Everything that calibrating found.

    Attributes:
        scales: by method and bits, the found scales of all blocks in order.
        limits: by bits and linear, the clip limits `(out, groups)` of the folded weights.
        weights: by method and bits, GPTQ's dequantized weights `(out, in)` by linear.
        costs: by method.
    """

    scales: dict[tuple[str, int], list[FoundScale]] = field(default_factory=dict)
    limits: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    weights: dict[tuple[str, int], dict[str, Tensor]] = field(default_factory=dict)
    costs: dict[str, CalibrationCost] = field(default_factory=dict)

    def only(self, methods: tuple[str, ...]) -> Calibrated:
        """The part that some methods found, without their clip limits."""
        return Calibrated(
            {key: value for key, value in self.scales.items() if key[0] in methods},
            {},
            {key: value for key, value in self.weights.items() if key[0] in methods},
        )

    @contextmanager
    def timed(self, method: str, device: torch.device) -> Iterator[CalibrationCost]:
        """Add the time spent inside to a method's cost."""
        cost = self.costs.setdefault(method, CalibrationCost())
        _wait(device)
        began = time.perf_counter()
        yield cost
        _wait(device)
        cost.seconds += time.perf_counter() - began


def calibrate(
    model: Any,
    architecture: Architecture,
    calibration: np.ndarray,
    bits: tuple[int, ...],
    methods: tuple[str, ...] = METHODS,
    *,
    arithmetic: torch.dtype = torch.float32,
    exhaustive: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibrated:
    """Calibrate every block, at every precision, with every method.

    Args:
        model: unmodified, in evaluation mode; it is the same afterwards.
        architecture: its row of the table.
        calibration: token ids `[sequences, length]`.
        bits: precisions.
        methods: of `METHODS`; clipping needs `awq-block`, and so does `awq-grouped`.
        arithmetic: dtype of second moments and GPTQ.
        exhaustive: try every exponent on every sequence, as llm-awq does.
        progress: called with `(blocks done, blocks)`.
    """
    stream = BlockStream(model, architecture, {"calibration": calibration}, groups=1)
    result = Calibrated()
    for block in range(stream.blocks):
        stream.begin(block)
        inputs = BlockInputs(stream, block, arithmetic)
        calibration_of_block = _Block(model, architecture, block, inputs, bits, result, stream.device, exhaustive)
        calibration_of_block.search_scales(methods)
        if CLIP in methods:
            calibration_of_block.search_clipping()
        for method in (GPTQ, GPTQ_ORDER):
            if method in methods:
                calibration_of_block.run_gptq(method)
        stream.advance(block)
        progress(block + 1, stream.blocks)
    return result


@dataclass
class _Block:
    """One block while it is being calibrated."""

    model: Any
    architecture: Architecture
    block: int
    inputs: BlockInputs
    bits: tuple[int, ...]
    result: Calibrated
    device: torch.device
    exhaustive: bool

    def search_scales(self, methods: tuple[str, ...]) -> None:
        exact = applicable_folds(self.model, self.architecture, self.block)
        every = applicable_folds(self.model, self.architecture, self.block, grouped=True)
        for bits in self.bits:
            found: dict[str, list[FoundScale]] = {}
            if BLOCK in methods:
                with self.result.timed(BLOCK, self.device) as cost:
                    found[BLOCK] = [self._search(fold, bits) for fold in exact]
                cost.operations += sum(map(self._search_operations, found[BLOCK]))
            if GROUPED in methods and len(every) > len(exact):
                with self.result.timed(GROUPED, self.device):
                    # In the table's order; what folds exactly has been found already.
                    known = {entry.fold: entry for entry in found[BLOCK]}
                    found[GROUPED] = [known[fold] if fold in known else self._search(fold, bits) for fold in every]
            if DUO in methods:
                with self.result.timed(DUO, self.device):
                    found[DUO] = [self._search(fold, bits, "duo") for fold in exact]
            for method, scales in found.items():
                self.result.scales.setdefault((method, bits), []).extend(scales)

    def search_clipping(self) -> None:
        """Clip limits for the weights as `awq-block` folds them."""
        for bits in self.bits:
            scales = [entry for entry in self.result.scales[BLOCK, bits] if entry.block == self.block]
            divisors = {site: entry.scales for entry in scales for site in entry.fold.sites}
            with self.result.timed(CLIP, self.device):
                weights, _ = fold_block(
                    self.model, self.architecture, self.block, [(entry.fold, entry.scales) for entry in scales]
                )
                limits = self.result.limits.setdefault(bits, {})
                for name, family, site in self._linears():
                    if family in UNCLIPPED_FAMILIES:
                        continue
                    moment = self.inputs.second_moments[site]
                    if site in divisors:
                        inverse = divisors[site].to(moment).reciprocal()
                        moment = moment * inverse * inverse.unsqueeze(1)
                    weight = weights[f"{name}.weight"]
                    limits[name] = search_clipping(weight, moment, bits, deployed_group_size(weight.shape[1]))

    def run_gptq(self, method: str) -> None:
        """GPTQ on the linears of each site stacked: their rows share the second moment and do not mix."""
        by_site: dict[str, list[str]] = {}
        for name, _, site in self._linears():
            by_site.setdefault(site, []).append(name)
        for bits in self.bits:
            found = self.result.weights.setdefault((method, bits), {})
            for site, names in by_site.items():
                weights = [weight_of(linear(self.model, name)) for name in names]
                moment = self.inputs.second_moments[site]
                width = weights[0].shape[1]
                rows = [len(weight) for weight in weights]
                if self.inputs.tokens[site] == 0:
                    # An expert that no calibration token reached: all its columns are dead, and GPTQ would empty it.
                    quantized = round_to_nearest(torch.cat(weights), "asym-g128", bits)
                else:
                    group_size, ordered = deployed_group_size(width), method == GPTQ_ORDER
                    with self.result.timed(method, self.device) as cost:
                        quantized = gptq(torch.cat(weights), moment, bits, group_size, activation_order=ordered)
                    cost.operations += gptq_operations(sum(rows), width)
                # Kept off the device until their turn: there are as many copies of the model as calibrations.
                found.update(zip(names, quantized.cpu().split(rows), strict=True))

    def _search(self, fold: Fold, bits: int, formula: Formula = "official") -> FoundScale:
        return search_group(
            self.model, self.architecture, self.block, fold, bits, self.inputs, formula, exhaustive=self.exhaustive
        )

    def _linears(self) -> Iterator[tuple[str, str, str]]:
        """`(full name, family, site)` of every linear of the block."""
        for site in self.architecture.sites:
            for family, path in site.linears:
                yield f"{self.architecture.blocks}.{self.block}.{path}", family, site.name

    def _search_operations(self, entry: FoundScale) -> int:
        """Operations of one group's search: the inspected module replayed, or products with `G`, for what was tried."""
        fold, tried = entry.fold, sum(entry.tried)
        if fold.inspected not in self.inputs.modules:
            out_features, in_features = weight_of(
                linear(self.model, f"{self.architecture.blocks}.{self.block}.{fold.inspected}")
            ).shape
            return round(tried * 2 * out_features * in_features**2)
        inside = sum(
            weight_of(linear(self.model, name)).numel() * self.inputs.tokens[site]
            for name, _, site in self._linears()
            if name.startswith(f"{self.architecture.blocks}.{self.block}.{fold.inspected}".rstrip("."))
        )
        return round(tried * 2 * inside)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
