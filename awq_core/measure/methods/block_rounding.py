"""Roundings of an opened block: functions that return the changed parameters, in the model's storage layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from awq_core.architectures.folding import Parameters, fold_block
from awq_core.architectures.model import Architecture, linear, linears_of_block, stored, weight_of
from awq_core.measure.layers.datasets import best_alpha, constant_alpha
from awq_core.measure.layers.importance import salient_channels
from awq_core.measure.methods.search_results import SearchResults
from awq_core.measured import deployed_quantizer
from awq_core.quantization.clipping import clipped
from awq_core.quantization.quantizers import DEPLOYED, AsymmetricGroups, round_to_nearest
from awq_core.quantization.scales import linear_scales, official_scales


@dataclass(frozen=True)
class LayerFindings:
    """Results of the layer-level instruments that methods use.

    Attributes:
        seed: of random choices of channels, and of the signs of redraws.
        quantizer: which rounding every method rounds with.
        magnitudes: calibration magnitudes `[in_features]` of each linear's input, by the linear's name.
        alphas: best exponent of each linear by name, by bits.
        constant: single exponent with the least summed error, by bits.
    """

    seed: int
    quantizer: AsymmetricGroups = DEPLOYED
    magnitudes: Mapping[str, np.ndarray] = field(default_factory=dict)
    alphas: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    constant: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, channels: xr.Dataset, errors: xr.Dataset, bits: tuple[int, ...], seed: int) -> LayerFindings:
        """Read the findings from the layer-level datasets (`docs/datasets.md`)."""
        magnitude = channels["magnitude"].sel(split="calibration").transpose("site", "channel")
        labels = (channels[name].values for name in ("linear", "linear_site", "in_features"))
        magnitudes = {
            str(name): magnitude.sel(site=site).values[: int(width)] for name, site, width in zip(*labels, strict=True)
        }
        quantizer = deployed_quantizer(errors)
        alphas = {b: best_alpha(errors, quantizer.name, b) for b in bits}
        return cls(
            seed,
            quantizer,
            magnitudes,
            {
                b: dict(zip(map(str, each["linear"].values), each.values.tolist(), strict=True))
                for b, each in alphas.items()
            },
            {b: constant_alpha(errors, quantizer.name, b) for b in bits},
        )


@dataclass
class Applied:
    """Scales, exponents and clip limits applied to linears before rounding, by the linear's full name.

    Attributes:
        exponents: of the scales, where these have one.
        scales: of the linear's columns, `(in,)`.
        limits: of the scaled weights, `(out, groups)`.
    """

    exponents: dict[str, float] = field(default_factory=dict)
    scales: dict[str, Tensor] = field(default_factory=dict)
    limits: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Rounding:
    """Opened block that a method rounds.

    Attributes:
        model: model with the block open.
        architecture: the model's row of the table.
        block: index of the block.
        bits: precision.
        layers: what the layer-level instruments found.
        found: what a method's search found of this block on the text set at hand, by the method's name.
        draw: 0 rounds as a checkpoint would be; any other flips random signs of the input channels around the rounding,
            which leaves the function as it is and makes the roundings new.
        applied: where a method notes what it scales and clips with.
    """

    model: Any
    architecture: Architecture
    block: int
    bits: int
    layers: LayerFindings
    found: Callable[[str], SearchResults]
    draw: int = 0
    applied: Applied = field(default_factory=Applied)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over names and weights `(out, in)` of the block's linears."""
        for entry in linears_of_block(self.architecture, self.block):
            yield entry.name, weight_of(linear(self.model, entry.name))

    def signs(self, name: str, width: int) -> Tensor:
        """Draw the signs of a linear's input channels, `(width,)`, for a redraw."""
        return redraw_signs(self.layers.seed, self.draw, name, width)

    def rounded(self, name: str, weight: Tensor) -> Tensor:
        """A linear's weight `(out, in)`, rounded to nearest in this draw: `Q(W S) S`."""
        if self.draw == 0:
            return round_to_nearest(weight, self.layers.quantizer, self.bits)
        signs = self.signs(name, weight.shape[1]).to(weight)
        return round_to_nearest(weight * signs, self.layers.quantizer, self.bits) * signs

    def stored(self, weights: Mapping[str, Tensor]) -> Parameters:
        """Convert weights `(out, in)` by linear to parameters by full name, in the model's storage layout."""
        return {f"{name}.weight": stored(linear(self.model, name), weight) for name, weight in weights.items()}


def redraw_signs(seed: int, draw: int, name: str, width: int) -> Tensor:
    """Draw random signs `(width,)`, a function of the seed, the draw and the linear's name."""
    generator = np.random.default_rng([seed, draw, *name.encode()])
    return torch.from_numpy(generator.choice((-1.0, 1.0), width))


def nothing(at: Rounding) -> Parameters:
    """Change no parameters."""
    return {}


