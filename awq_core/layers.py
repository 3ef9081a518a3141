"""The layer-level instrument: channel moments and output errors of every linear, block by block.

Each block is passed over twice for each split. The first pass gathers moments and `G = X^T X` of every input
site; the second counts what lies beyond six standard deviations (which needs the pooled deviation first) and
replays the few candidates whose error is wanted for each group of held-out windows. At most one block's
second moments are alive, whatever the number of tokens.

An expert of a mixture to which no token of a split was routed has magnitudes, moments and errors of 0 there: its
channels are all alike, its best exponent is 0 (round-to-nearest), and its reduction 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from awq_core.architecture import Role
from awq_core.importance import enrichment, importance
from awq_core.layer_datasets import channels_dataset, errors_dataset
from awq_core.measured import ALPHAS, BITS, GROUPS, JUDGED_BITS, QUANTIZERS, SPLITS
from awq_core.mechanism import measure_mechanism
from awq_core.moments import ChannelMoments, MeasurementError
from awq_core.output_error import error_grid
from awq_core.quantizer import QuantizerName
from awq_core.scales import linear_scales, scaled_round_to_nearest
from awq_core.sources import LayerSource, LinearWeights

OUTLIER_SIGMA = 6.0
CHOICES = ("rtn", "best")
REPLAY = torch.float32
"""Replayed outputs are only squared and summed (in float64): single precision is exact to about 1e-6."""


@dataclass(frozen=True)
class LayerSettings:
    """What the layer-level instrument measures, and in which arithmetic.

    Attributes:
        quantizers: roundings to try.
        bits: precisions to try.
        arithmetic: dtype of second moments and errors; float64 where the model is small enough.
        groups: groups of held-out windows.
    """

    quantizers: tuple[QuantizerName, ...] = QUANTIZERS
    bits: tuple[int, ...] = BITS
    arithmetic: torch.dtype = torch.float64
    groups: int = GROUPS


@dataclass
class _Site:
    """One input site of one block while it is being measured."""

    role: Role
    moments: dict[str, ChannelMoments]
    second_moments: dict[str, Tensor]
    outliers: dict[str, Tensor] = field(default_factory=dict)


def measure_layers(
    source: LayerSource, settings: LayerSettings, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[xr.Dataset, xr.Dataset]:
    """Datasets `channels` and `errors` of a source (`docs/datasets.md`).

    Args:
        source: the blocks and their tokens.
        settings: quantizers, precisions, arithmetic.
        progress: called with `(blocks done, blocks)`.

    Raises:
        MeasurementError: if an activation or an error is NaN or infinite.
    """
    records: list[dict[str, Any]] = []
    sites: list[dict[str, Any]] = []
    for block in range(source.blocks):
        block_sites, block_records = _measure_block(source, block, settings)
        sites += block_sites
        records += block_records
        source.advance(block)
        progress(block + 1, source.blocks)
    return channels_dataset(sites, records), errors_dataset(records, settings.quantizers, settings.bits, CHOICES)


def _measure_block(
    source: LayerSource, block: int, settings: LayerSettings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    source.begin(block)
    linears = source.linears(block)
    sites = _first_pass(source, block, linears, settings)
    errors = {entry.name: _linear_errors(entry, sites[entry.site], settings) for entry in linears}
    summed = _second_pass(source, block, linears, sites, errors, settings)
    site_records = [_site_record(block, name, site, settings) for name, site in sites.items()]
    linear_records = [
        _linear_record(entry, sites[entry.site], errors[entry.name], summed[entry.name].numpy(), settings)
        for entry in linears
    ]
    return site_records, linear_records


def _first_pass(
    source: LayerSource, block: int, linears: list[LinearWeights], settings: LayerSettings
) -> dict[str, _Site]:
    sites = {entry.site: _new_site(entry, settings) for entry in linears}
    for split in SPLITS:
        for group, inputs in source.passes(block, split):
            for name, site in sites.items():
                try:
                    site.moments[split].update(inputs[name], group)
                except MeasurementError as problem:
                    raise MeasurementError(f"block {block}, {name}: {problem}") from None
                x = inputs[name].to(settings.arithmetic)  # (T, in)
                site.second_moments[split].addmm_(x.T, x)
    return sites


def _new_site(entry: LinearWeights, settings: LayerSettings) -> _Site:
    width, device = entry.weight.shape[1], entry.weight.device
    of_an_expert = entry.site != entry.role
    return _Site(
        entry.role,
        {split: ChannelMoments(width, settings.groups, device, may_be_empty=of_an_expert) for split in SPLITS},
        {split: torch.zeros(width, width, dtype=settings.arithmetic, device=device) for split in SPLITS},
    )


def _linear_errors(entry: LinearWeights, site: _Site, settings: LayerSettings) -> np.ndarray:
    """`[quantizers, bits, alphas, splits]` squared relative output errors of one linear."""
    weight = entry.weight.to(settings.arithmetic)
    scales = _scales(site, weight)
    moments = [site.second_moments[split] for split in SPLITS]
    errors = error_grid(weight, scales, settings.quantizers, settings.bits, moments)
    if not torch.isfinite(errors).all():
        raise MeasurementError(f"{entry.name}: an output error is NaN or infinite")
    return errors.cpu().numpy().astype(np.float64)


def _scales(site: _Site, weight: Tensor) -> Tensor:
    magnitude = site.moments["calibration"].magnitude().to(weight)
    return linear_scales(magnitude, torch.tensor(ALPHAS, dtype=weight.dtype, device=weight.device))  # (alphas, in)


def _second_pass(
    source: LayerSource,
    block: int,
    linears: list[LinearWeights],
    sites: dict[str, _Site],
    errors: dict[str, np.ndarray],
    settings: LayerSettings,
) -> dict[str, Tensor]:
    """Count outliers; sum every candidate's squared held-out output for each group, `(groups, candidates)`."""
    limits = {}
    for name, site in sites.items():
        for split in SPLITS:
            moments = site.moments[split]
            site.outliers[split] = torch.zeros_like(moments.max_abs)
            limits[name, split] = OUTLIER_SIGMA * moments.variance().sqrt()
    candidates = {entry.name: _candidates(entry, sites[entry.site], errors[entry.name], settings) for entry in linears}
    summed = {
        entry.name: torch.zeros(settings.groups, len(candidates[entry.name]), dtype=torch.float64) for entry in linears
    }
    for split in SPLITS:
        for group, inputs in source.passes(block, split):
            for name, site in sites.items():
                x = inputs[name].to(torch.float64)
                site.outliers[split] += (x.abs() > limits[name, split]).sum(dim=0)
            if split != "heldout":
                continue
            for entry in linears:
                stacked = candidates[entry.name]  # (candidates, out, in)
                outputs = inputs[entry.site].to(REPLAY) @ stacked.flatten(0, 1).T  # (T, candidates * out)
                squares = outputs.square_().unflatten(1, stacked.shape[:2]).sum(dim=(0, 2), dtype=torch.float64)
                summed[entry.name][group] += squares.cpu()
    return summed


