"""Searches of methods in an opened block, from its inputs on one text set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from awq_core.architectures.folding import fold_block
from awq_core.architectures.model import Architecture, Fold, applicable_folds, linear, linears_of_block, weight_of
from awq_core.measure.layers.row_errors import LinearRows
from awq_core.measure.methods.block_inputs import BlockInputs, clock
from awq_core.measure.methods.scale_search import OFFICIAL_ALPHAS, Formula, search_group
from awq_core.measure.methods.search_results import SearchResults
from awq_core.quantization.clipping import UNCLIPPED_FAMILIES, search_clipping
from awq_core.quantization.codes import CodedWeight
from awq_core.quantization.gptq import gptq_codes, gptq_operations
from awq_core.quantization.quantizers import AsymmetricGroups, quantize_groups
from awq_core.quantization.scales import official_scales


@dataclass(frozen=True)
class Calibration:
    """Opened block that is being calibrated.

    Attributes:
        model: model with the block open.
        architecture: the model's row of the table.
        block: index of the block.
        quantizer: which rounding.
        bits: precision.
        inputs: inputs of the block on the calibration tokens.
        found: returns the results of another method's search in this block on the same text set, by the method's name.
        signs: returns the signs of a linear's input channels from its name and width, in a redraw; None otherwise.
        exhaustive: whether to try every exponent on every token, as llm-awq does.
    """

    model: Any
    architecture: Architecture
    block: int
    quantizer: AsymmetricGroups
    bits: int
    inputs: BlockInputs
    found: Callable[[str], SearchResults]
    signs: Callable[[str, int], Tensor] | None = None
    exhaustive: bool = False

    def timed(self, search: Callable[[Calibration], SearchResults]) -> SearchResults:
        """Run a search and record its duration, including second moments but not the forward pass before it."""
        device = next(self.inputs.module.parameters()).device
        began, reused = clock(device), self.inputs.reused_seconds
        found = search(self)
        found.seconds = clock(device) - began + self.inputs.seconds + self.inputs.reused_seconds - reused
        return found

    def linears(self) -> Iterator[tuple[str, str, str]]:
        """Iterate over full name, family and site of the block's linears."""
        for entry in linears_of_block(self.architecture, self.block):
            yield entry.name, entry.family, entry.site

    def weight(self, name: str) -> Tensor:
        """Weight `(out, in)` of a linear."""
        return weight_of(linear(self.model, name))


def block_scales(at: Calibration, formula: Formula = "official") -> SearchResults:
    """Search for the scale of every group whose scale folds exactly, by llm-awq's or AutoAWQ's formula."""
    folds = applicable_folds(at.model, at.architecture, at.block)
    return _scales(at, folds, formula)


def grouped_scales(at: Calibration) -> SearchResults:
    """Search for llm-awq's scales, including scales shared by heads under grouped-query attention, in folds' order."""
    every = applicable_folds(at.model, at.architecture, at.block, grouped=True)
    known = {entry.fold: entry for entry in at.found("awq-block").scales}
    further = _scales(at, tuple(fold for fold in every if fold not in known), "official")
    known |= {entry.fold: entry for entry in further.scales}
    return SearchResults([known[fold] for fold in every], operations=further.operations)


def _scales(at: Calibration, folds: tuple[Fold, ...], formula: Formula) -> SearchResults:
    found = SearchResults()
    for fold in folds:
        entry = search_group(
            at.model,
            at.architecture,
            at.block,
            fold,
            at.quantizer,
            at.bits,
            at.inputs,
            formula,
            exhaustive=at.exhaustive,
        )
        found.scales.append(entry)
        inspected = f"{at.architecture.blocks}.{at.block}.{fold.inspected}".rstrip(".")
        inside = sum(
            at.weight(name).numel() * at.inputs.tokens[site]
            for name, _, site in at.linears()
            if f"{name}.".startswith(f"{inspected}.")
        )
        found.operations += 2 * len(OFFICIAL_ALPHAS) * inside
    return found


def site_scales(at: Calibration) -> SearchResults:
    """Search for llm-awq's scale of every site that minimises the summed output error of the linears that read it."""
    found = SearchResults()
    for site in at.architecture.sites:
        magnitude = at.inputs.magnitude_of(site.name)
        moment = at.inputs.second_moment(site.name)
        candidates = torch.stack([official_scales(magnitude, alpha) for alpha in OFFICIAL_ALPHAS]).to(moment.arithmetic)
        losses = np.zeros(len(candidates))
        for name in [name for name, _, where in at.linears() if where == site.name]:
            rows = LinearRows(at.weight(name), moment.arithmetic)
            losses += rows.total_errors(candidates, at.quantizer, at.bits, [moment])[0]
        found.sites[site.name] = candidates[int(losses.argmin())]
    return found


def clip_limits(at: Calibration, *, scaled: bool = True) -> SearchResults:
    """Search for llm-awq's clip limits.

    Args:
        at: the block.
        scaled: whether to clip the weights after folding the scales of `awq-block`, or the original weights.
    """
    scales = at.found("awq-block").scales if scaled else []
    divisors = {site: entry.scales for entry in scales for site in entry.fold.sites}
    weights, _ = fold_block(at.model, at.architecture, at.block, [(entry.fold, entry.scales) for entry in scales])
    found = SearchResults()
    for name, family, site in at.linears():
        if family in UNCLIPPED_FAMILIES:
            continue
        moment = at.inputs.second_moment(site).matrix()
        if site in divisors:
            inverse = divisors[site].to(moment).reciprocal()
            moment = moment * inverse * inverse.unsqueeze(1)
        weight = weights[f"{name}.weight"]
        group_size = at.quantizer.group_size_for(weight.shape[1])
        found.limits[name] = search_clipping(weight, moment, at.bits, group_size)
    return found


def gptq(at: Calibration, *, activation_order: bool = False) -> SearchResults:
    """Run GPTQ on the stacked linears of each site, whose rows share the second moment and are independent."""
    found = SearchResults()
    by_site: dict[str, list[str]] = {}
    for name, _, site in at.linears():
        by_site.setdefault(site, []).append(name)
    for site, names in by_site.items():
        for group in [[name] for name in names] if at.signs else [names]:  # a redraw's signs differ by linear
            weights = [at.weight(name) for name in group]
            rows, stacked = [len(weight) for weight in weights], torch.cat(weights)
            width = stacked.shape[1]
            group_size = at.quantizer.group_size_for(width)
            if not at.inputs.tokens[site]:
                # An expert that no token reached: all columns are dead, and GPTQ would set them to zero.
                nearest = quantize_groups(stacked, at.bits, group_size)
                coded = CodedWeight.of(*nearest, at.bits, stacked.dtype)
            else:
                moment = at.inputs.second_moment(site).matrix()
                if at.signs:
                    signs = at.signs(group[0], width).to(moment)
                    stacked, moment = stacked * signs.to(stacked), moment * signs * signs.unsqueeze(1)
                coded = gptq_codes(stacked, moment, at.bits, group_size, activation_order=activation_order)
                gathered = at.inputs.tokens[site] * width**2  # G is symmetric
                found.operations += gptq_operations(len(stacked), width) + gathered
            found.weights.update(zip(group, coded.split(rows), strict=True))
    return found
