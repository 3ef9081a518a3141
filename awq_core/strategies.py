"""Ways to quantize a whole model, each as the parameters it changes, all under asym-g128.

A strategy that *deploys* is an ordinary checkpoint of the same architecture; one that does not would need
something more at run time, which its `needs` names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from awq_core.architecture import Architecture, applicable_folds, blocks_of, linear, stored, weight_of
from awq_core.block_search import FoundScale
from awq_core.calibrated import BLOCK, CLIP, DUO, GPTQ, GPTQ_ORDER, GROUPED, Calibrated
from awq_core.choices import best_alpha, constant_alpha
from awq_core.clipping import clipped
from awq_core.folding import Parameters, fold_block
from awq_core.importance import salient_channels
from awq_core.quantizer import round_to_nearest
from awq_core.scales import linear_scales, scaled_round_to_nearest

RANDOM_CHOICES = 10
"""Random choices of the channels that are kept: the chance that choosing by weight is held against."""

A_SCALE_AT_RUN_TIME = "a multiplication at run time wherever no operation absorbs the scale"
MIXED_PRECISION = "two precisions in one matrix"


@dataclass(frozen=True)
class Strategy:
    """One way to quantize a model.

    Attributes:
        method: what is done, such as `rtn` or `awq-block` (see `docs/datasets.md`).
        bits: precision; 0 for `full`.
        parameters: makes the parameters that differ from the full-precision model's, in their own layout.
        needs: what it needs beyond an ordinary checkpoint; empty where it deploys as it is.
    """

    method: str
    bits: int
    parameters: Callable[[], Parameters]
    needs: str = ""

    @property
    def name(self) -> str:
        """`full`, or the method and its bits: `awq-block-3`."""
        return self.method if self.bits == 0 else f"{self.method}-{self.bits}"

    @property
    def deploys(self) -> bool:
        """Whether it is an ordinary checkpoint."""
        return not self.needs


class Strategies:
    """Makes strategies for one model.

    Args:
        model: the full-precision model.
        architecture: its row of the table.
        channels: the layer-level instrument's first dataset (its calibration magnitudes make the scales).
        errors: its second (its calibration errors choose the exponents).
        seed: of the random choices of channels.
    """

    def __init__(
        self, model: Any, architecture: Architecture, channels: xr.Dataset, errors: xr.Dataset, seed: int = 0
    ) -> None:
        self.model = model
        self.architecture = architecture
        self.errors = errors
        self.seed = seed
        self.names = [str(name) for name in errors["linear"].values]
        self.magnitudes = _calibration_magnitudes(channels)
        sites = {site.name for site in architecture.sites}
        folds_everywhere = all(
            {site for fold in applicable_folds(model, architecture, block) for site in fold.sites} == sites
            for block in range(len(blocks_of(model, architecture)))
        )
        self.unfolded = "" if folds_everywhere else A_SCALE_AT_RUN_TIME

    def standard(self, bits: tuple[int, ...], found: Calibrated) -> list[Strategy]:
        """Full precision first, RTN at 2 bits, then at each precision RTN, AWQ's kinds and what was calibrated."""
        listed = [Strategy("full", 0, dict), self.round_to_nearest(2)]
        for precision in sorted(bits):
            listed += [*self.uncalibrated(precision), *self.calibrated(precision, found)]
        return listed

    def uncalibrated(self, bits: int) -> list[Strategy]:
        """RTN, and the kinds of AWQ whose exponents the layer-level instrument chose."""
        each = best_alpha(self.errors, "asym-g128", bits)
        alphas = dict(zip(self.names, each.values.tolist(), strict=True))
        constant = constant_alpha(self.errors, "asym-g128", bits)
        return [
            self.round_to_nearest(bits),
            # Linears that share an input have exponents of their own here: no one operation absorbs several scales.
            self._scaled("awq-linear", bits, alphas, A_SCALE_AT_RUN_TIME),
            self._scaled("awq-constant", bits, dict.fromkeys(self.names, constant), self.unfolded),
            self._scaled("awq-half", bits, dict.fromkeys(self.names, 0.5), self.unfolded),
        ]

    def round_to_nearest(self, bits: int) -> Strategy:
        """Every linear rounded as it is."""
        return Strategy("rtn", bits, lambda: self._rounded(dict(self._weights()), bits))

    def calibrated(self, bits: int, found: Calibrated, suffix: str = "") -> list[Strategy]:
        """What calibrating found at one precision; `suffix` tells calibrations on other tokens apart."""
        listed = [
            self._folded(f"{method}{suffix}", bits, found.scales[method, bits])
            for method in (BLOCK, DUO, GROUPED)
            if (method, bits) in found.scales
        ]
        if bits in found.limits:
            listed.append(self._folded(f"{CLIP}{suffix}", bits, found.scales[BLOCK, bits], found.limits[bits]))
        for method in (GPTQ, GPTQ_ORDER):
            if (method, bits) in found.weights:
                listed.append(self._given(f"{method}{suffix}", bits, found.weights[method, bits]))
        return listed

    def kept(self, bits: int) -> list[Strategy]:
        """1% of every linear's input channels in full precision: by activation, by weight, at random.

        The paper's Table 1. Everything is rounded to nearest; then the chosen columns are put back.
        """
        by_activation = {name: salient_channels(self.magnitudes[name]) for name in self.names}
        by_weight = {
            name: salient_channels(weight.abs().mean(dim=0, dtype=torch.float64).cpu().numpy())
            for name, weight in self._weights()
        }
        listed = [self._keeping("keep-activation", bits, by_activation), self._keeping("keep-weight", bits, by_weight)]
        for choice in range(RANDOM_CHOICES):
            generator = np.random.default_rng([self.seed, choice])
            drawn = {
                name: generator.choice(len(self.magnitudes[name]), len(by_activation[name]), replace=False)
                for name in self.names
            }
            listed.append(self._keeping(f"keep-random{choice}", bits, drawn))
        return listed

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        for name in self.names:
            yield name, weight_of(linear(self.model, name))

    def _scaled(self, method: str, bits: int, alphas: dict[str, float], needs: str) -> Strategy:
        def parameters() -> Parameters:
            changed = {}
            for name, weight in self._weights():
                magnitude = torch.as_tensor(self.magnitudes[name], dtype=torch.float64, device=weight.device)
                scales = linear_scales(magnitude, torch.tensor([alphas[name]], dtype=torch.float64))[0]  # (in,)
                changed[name] = scaled_round_to_nearest(weight, scales.to(weight.dtype), "asym-g128", bits)
            return self._stored(changed)

        return Strategy(method, bits, parameters, needs)

    def _folded(
        self, method: str, bits: int, scales: list[FoundScale], limits: Mapping[str, Tensor] | None = None
    ) -> Strategy:
        def parameters() -> Parameters:
            linears, others = folded_parameters(self.model, self.architecture, scales)
            weights = {name.removesuffix(".weight"): weight for name, weight in linears.items()}
            for name, bounds in (limits or {}).items():
                weights[name] = clipped(weights[name], bounds)
            return self._rounded(weights, bits) | others

        return Strategy(method, bits, parameters)

    def _keeping(self, method: str, bits: int, chosen: Mapping[str, np.ndarray]) -> Strategy:
        def parameters() -> Parameters:
            changed = {}
            for name, weight in self._weights():
                quantized = round_to_nearest(weight, "asym-g128", bits)
                columns = torch.as_tensor(chosen[name], device=weight.device)
                quantized[:, columns] = weight[:, columns]
                changed[name] = quantized
            return self._stored(changed)

        return Strategy(method, bits, parameters, needs=MIXED_PRECISION)

    def _given(self, method: str, bits: int, weights: Mapping[str, Tensor]) -> Strategy:
        def parameters() -> Parameters:
            return self._stored({name: weights[name].to(weight) for name, weight in self._weights()})

        return Strategy(method, bits, parameters)

    def _rounded(self, weights: Mapping[str, Tensor], bits: int) -> Parameters:
        return self._stored({name: round_to_nearest(weight, "asym-g128", bits) for name, weight in weights.items()})

    def _stored(self, weights: Mapping[str, Tensor]) -> Parameters:
        return {f"{name}.weight": stored(linear(self.model, name), weight) for name, weight in weights.items()}