def plain(at: Rounding) -> Parameters:
    """Round every linear to nearest."""
    return at.stored({name: at.rounded(name, weight) for name, weight in at.weights()})


def folded(at: Rounding, scales: str | Callable[[Rounding], SearchResults] = "", limits: str = "") -> Parameters:
    """Fold scales into the block, clip its weights and round them.

    Args:
        at: the block.
        scales: name of the method whose search found the scales, or a function that makes them; empty for none.
        limits: name of the method whose search found the clip limits; empty for none.
    """
    found = (at.found(scales) if scales else SearchResults()) if isinstance(scales, str) else scales(at)
    chosen = [(entry.fold, entry.scales) for entry in found.scales]
    for entry in found.scales:
        for name in (n.name for n in linears_of_block(at.architecture, at.block) if n.site in entry.fold.sites):
            at.applied.exponents[name], at.applied.scales[name] = entry.alpha, entry.scales
    linears, others = fold_block(at.model, at.architecture, at.block, chosen)
    weights = {name.removesuffix(".weight"): weight for name, weight in linears.items()}
    if limits:
        at.applied.limits.update(at.found(limits).limits)
        for name, bounds in at.found(limits).limits.items():
            weights[name] = clipped(weights[name], bounds)
    return at.stored({name: at.rounded(name, weight) for name, weight in weights.items()}) | others


def one_exponent(at: Rounding) -> SearchResults:
    """Compute scales for the groups of the block-level search, all with the same exponent."""
    alpha = at.layers.constant[at.bits]
    scales = at.found("awq-block").scales
    return SearchResults(
        [replace(entry, alpha=alpha, scales=official_scales(entry.magnitude, alpha)) for entry in scales]
    )


def scaled(at: Rounding, alpha_of: Callable[[LayerFindings, int, str], float]) -> Parameters:
    """Round every linear with its own scales, which are divided out afterwards.

    Args:
        at: the block.
        alpha_of: gives the exponent of a linear, from the layers' results, the precision and the linear's name.
    """
    changed = {}
    for name, weight in at.weights():
        magnitude = torch.as_tensor(at.layers.magnitudes[name], dtype=torch.float64, device=weight.device)
        alpha = alpha_of(at.layers, at.bits, name)
        scales = linear_scales(magnitude, torch.tensor([alpha], dtype=torch.float64))[0].to(weight.dtype)  # (in,)
        at.applied.exponents[name], at.applied.scales[name] = alpha, scales
        changed[name] = at.rounded(name, weight * scales) / scales
    return at.stored(changed)


def scaled_by_site(at: Rounding) -> Parameters:
    """Round every linear with the scales of its input site, whether or not an operation absorbs them."""
    changed = {}
    for entry, (name, weight) in zip(linears_of_block(at.architecture, at.block), at.weights(), strict=True):
        scale = at.applied.scales[name] = at.found("awq-site").sites[entry.site].to(weight)
        changed[name] = at.rounded(name, weight * scale) / scale
    return at.stored(changed)


def keeping(at: Rounding, chosen: Callable[[Rounding, str, Tensor], np.ndarray]) -> Parameters:
    """Round every linear but 1% of its input channels, which stay in full precision (the AWQ paper's Table 1).

    Args:
        at: the block.
        chosen: gives the indices of the kept channels, from the block, the linear's name and its weight.
    """
    changed = {}
    for name, weight in at.weights():
        quantized = at.rounded(name, weight).clone()
        columns = torch.as_tensor(chosen(at, name, weight), device=weight.device)
        quantized[:, columns] = weight[:, columns]
        changed[name] = quantized
    return at.stored(changed)


def by_activation(at: Rounding, name: str, weight: Tensor) -> np.ndarray:
    """Choose the 1% of channels with the largest calibration magnitude."""
    return salient_channels(at.layers.magnitudes[name])


def by_weight(at: Rounding, name: str, weight: Tensor) -> np.ndarray:
    """Choose the 1% of channels with the largest mean abs(w)."""
    return salient_channels(weight.abs().mean(dim=0, dtype=torch.float64).cpu().numpy())


def at_random(at: Rounding, name: str, weight: Tensor, choice: int) -> np.ndarray:
    """Choose 1% of channels at random, a function of the seed, the choice and the linear's name."""
    magnitude = at.layers.magnitudes[name]
    generator = np.random.default_rng([at.layers.seed, choice, *name.encode()])
    return generator.choice(len(magnitude), len(salient_channels(magnitude)), replace=False)


def coded(at: Rounding, method: str) -> Parameters:
    """Use the weights that a method's search found, with the signs of a redraw reversed."""
    found = at.found(method).weights
    weights = {name: found[name].dequantize().to(weight) for name, weight in at.weights()}
    if at.draw:
        weights = {name: weight * at.signs(name, weight.shape[1]).to(weight) for name, weight in weights.items()}
    return at.stored(weights)
