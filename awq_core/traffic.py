"""What other traffic does to a calibration: magnitudes and errors of every linear under each kind of text.

Everything under asym-g128 at the judged precisions. The scales come from the usual calibration tokens, from the
kind's own, or from random tokens; the error is always that on held-out tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from awq_core.choices import best_alpha
from awq_core.exponent_race import race_exponents
from awq_core.kept_blocks import NOTHING_KEPT, Arrays, KeptBlocks
from awq_core.layers import LayerSettings
from awq_core.linear_errors import alpha_scales
from awq_core.measured import JUDGED_BITS, TRAFFIC_KINDS
from awq_core.moments import MeasurementError
from awq_core.quantizer import QuantizerName
from awq_core.row_errors import LinearRows
from awq_core.scales import linear_scales
from awq_core.second_moment import SecondMoment
from awq_core.sources import LayerSource, LinearWeights

CHOICES = ("rtn", "usual", "own")
"""No scales; scales and exponents from the usual calibration tokens; from the kind's own calibration passages."""

QUANTIZER: QuantizerName = "asym-g128"


def measure_traffic(
    source: LayerSource,
    channels: xr.Dataset,
    errors: xr.Dataset,
    settings: LayerSettings,
    kind_rows: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    kept: KeptBlocks = NOTHING_KEPT,
) -> xr.Dataset:
    """Dataset `traffic` (`docs/datasets.md`).

    Args:
        source: its splits are `heldout`, `random`, and `<kind> calibration` and `<kind> heldout` of every kind.
        channels: the layer-level instrument's first dataset, of the usual calibration.
        errors: its second, which holds the usual exponents.
        settings: of the layer-level instrument: arithmetic, and whether exponents race.
        kind_rows: share of every linear's output rows whose errors are measured under each kind of text.
        progress: called with `(blocks done, blocks)`.
        kept: blocks that were measured before, and where to keep those measured now.

    Raises:
        MeasurementError: if an activation or an error is NaN or infinite.
    """
    measurement = _Traffic(source, channels, errors, settings, kind_rows)
    found = []
    for block in range(source.blocks):
        known = kept.read(block)
        if known is None:
            known = measurement.block(block)
            kept.write(block, known)
            source.advance(block)
        else:
            source.skip(block)
        found.append(known)
        progress(block + 1, source.blocks)
    return _dataset(found, channels)


@dataclass(frozen=True)
class _Inputs:
    """What one site is fed on one split."""

    moment: SecondMoment
    magnitude: Tensor


class _Traffic:
    def __init__(
        self, source: LayerSource, channels: xr.Dataset, errors: xr.Dataset, settings: LayerSettings, kind_rows: float
    ) -> None:
        self.source = source
        self.channels = channels
        self.settings = settings
        self.kind_rows = kind_rows
        self.alphas = {bits: best_alpha(errors, QUANTIZER, bits) for bits in JUDGED_BITS}

    def block(self, block: int) -> Arrays:
        """Its results: names, and by kind magnitudes by site and errors by linear."""
        self.source.begin(block)
        linears = self.source.linears(block)
        found: Arrays = {"linears": np.array([entry.name for entry in linears])}
        # Each split's second moments are dropped before the next kind's are gathered.
        heldout = self._gather(block, linears, "heldout")
        drawn = self._gather(block, linears, "random")
        found["random_error"] = np.stack(
            [
                self._tuned_error(
                    entry.name,
                    self._rows(entry, self.settings.row_share),
                    drawn[entry.site],
                    heldout[entry.site],
                )
                for entry in linears
            ]
        )
        for kind in TRAFFIC_KINDS:
            own = self._gather(block, linears, f"{kind} calibration")
            heldout = self._gather(block, linears, f"{kind} heldout")
            for index, inputs in enumerate(heldout.values()):
                found[f"{kind} magnitude {index}"] = inputs.magnitude.double().cpu().numpy()
            errors = []
            for entry in linears:
                rows = self._rows(entry, self.kind_rows)
                tuned = self._tuned_error(entry.name, rows, own[entry.site], heldout[entry.site])
                plain, usual = self._usual_errors(entry.name, rows, heldout[entry.site])
                errors.append(np.stack([plain, usual, tuned], axis=-1))
            found[f"{kind} error"] = np.stack(errors)  # (linears, judged bits, choices)
        return found

    def _rows(self, entry: LinearWeights, share: float) -> LinearRows:
        return LinearRows(entry.weight, self.settings.arithmetic, share)

    def _gather(self, block: int, linears: Sequence[LinearWeights], split: str) -> dict[str, _Inputs]:
        """Second moment and magnitudes of every site, on one split."""
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

    def _tuned_error(self, name: str, rows: LinearRows, calibration: _Inputs, heldout: _Inputs) -> np.ndarray:
        """`[judged bits]`, held-out error with scales and exponent from given calibration tokens."""
        scales = alpha_scales(rows.weight, calibration.magnitude)  # (alphas, in)
        moments = (calibration.moment, heldout.moment)
        powers = (rows.power(calibration.moment), rows.power(heldout.moment))
        found = []
        for bits in JUDGED_BITS:
            if self.settings.raced:
                raced = race_exponents(rows, scales, QUANTIZER, bits, moments, powers, ()).errors
                found.append(raced[raced[:, 0].argmin(), 1])
            else:
                tried = rows.total_errors(scales, QUANTIZER, bits, [calibration.moment])[0]
                best = scales[int(tried.argmin())].unsqueeze(0)
                found.append(rows.total_errors(best, QUANTIZER, bits, moments[1:])[0, 0] / powers[1])
        return _checked(np.array(found), name)

    def _usual_errors(self, name: str, rows: LinearRows, heldout: _Inputs) -> tuple[np.ndarray, np.ndarray]:
        """`[judged bits]` each: without scales, and with those of the usual calibration."""
        weight = rows.weight
        site = self.channels["linear_site"].sel(linear=name).item()
        usual = self.channels["magnitude"].sel(split="calibration", site=site).values[: weight.shape[1]]
        magnitude = torch.as_tensor(usual, dtype=weight.dtype, device=weight.device)
        power = rows.power(heldout.moment)
        found = []
        for bits in JUDGED_BITS:
            alphas = torch.tensor([0.0, float(self.alphas[bits].sel(linear=name))], dtype=weight.dtype)
            scales = linear_scales(magnitude, alphas.to(weight.device))
            found.append(rows.total_errors(scales, QUANTIZER, bits, [heldout.moment])[0] / power)
        plain, scaled = _checked(np.array(found), name).T
        return plain, scaled


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

    kept = ["linear_block", "linear_family", "linear_site", "site_block", "site_role", "site_width"]
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
            "random_error": (("linear", "judged_bits"), joined("random_error")),
        },
        {
            "kind": list(TRAFFIC_KINDS),
            "linear": joined("linears").tolist(),
            "judged_bits": list(JUDGED_BITS),
            "calibrated_on": list(CHOICES),
            "site": channels["site"].values,
            **{name: channels[name].variable for name in kept},
        },
    )
