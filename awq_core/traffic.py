"""What other traffic does to a calibration: magnitudes and errors of every linear under each kind of text.

Everything under asym-g128 at the judged precisions. The scales come from the usual calibration tokens, from the
kind's own, or from random tokens; the error is always that on held-out tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from awq_core.choices import best_alpha
from awq_core.measured import ALPHAS, JUDGED_BITS, TRAFFIC_KINDS
from awq_core.moments import MeasurementError
from awq_core.output_error import error_grid, relative_output_error
from awq_core.scales import linear_scales, scaled_round_to_nearest
from awq_core.sources import LayerSource, LinearWeights

CHOICES = ("rtn", "usual", "own")
"""No scales; scales and exponents from the usual calibration tokens; from the kind's own calibration passages."""


def measure_traffic(
    source: LayerSource,
    channels: xr.Dataset,
    errors: xr.Dataset,
    arithmetic: torch.dtype,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> xr.Dataset:
    """Dataset `traffic` (`docs/datasets.md`).

    Args:
        source: its splits are `heldout`, `random`, and `<kind> calibration` and `<kind> heldout` of every kind.
        channels: the layer-level instrument's first dataset, of the usual calibration.
        errors: its second, which holds the usual exponents.
        arithmetic: dtype of second moments and errors.
        progress: called with `(blocks done, blocks)`.

    Raises:
        MeasurementError: if an activation or an error is NaN or infinite.
    """
    measurement = _Traffic(source, channels, errors, arithmetic)
    for block in range(source.blocks):
        measurement.block(block)
        source.advance(block)
        progress(block + 1, source.blocks)
    return measurement.dataset()


class _Traffic:
    def __init__(self, source: LayerSource, channels: xr.Dataset, errors: xr.Dataset, arithmetic: torch.dtype) -> None:
        self.source = source
        self.channels = channels
        self.arithmetic = arithmetic
        self.alphas = {bits: best_alpha(errors, "asym-g128", bits) for bits in JUDGED_BITS}
        self.kind_error: dict[str, list[np.ndarray]] = {kind: [] for kind in TRAFFIC_KINDS}
        self.random_error: list[np.ndarray] = []
        self.magnitudes: dict[str, list[np.ndarray]] = {kind: [] for kind in TRAFFIC_KINDS}
        self.names: list[str] = []

    def block(self, block: int) -> None:
        self.source.begin(block)
        linears = self.source.linears(block)
        self.names += [entry.name for entry in linears]
        # Each split's second moments are dropped before the next kind's are gathered.
        moments, _ = self._gather(block, linears, "heldout")
        drawn_moments, drawn_magnitudes = self._gather(block, linears, "random")
        for entry in linears:
            calibration = drawn_moments[entry.site], drawn_magnitudes[entry.site]
            self.random_error.append(self._tuned_error(entry, *calibration, moments[entry.site]))
        for kind in TRAFFIC_KINDS:
            own_moments, own_magnitudes = self._gather(block, linears, f"{kind} calibration")
            moments, magnitudes = self._gather(block, linears, f"{kind} heldout")
            self.magnitudes[kind] += [magnitude.double().cpu().numpy() for magnitude in magnitudes.values()]
            for entry in linears:
                heldout = moments[entry.site]
                own = self._tuned_error(entry, own_moments[entry.site], own_magnitudes[entry.site], heldout)
                plain, usual = self._usual_errors(entry, heldout)
                self.kind_error[kind].append(np.stack([plain, usual, own], axis=-1))

    def dataset(self) -> xr.Dataset:
        widest = self.channels.sizes["channel"]
        padded = [
            [np.pad(row, (0, widest - len(row)), constant_values=np.nan) for row in self.magnitudes[kind]]
            for kind in TRAFFIC_KINDS
        ]
        kept = ["linear_block", "linear_family", "linear_site", "site_block", "site_role", "site_width"]
        return xr.Dataset(
            {
                "kind_error": (
                    ("kind", "linear", "judged_bits", "calibrated_on"),
                    np.stack([np.stack(self.kind_error[kind]) for kind in TRAFFIC_KINDS]),
                ),
                "kind_magnitude": (("kind", "site", "channel"), np.array(padded)),
                "random_error": (("linear", "judged_bits"), np.stack(self.random_error)),
            },
            {
                "kind": list(TRAFFIC_KINDS),
                "linear": self.names,
                "judged_bits": list(JUDGED_BITS),
                "calibrated_on": list(CHOICES),
                "site": self.channels["site"].values,
                **{name: self.channels[name].variable for name in kept},
            },
        )

    def _gather(
        self, block: int, linears: Sequence[LinearWeights], split: str
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Second moments `(in, in)` and magnitudes `(in,)` of every site, on one split."""
        widths = {entry.site: entry.weight.shape[1] for entry in linears}
        device = linears[0].weight.device
        moments = {site: torch.zeros(w, w, dtype=self.arithmetic, device=device) for site, w in widths.items()}
        summed = {site: torch.zeros(w, dtype=torch.float64, device=device) for site, w in widths.items()}
        tokens = dict.fromkeys(widths, 0)
        for _, inputs in self.source.passes(block, split):
            for site in widths:
                x = inputs[site].to(self.arithmetic)  # (T, in)
                moments[site].addmm_(x.T, x)
                summed[site] += x.abs().sum(dim=0, dtype=torch.float64)
                tokens[site] += len(x)
        for site, total in summed.items():
            if not torch.isfinite(total).all():
                raise MeasurementError(f"block {block}, {site}: NaN or infinite activations on {split} tokens")
        return moments, {site: total / max(tokens[site], 1) for site, total in summed.items()}

    def _tuned_error(self, entry: LinearWeights, calibration: Tensor, magnitude: Tensor, heldout: Tensor) -> np.ndarray:
        """`[judged bits]`, held-out error with scales and exponent from given calibration tokens."""
        weight = entry.weight.to(self.arithmetic)
        alphas = torch.tensor(ALPHAS, dtype=weight.dtype, device=weight.device)
        scales = linear_scales(magnitude.to(weight), alphas)  # (alphas, in)
        tried = error_grid(weight, scales, ("asym-g128",), JUDGED_BITS, [calibration])[0, :, :, 0]  # (bits, alphas)
        return np.array(
            [
                self._error(entry.name, weight, scales[int(row.argmin())], bits, heldout)
                for row, bits in zip(tried, JUDGED_BITS, strict=True)
            ]
        )

    def _usual_errors(self, entry: LinearWeights, heldout: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """`[judged bits]` each: without scales, and with those of the usual calibration."""
        weight = entry.weight.to(self.arithmetic)
        site = self.channels["linear_site"].sel(linear=entry.name).item()
        usual = self.channels["magnitude"].sel(split="calibration", site=site).values[: weight.shape[1]]
        magnitude = torch.as_tensor(usual, dtype=weight.dtype, device=weight.device)
        plain, scaled = [], []
        for bits in JUDGED_BITS:
            alphas = torch.tensor([0.0, float(self.alphas[bits].sel(linear=entry.name))], dtype=weight.dtype)
            ones, scales = linear_scales(magnitude, alphas.to(weight.device))
            plain.append(self._error(entry.name, weight, ones, bits, heldout))
            scaled.append(self._error(entry.name, weight, scales, bits, heldout))
        return np.array(plain), np.array(scaled)

    def _error(self, name: str, weight: Tensor, scales: Tensor, bits: int, moment: Tensor) -> float:
        quantized = scaled_round_to_nearest(weight, scales, "asym-g128", bits)
        error = float(relative_output_error(weight, quantized, moment))
        if not math.isfinite(error):
            raise MeasurementError(f"{name}: an output error under other traffic is NaN or infinite")
        return error
