"""Layer-level instrument: channel moments and output errors of every linear, block by block.

One pass of each split gathers the moments and `G = X^T X` of every input site; measurements that depend on the results
of this pass go over its tokens again. Only one block's second moments are in memory, whatever the number of tokens.

An expert of a mixture to which no token of a split was routed has magnitudes, moments and errors of 0 on that split:
its channels are all equal, its best exponent is 0 (round-to-nearest), and its reduction is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from awq_core.architectures.sources import LayerSource, LinearWeights
from awq_core.measure.checkpoints import NO_CHECKPOINTS, Checkpoints
from awq_core.measure.layers.datasets import Record, channels_dataset, errors_dataset, from_arrays, to_arrays
from awq_core.measure.layers.errors import LinearErrors, checked, exhaustive_errors, raced_errors
from awq_core.measure.layers.group_replay import CHOICES, Leaders, candidates, group_errors, summed_by_group
from awq_core.measure.layers.importance import enrichment, importance
from awq_core.measure.layers.row_errors import rows_looked_at
from awq_core.measure.layers.site_inputs import BlockSites, SiteInputs
from awq_core.measured import BITS, GROUPS, QUANTIZERS, SPLITS
from awq_core.quantization.quantizers import Quantizers


@dataclass(frozen=True)
class LayerSettings:
    """Settings of the layer-level instrument.

    Attributes:
        quantizers: roundings to try, the deployed one first.
        bits: precisions to try.
        arithmetic: dtype of second moments and errors; float64 if the model is small enough.
        groups: number of groups of held-out windows.
        raced: whether exponents race; otherwise all are tried on all output rows.
        row_share: in a race, share of each linear's output rows on which errors are measured.
        shown_row_share: in a race, this share at settings that no claim reads; with 0, no exponents are tried there.
    """

    quantizers: Quantizers = QUANTIZERS
    bits: tuple[int, ...] = BITS
    arithmetic: torch.dtype = torch.float64
    groups: int = GROUPS
    raced: bool = False
    row_share: float = 1.0
    shown_row_share: float = 1.0


def measure_layers(
    source: LayerSource,
    settings: LayerSettings,
    progress: Callable[[int, int], None] = lambda done, total: None,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> tuple[xr.Dataset, xr.Dataset]:
    """Measure the datasets `channels` and `errors` of a source (`docs/datasets.md`).

    Args:
        source: blocks of linears with their tokens.
        settings: quantizers, precisions, arithmetic, racing.
        progress: called with `(blocks done, blocks)`.
        checkpoints: results of blocks, read before a block is measured and written afterwards.

    Raises:
        MeasurementError: if an activation or an error is NaN or infinite.
    """
    linears: list[Record] = []
    sites: list[Record] = []
    leaders = Leaders(settings.quantizers, settings.bits, everyone=not settings.raced)
    for block in range(source.blocks):
        known = checkpoints.read(block)
        if known is None:
            known = to_arrays(*_measure_block(source, block, settings, leaders))
            checkpoints.write(block, known)
            source.advance(block)
        else:
            source.skip(block)
        block_sites, block_linears = from_arrays(known)
        # A block from a checkpoint updates the leaders as when it was measured; for a new block this changes nothing.
        leaders.replayed([record["errors"] for record in block_linears])
        sites += block_sites
        linears += block_linears
        progress(block + 1, source.blocks)
    return channels_dataset(sites, linears), errors_dataset(
        linears, [quantizer.name for quantizer in settings.quantizers], settings.bits, CHOICES
    )


def _measure_block(
    source: LayerSource, block: int, settings: LayerSettings, leaders: Leaders
) -> tuple[list[Record], list[Record]]:
    source.begin(block)
    linears = source.linears(block)
    inputs = BlockSites(source, block, linears, settings.groups, settings.arithmetic)
    errors_of = [_errors(entry, inputs.sites[entry.site], settings) for entry in linears]
    replayed = leaders.replayed([errors.errors for errors in errors_of])
    records = []
    for entry, errors, settings_replayed in zip(linears, errors_of, replayed, strict=True):
        site = inputs.sites[entry.site]
        summed = np.full((settings.groups, 1), np.nan)
        if settings_replayed:
            # Replay the output rows on which the errors were measured, so that both agree.
            weight = entry.weight
            if settings.raced:
                weight = weight[rows_looked_at(len(weight), settings.row_share).to(weight.device)]
            weight = weight.to(settings.arithmetic)
            magnitude = site.moments["calibration"].magnitude()
            stacked = candidates(weight, magnitude, errors, settings_replayed, settings.quantizers, settings.bits)
            batches = ((group, tokens[entry.site]) for group, tokens in inputs.heldout())
            summed = summed_by_group(stacked, batches, settings.groups)
        by_group = group_errors(summed, settings_replayed, len(settings.quantizers))
        records.append(_linear_record(entry, site, errors, by_group, summed[:, 0]))
    site_records = [_site_record(block, name, site, settings) for name, site in inputs.sites.items()]
    return site_records, records


def _errors(entry: LinearWeights, site: SiteInputs, settings: LayerSettings) -> LinearErrors:
    magnitude = site.moments["calibration"].magnitude()
    moments = (site.second_moments["calibration"], site.second_moments["heldout"])
    if settings.raced:
        shares = settings.row_share, settings.shown_row_share
        found = raced_errors(entry.weight, magnitude, moments, settings.quantizers, settings.bits, shares)
    else:
        weight = entry.weight.to(settings.arithmetic)
        found = exhaustive_errors(weight, magnitude, moments, settings.quantizers, settings.bits)
    return checked(found, entry.name)


def _site_record(block: int, name: str, site: SiteInputs, settings: LayerSettings) -> Record:
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
    entry: LinearWeights, site: SiteInputs, errors: LinearErrors, group_error: np.ndarray, group_power: np.ndarray
) -> Record:
    weight_size = entry.weight.abs().mean(dim=0, dtype=torch.float64).cpu().numpy()  # (in,)
    heldout = site.moments["heldout"]
    without = [
        enrichment(importance(weight_size, heldout.magnitude(without=g).cpu().numpy()))
        for g in range(len(heldout.counts))
    ]
    return {
        "name": entry.name,
        "block": entry.block,
        "family": entry.family,
        "site": entry.site,
        "out_features": entry.weight.shape[0],
        "in_features": entry.weight.shape[1],
        "weight_size": weight_size,
        "errors": errors.errors,
        "row_share": errors.row_share,
        "mechanism": errors.mechanism.as_arrays(),
        "group_error": group_error,
        "group_power": group_power,
        "enrichment_without_group": without,
    }