def _candidates(entry: LinearWeights, site: _Site, errors: np.ndarray, settings: LayerSettings) -> Tensor:
    """What is replayed, `(1 + candidates, out, in)`: the weight itself, then `W^ - W` in the order of `_replayed`."""
    weight = entry.weight.to(settings.arithmetic)
    scales = _scales(site, weight)
    found = [weight]
    for q, b in _replayed(settings):
        best = int(errors[q, settings.bits.index(JUDGED_BITS[b]), :, 0].argmin())
        for index in (0, best):
            quantized = scaled_round_to_nearest(weight, scales[index], settings.quantizers[q], JUDGED_BITS[b])
            found.append(quantized - weight)
    return torch.stack(found).to(REPLAY)


def _replayed(settings: LayerSettings) -> list[tuple[int, int]]:
    """Indices of (quantizer, judged bits) that claims read group by group: the deployed one, and AWQ-Diag's."""
    return [
        (q, b)
        for q, quantizer in enumerate(settings.quantizers)
        for b, bits in enumerate(JUDGED_BITS)
        if quantizer == "asym-g128" or bits == 3
    ]


def _site_record(block: int, name: str, site: _Site, settings: LayerSettings) -> dict[str, Any]:
    values = {}
    for split in SPLITS:
        moments = site.moments[split]
        count = max(1.0, float(moments.counts.sum()))
        values[split] = {
            "magnitude": moments.magnitude(),
            "mean": moments.mean(),
            "variance": moments.variance(),
            "excess_kurtosis": moments.excess_kurtosis(),
            "max_abs": moments.max_abs,
            "outlier_ratio": site.outliers[split] / count,
        }
    heldout = site.moments["heldout"]
    without = [float(heldout.excess_kurtosis(without=g).mean()) for g in range(settings.groups)]
    return {"block": block, "name": name, "role": site.role, "values": values, "kurtosis_without_group": without}


def _linear_record(
    entry: LinearWeights, site: _Site, errors: np.ndarray, summed: np.ndarray, settings: LayerSettings
) -> dict[str, Any]:
    weight_size = entry.weight.abs().to(torch.float64).mean(dim=0).cpu().numpy()  # (in,)
    heldout = site.moments["heldout"]
    without = [
        enrichment(importance(weight_size, heldout.magnitude(without=g).cpu().numpy()))
        for g in range(len(heldout.counts))
    ]
    group_error = np.full(
        (len(settings.quantizers), len(JUDGED_BITS), len(CHOICES), settings.groups), np.nan
    )  # NaN where nothing was replayed
    for index, (q, b) in enumerate(_replayed(settings)):
        group_error[q, b] = summed[:, 1 + 2 * index : 3 + 2 * index].T
    weight = entry.weight.to(settings.arithmetic)
    magnitude = site.moments["calibration"].magnitude()
    second_moments = [site.second_moments[split] for split in SPLITS]
    return {
        "entry": entry,
        "weight_size": weight_size,
        "errors": errors,
        "mechanism": measure_mechanism(weight, magnitude, second_moments, JUDGED_BITS),
        "group_error": group_error,
        "group_power": summed[:, 0],
        "enrichment_without_group": without,
    }
