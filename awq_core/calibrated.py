"""Calibrating a model block by block: the scale searches, the clip search and GPTQ, from one pass of the tokens.

Blocks are searched in sequence on full-precision inputs, as llm-awq does; GPTQ works from the same second moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from awq_core.architecture import Architecture, Fold, applicable_folds, linear, weight_of
from awq_core.block_inputs import BlockInputs
from awq_core.block_search import Formula, FoundScale, search_group
from awq_core.calibration_results import Calibrated, CalibrationCost, block_arrays, restored_block
from awq_core.clipping import UNCLIPPED_FAMILIES, search_clipping
from awq_core.coded_weights import CodedWeight, CodedWeights
from awq_core.folding import fold_block
from awq_core.gptq import gptq_codes, gptq_operations
from awq_core.kept_blocks import NOTHING_KEPT, KeptBlocks
from awq_core.quantizer import deployed_group_size, quantize_groups
from awq_core.streaming import BlockStream

__all__ = [
    "BLOCK",
    "CLIP",
    "DUO",
    "GPTQ",
    "GPTQ_ORDER",
    "GROUPED",
    "METHODS",
    "Calibrated",
    "CalibrationCost",
    "calibrate",
]

BLOCK, CLIP, DUO, GROUPED = "awq-block", "awq-block-clip", "awq-duo", "awq-grouped"
GPTQ, GPTQ_ORDER = "gptq", "gptq-order"
METHODS = (BLOCK, CLIP, DUO, GROUPED, GPTQ, GPTQ_ORDER)
"""What can be calibrated: llm-awq's scales, the same with its clipping, AutoAWQ's scales, llm-awq's with the
key-value heads' averaged scale at o, GPTQ, and GPTQ in the order of the activations."""

USING_MOMENTS = {CLIP, GPTQ, GPTQ_ORDER}
"""What works from the second moments of every site."""


def calibrate(
    model: Any,
    architecture: Architecture,
    calibration: np.ndarray,
    bits: tuple[int, ...],
    methods: tuple[str, ...] = METHODS,
    *,
    arithmetic: torch.dtype = torch.float32,
    exhaustive: bool = False,
    first_blocks: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    kept: KeptBlocks = NOTHING_KEPT,
) -> Calibrated:
    """Calibrate every block, at every precision, with every method.

    Args:
        model: unmodified, in evaluation mode; it is the same afterwards.
        architecture: its row of the table.
        calibration: token ids `[sequences, length]`.
        bits: precisions.
        methods: of `METHODS`; clipping needs `awq-block`, and so does `awq-grouped`.
        arithmetic: dtype of second moments and GPTQ.
        exhaustive: try every exponent on every token, as llm-awq does.
        first_blocks: calibrate so many blocks from the first on and no more; None for all.
        progress: called with `(blocks done, blocks)`.
        kept: where each block's results are kept; blocks that it holds, of the same calibration, are not measured.
    """
    stream = BlockStream(model, architecture, {"calibration": calibration}, groups=1)
    result = Calibrated()
    behind: list[int] = []  # kept blocks that the stream has not passed yet: it need not if no block comes after them
    blocks = stream.blocks if first_blocks is None else min(first_blocks, stream.blocks)
    for block, module in enumerate(stream.modules[:blocks]):
        arrays = kept.read(block)
        if arrays is None:
            while behind:
                stream.skip(behind.pop(0))
            stream.begin(block)
            inputs = BlockInputs(
                stream,
                block,
                arithmetic,
                _searched(model, architecture, block, methods),
                moments=bool(USING_MOMENTS & {*methods}),
            )
            found = Calibrated()
            _Block(model, architecture, block, inputs, bits, found, stream.device, exhaustive).calibrate(methods)
            kept.write(block, block_arrays(found))
            stream.advance(block)
        else:
            found = restored_block(arrays, architecture, block, next(module.parameters()).device)
            behind.append(block)
        result.add(found)
        progress(block + 1, blocks)
    return result


def _searched(model: Any, architecture: Architecture, block: int, methods: tuple[str, ...]) -> tuple[Fold, ...]:
    """The groups whose scale some method searches."""
    if not {BLOCK, DUO, GROUPED} & {*methods}:
        return ()
    return applicable_folds(model, architecture, block, grouped=GROUPED in methods)


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

    def calibrate(self, methods: tuple[str, ...]) -> None:
        """With every method; what is found is added to the result."""
        self.search_scales(methods)
        if CLIP in methods:
            self.search_clipping()
        for method in (GPTQ, GPTQ_ORDER):
            if method in methods:
                self.run_gptq(method)

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
        for site, names in by_site.items():
            weights = [weight_of(linear(self.model, name)) for name in names]
            rows, stacked = [len(weight) for weight in weights], torch.cat(weights)
            width = stacked.shape[1]
            group_size, ordered = deployed_group_size(width), method == GPTQ_ORDER
            if self.inputs.tokens[site] == 0:
                # An expert that no calibration token reached: all its columns are dead, and GPTQ would empty it.
                nearest = [quantize_groups(stacked, bits, group_size) for bits in self.bits]
                coded = [
                    CodedWeight.of(*each, bits, stacked.dtype) for each, bits in zip(nearest, self.bits, strict=True)
                ]
            else:
                moment = self.inputs.second_moments[site]
                with self.result.timed(method, self.device) as cost:
                    coded = gptq_codes(stacked, moment, self.bits, group_size, activation_order=ordered)
                cost.operations += gptq_operations(len(stacked), width, len(self.bits))
            for bits, found in zip(self.bits, coded, strict=True):
                weights_of_method = self.result.weights.setdefault((method, bits), CodedWeights())
                weights_of_method.coded.update(zip(names, found.split(rows), strict=True))

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
        if self.inputs.by_moment(fold):
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