def folded_parameters(
    model: Any, architecture: Architecture, scales: list[FoundScale]
) -> tuple[Parameters, Parameters]:
    """The whole model after folding, before rounding: `(linear weights (out, in), norms, biases and routers)`."""
    linears: Parameters = {}
    others: Parameters = {}
    for block in range(len(blocks_of(model, architecture))):
        chosen = [(entry.fold, entry.scales) for entry in scales if entry.block == block]
        weights, rest = fold_block(model, architecture, block, chosen)
        linears |= weights
        others |= rest
    return linears, others


@contextmanager
def applied(model: Any, parameters: Parameters) -> Iterator[None]:
    """The model with some parameters exchanged; the originals come back even after an error.

    Raises:
        KeyError: for a parameter that the model does not have.
        NotImplementedError: for one whose values lie on disk: exchanging it would change nothing.
    """
    present = dict(model.named_parameters())
    if any(present[name].is_meta for name in parameters):
        raise NotImplementedError("weights that were offloaded to disk cannot be exchanged")
    originals = {name: present[name].data for name in parameters}
    try:
        for name, value in parameters.items():
            present[name].data = value.to(present[name])
        yield
    finally:
        for name, original in originals.items():
            present[name].data = original


def _calibration_magnitudes(channels: xr.Dataset) -> dict[str, np.ndarray]:
    """Calibration magnitude `[in_features]` of each linear's input."""
    magnitude = channels["magnitude"].sel(split="calibration").transpose("site", "channel")
    found = {}
    for name, site, width in zip(
        channels["linear"].values, channels["linear_site"].values, channels["in_features"].values, strict=True
    ):
        found[str(name)] = magnitude.sel(site=site).values[: int(width)]
    return found
