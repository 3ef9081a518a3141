"""Magnitudes and output errors of every linear on other kinds of text than the calibration text.

Everything under the deployed quantizer at the judged precisions. The scales come from the usual calibration tokens,
from the kind's own, or from random tokens; the error is always that on held-out tokens. Random tokens are compared with
as many usual ones, calibrated and judged alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from awq_core.architectures.sources import LayerSource, LinearWeights
from awq_core.measure.checkpoints import NO_CHECKPOINTS, Arrays, Checkpoints
from awq_core.measure.layers.datasets import best_alpha
from awq_core.measure.layers.errors import alpha_scales
from awq_core.measure.layers.exponent_race import fittest_exponent
from awq_core.measure.layers.moments import MeasurementError
from awq_core.measure.layers.row_errors import LinearRows
from awq_core.measure.layers.second_moment import SecondMoment
from awq_core.measured import JUDGED_BITS, TRAFFIC_KINDS
from awq_core.quantization.quantizers import DEPLOYED, AsymmetricGroups
from awq_core.quantization.scales import linear_scales

CHOICES = ("rtn", "usual", "own")
"""Calibrations that are compared on each kind of text.

`rtn`: no scales. `usual`: scales and exponents from the usual calibration tokens. `own`: scales and exponents from
calibration passages of the same kind."""


@dataclass(frozen=True)
class TrafficSettings:
    """Settings of the measurements on other traffic.

    Attributes:
        arithmetic: dtype of second moments and errors.
        raced: exponents race, where every one of them would be tried in full.
        row_share: of every linear's output rows, how many are looked at.
        deployed: the quantizer.
        own: try scales from each kind's own calibration passages too, which no claim judges.
    """

    arithmetic: torch.dtype = torch.float64
    raced: bool = False
    row_share: float = 1.0
    own: bool = True
    deployed: AsymmetricGroups = DEPLOYED

    def splits(self) -> list[str]:
        """List the splits that a source of these measurements must hold."""
        kinds = [[f"{kind} heldout", *([f"{kind} calibration"] if self.own else [])] for kind in TRAFFIC_KINDS]
        return ["heldout", "calibration", "random", *chain.from_iterable(kinds)]


def measure_traffic(
    source: LayerSource,
    channels: xr.Dataset,
    errors: xr.Dataset,
    settings: TrafficSettings,
    progress: Callable[[int, int], None] = lambda done, total: None,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> xr.Dataset:
    """Measure the dataset `traffic` (`docs/datasets.md`).

    Args:
        source: a source with the splits `settings.splits()`.
        channels: dataset `channels`, with magnitudes on the usual calibration tokens.
        errors: dataset `errors`, from which the usual exponents are read.
        settings: arithmetic, output rows, racing.
        progress: called with `(blocks done, blocks)`.
        checkpoints: results of blocks, read before a block is measured and written afterwards.

    Raises:
        MeasurementError: if an activation or an error is NaN or infinite.
    """
    measurement = _Traffic(source, channels, errors, settings)
    found = []
    for block in range(source.blocks):
        known = checkpoints.read(block)
        if known is None:
            known = measurement.block(block)
            checkpoints.write(block, known)
            source.advance(block)
        else:
            source.skip(block)
        found.append(known)
        progress(block + 1, source.blocks)
    return _dataset(found, channels)


@dataclass(frozen=True)
class _Inputs:
    """Statistics of one site's inputs on one split: the second moment, and mean abs(x) by channel, `(width,)`."""

    moment: SecondMoment
    magnitude: Tensor


