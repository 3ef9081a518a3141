"""How methods round an opened block: each function gives its changed parameters, in the model's own layout."""

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
from awq_core.measure.methods.found import Found
from awq_core.measured import deployed_quantizer
from awq_core.quantization.clipping import clipped
from awq_core.quantization.quantizers import DEPLOYED, AsymmetricGroups, round_to_nearest
from awq_core.quantization.scales import linear_scales, official_scales


@dataclass(frozen=True)
class LayerFindings:
    """What the layer-level instruments found that methods build on.

    Attributes:
        magnitudes: calibration magnitude `[in_features]` of each linear's input.
        alphas: by bits, each linear's best exponent.
        constant: by bits, the one exponent that is best for all.
        seed: of random choices of channels, and of the signs of redraws.
        quantizer: which rounding every method rounds with.
    """

    magnitudes: Mapping[str, np.ndarray]
    alphas: Mapping[int, Mapping[str, float]]
    constant: Mapping[int, float]
    seed: int
    quantizer: AsymmetricGroups = DEPLOYED

    @classmethod
    def of(cls, channels: xr.Dataset, errors: xr.Dataset, bits: tuple[int, ...], seed: int) -> LayerFindings:
        """Read them from the layer-level datasets (`docs/datasets.md`)."""
        magnitude = channels["magnitude"].sel(split="calibration").transpose("site", "channel")
        labels = (channels[name].values for name in ("linear", "linear_site", "in_features"))
        magnitudes = {
            str(name): magnitude.sel(site=site).values[: int(width)] for name, site, width in zip(*labels, strict=True)
        }
        quantizer = deployed_quantizer(errors)
        alphas = {b: best_alpha(errors, quantizer.name, b) for b in bits}
        return cls(
            magnitudes,
            {
                b: dict(zip(map(str, each["linear"].values), each.values.tolist(), strict=True))
                for b, each in alphas.items()
            },
            {b: constant_alpha(errors, quantizer.name, b) for b in bits},
            seed,
            quantizer,
        )


@dataclass
class Applied:
    """What linears were scaled and clipped with before they were rounded, by the linear's full name.

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
    """An opened block that a method rounds.

    Attributes:
        model: its block is open.
        architecture: its row of the table.
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
    found: Callable[[str], Found]
    draw: int = 0
    applied: Applied = field(default_factory=Applied)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Name and weight `(out, in)` of every linear of the block."""
        for entry in linears_of_block(self.architecture, self.block):
            yield entry.name, weight_of(linear(self.model, entry.name))

    def signs(self, name: str, width: int) -> Tensor:
        """Random signs of a linear's input channels, `(in,)`, for a redraw."""
        return redraw_signs(self.layers.seed, self.draw, name, width)

    def rounded(self, name: str, weight: Tensor) -> Tensor:
        """A linear's weight `(out, in)`, rounded to nearest in this draw: `Q(W S) S`."""
        if self.draw == 0:
            return round_to_nearest(weight, self.layers.quantizer, self.bits)
        signs = self.signs(name, weight.shape[1]).to(weight)
        return round_to_nearest(weight * signs, self.layers.quantizer, self.bits) * signs

    def stored(self, weights: Mapping[str, Tensor]) -> Parameters:
        """Parameters by full name, in the model's own layout, from weights `(out, in)` by linear."""
        return {f"{name}.weight": stored(linear(self.model, name), weight) for name, weight in weights.items()}


def redraw_signs(seed: int, draw: int, name: str, width: int) -> Tensor:
    """Signs `(width,)`, a function of the seed, the draw and the linear."""
    generator = np.random.default_rng([seed, draw, *name.encode()])
    return torch.from_numpy(generator.choice((-1.0, 1.0), width))


def nothing(at: Rounding) -> Parameters:
    """Leave every linear as it is."""
    return {}


def plain(at: Rounding) -> Parameters:
    """Every linear rounded as it is."""
    return at.stored({name: at.rounded(name, weight) for name, weight in at.weights()})


def folded(at: Rounding, scales: str | Callable[[Rounding], Found] = "", limits: str = "") -> Parameters:
    """Folded, clipped and rounded.

    Args:
        at: the block.
        scales: the method whose search found them, or what makes them; empty for none.
        limits: the method whose search found the clip limits; empty for none.
    """
    found = (at.found(scales) if scales else Found()) if isinstance(scales, str) else scales(at)
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


def one_exponent(at: Rounding) -> Found:
    """The groups that the block-level search found, all with one exponent."""
    alpha = at.layers.constant[at.bits]
    scales = at.found("awq-block").scales
    return Found([replace(entry, alpha=alpha, scales=official_scales(entry.magnitude, alpha)) for entry in scales])


def scaled(at: Rounding, alpha_of: Callable[[LayerFindings, int, str], float]) -> Parameters:
    """Every linear with scales of its own, divided out after rounding, given its exponent by bits and name."""
    changed = {}
    for name, weight in at.weights():
        magnitude = torch.as_tensor(at.layers.magnitudes[name], dtype=torch.float64, device=weight.device)
        alpha = alpha_of(at.layers, at.bits, name)
        scales = linear_scales(magnitude, torch.tensor([alpha], dtype=torch.float64))[0].to(weight.dtype)  # (in,)
        at.applied.exponents[name], at.applied.scales[name] = alpha, scales
        changed[name] = at.rounded(name, weight * scales) / scales
    return at.stored(changed)


def scaled_by_site(at: Rounding) -> Parameters:
    """Linears that share an input share a scale, whether or not anything absorbs it."""
    changed = {}
    for entry, (name, weight) in zip(linears_of_block(at.architecture, at.block), at.weights(), strict=True):
        scale = at.applied.scales[name] = at.found("awq-site").sites[entry.site].to(weight)
        changed[name] = at.rounded(name, weight * scale) / scale
    return at.stored(changed)


def keeping(at: Rounding, chosen: Callable[[Rounding, str, Tensor], np.ndarray]) -> Parameters:
    """1% of every linear's input channels in full precision (the paper's Table 1): rounded, then put back."""
    changed = {}
    for name, weight in at.weights():
        quantized = at.rounded(name, weight).clone()
        columns = torch.as_tensor(chosen(at, name, weight), device=weight.device)
        quantized[:, columns] = weight[:, columns]
        changed[name] = quantized
    return at.stored(changed)


def by_activation(at: Rounding, name: str, weight: Tensor) -> np.ndarray:
    """The channels with the largest calibration magnitude."""
    return salient_channels(at.layers.magnitudes[name])


def by_weight(at: Rounding, name: str, weight: Tensor) -> np.ndarray:
    """The channels with the largest weights."""
    return salient_channels(weight.abs().mean(dim=0, dtype=torch.float64).cpu().numpy())


def at_random(at: Rounding, name: str, weight: Tensor, choice: int) -> np.ndarray:
    """Draw as many channels as are salient, from the seed, the choice and the linear."""
    magnitude = at.layers.magnitudes[name]
    generator = np.random.default_rng([at.layers.seed, choice, *name.encode()])
    return generator.choice(len(magnitude), len(salient_channels(magnitude)), replace=False)


def coded(at: Rounding, method: str) -> Parameters:
    """The weights that a method's search found."""
    found = at.found(method).weights
    weights = {name: found[name].dequantize().to(weight) for name, weight in at.weights()}
    if at.draw:
        weights = {name: weight * at.signs(name, weight.shape[1]).to(weight) for name, weight in weights.items()}
    return at.stored(weights)