class _Traffic:
    def __init__(
        self, source: LayerSource, channels: xr.Dataset, errors: xr.Dataset, settings: TrafficSettings
    ) -> None:
        self.source = source
        self.channels = channels
        self.settings = settings
        self.alphas = {bits: best_alpha(errors, settings.deployed.name, bits) for bits in JUDGED_BITS}

    def block(self, block: int) -> Arrays:
        """Measure a block: names of its linears, and for each kind magnitudes by site and errors by linear."""
        self.source.begin(block)
        linears = self.source.linears(block)
        rows = {
            entry.name: LinearRows(entry.weight, self.settings.arithmetic, self.settings.row_share) for entry in linears
        }
        usual = [[self._usual_scales(entry, bits) for bits in JUDGED_BITS] for entry in linears]
        found: Arrays = {"linears": np.array([entry.name for entry in linears])}
        # Second moments of one split are dropped before those of the next are gathered, to save memory.
        heldout = self._gather(block, linears, "heldout")
        for variable, split in (("usual_error", "calibration"), ("random_error", "random")):
            fitted = self._gather(block, linears, split)
            found[variable] = self._errors(linears, rows, heldout, fitted)[:, :, 0]
            del fitted
        for kind in TRAFFIC_KINDS:
            own = self._gather(block, linears, f"{kind} calibration") if self.settings.own else None
            heldout = self._gather(block, linears, f"{kind} heldout")
            for index, inputs in enumerate(heldout.values()):
                found[f"{kind} magnitude {index}"] = inputs.magnitude.double().cpu().numpy()
            errors = self._errors(linears, rows, heldout, own, usual)  # (linears, judged bits, choices)
            lacking = len(CHOICES) - errors.shape[2]
            found[f"{kind} error"] = np.pad(errors, ((0, 0), (0, 0), (0, lacking)), constant_values=np.nan)
        return found

    def _gather(self, block: int, linears: Sequence[LinearWeights], split: str) -> dict[str, _Inputs]:
        """Gather the second moment and magnitudes of every site on one split."""
        widths = {entry.site: entry.weight.shape[1] for entry in linears}
        device = linears[0].weight.device
        arithmetic = self.settings.arithmetic
        moments = {site: SecondMoment(width, arithmetic, device) for site, width in widths.items()}
        summed = {site: torch.zeros(w, dtype=torch.float64, device=device) for site, w in widths.items()}
        tokens = dict.fromkeys(widths, 0)
        for _, inputs in self.source.passes(block, split):
            for site in widths:
                x = inputs[site]  # (T, in)
                moments[site].update(x)
                summed[site] += x.to(arithmetic).abs().sum(dim=0, dtype=torch.float64)
                tokens[site] += len(x)
        for site, total in summed.items():
            if not torch.isfinite(total).all():
                raise MeasurementError(f"block {block}, {site}: NaN or infinite activations on {split} tokens")
        return {site: _Inputs(moments[site], summed[site] / max(tokens[site], 1)) for site in widths}

    def _errors(
        self,
        linears: Sequence[LinearWeights],
        rows: dict[str, LinearRows],
        heldout: dict[str, _Inputs],
        calibration: dict[str, _Inputs] | None,
        usual: list[list[Tensor]] | None = None,
    ) -> np.ndarray:
        """Measure held-out errors, `(linears, judged bits, choices)`.

        With `usual` scales, the first two choices are no scales and the usual scales. With a `calibration`, the last
        choice is scales fitted to it.
        """
        found = []
        for index, entry in enumerate(linears):
            looked_at, judged_on = rows[entry.name], heldout[entry.site].moment
            power = looked_at.power(judged_on)
            by_bits = []
            for b, bits in enumerate(JUDGED_BITS):
                tried = []
                if usual is not None:
                    tried += [torch.ones_like(usual[index][b]), usual[index][b]]
                if calibration is not None:
                    tried.append(self._fitted_scales(looked_at, calibration[entry.site], bits))
                by_bits.append(
                    looked_at.total_errors(torch.stack(tried), self.settings.deployed, bits, [judged_on])[0] / power
                )
            found.append(_checked(np.stack(by_bits), entry.name))
        return np.stack(found)

    def _usual_scales(self, entry: LinearWeights, bits: int) -> Tensor:
        """Compute the scales `(in,)` that the layer-level instrument chose on all usual calibration tokens."""
        site = self.channels["linear_site"].sel(linear=entry.name).item()
        usual = self.channels["magnitude"].sel(split="calibration", site=site).values[: entry.weight.shape[1]]
        magnitude = torch.as_tensor(usual, dtype=self.settings.arithmetic, device=entry.weight.device)
        return linear_scales(magnitude, magnitude.new_tensor([float(self.alphas[bits].sel(linear=entry.name))]))[0]

    def _fitted_scales(self, rows: LinearRows, calibration: _Inputs, bits: int) -> Tensor:
        """Fit scales `(in,)` to a calibration: magnitudes from its tokens, and the exponent with the least error."""
        scales = alpha_scales(rows.weight, calibration.magnitude)  # (alphas, in)
        if self.settings.raced:
            return scales[fittest_exponent(rows, scales, self.settings.deployed, bits, calibration.moment)]
        return scales[int(rows.total_errors(scales, self.settings.deployed, bits, [calibration.moment])[0].argmin())]


def _checked(errors: np.ndarray, name: str) -> np.ndarray:
    if not all(map(math.isfinite, errors.flat)):
        raise MeasurementError(f"{name}: an output error under other traffic is NaN or infinite")
    return errors


def _dataset(found: list[Arrays], channels: xr.Dataset) -> xr.Dataset:
    widest = channels.sizes["channel"]

    def magnitudes(kind: str) -> list[np.ndarray]:
        rows = []
        for arrays in found:
            mine = [name for name in arrays if name.startswith(f"{kind} magnitude ")]
            rows += [arrays[f"{kind} magnitude {index}"] for index in range(len(mine))]
        return [np.pad(row, (0, widest - len(row)), constant_values=np.nan) for row in rows]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([arrays[name] for arrays in found])

    names = ["linear_block", "linear_family", "linear_site", "site_block", "site_role", "site_width"]
    return xr.Dataset(
        {
            "kind_error": (
                ("kind", "linear", "judged_bits", "calibrated_on"),
                np.stack([joined(f"{kind} error") for kind in TRAFFIC_KINDS]),
            ),
            "kind_magnitude": (
                ("kind", "site", "channel"),
                np.array([magnitudes(kind) for kind in TRAFFIC_KINDS]),
            ),
            **{name: (("linear", "judged_bits"), joined(name)) for name in ("usual_error", "random_error")},
        },
        {
            "kind": list(TRAFFIC_KINDS),
            "linear": joined("linears").tolist(),
            "judged_bits": list(JUDGED_BITS),
            "calibrated_on": list(CHOICES),
            "site": channels["site"].values,
            **{name: channels[name].variable for name in names},
        },
    )
