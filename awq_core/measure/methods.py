"""The table of methods: one row says how a method calibrates a block and how it rounds it.

All round under asym-g128. A method that *deploys* is an ordinary checkpoint of the same architecture; one that does not
would need something more at run time, which its `needs` names. Adding a method is adding a row to `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from awq_core.architecture import Architecture, applicable_folds, blocks_of, linear, linears_of_block, stored, weight_of
from awq_core.choices import best_alpha, constant_alpha
from awq_core.clipping import clipped
from awq_core.folding import Parameters, fold_block
from awq_core.importance import salient_channels
from awq_core.measure import searches
from awq_core.measure.found import Found
from awq_core.measure.searches import Calibration
from awq_core.quantizer import round_to_nearest
from awq_core.scales import linear_scales, official_scales

RANDOM_CHOICES = 9
"""Random choices of the channels that are kept, which come in threes until a claim is decided: the chance that choosing
by weight is held against."""

A_SCALE_AT_RUN_TIME = "a multiplication at run time wherever no operation absorbs the scale"
MIXED_PRECISION = "two precisions in one matrix"


@dataclass(frozen=True)
class LayerFindings:
    """What the layer-level instruments found that methods build on.

    Attributes:
        magnitudes: calibration magnitude `[in_features]` of each linear's input.
        alphas: by bits, each linear's best exponent.
        constant: by bits, the one exponent that is best for all.
        seed: of random choices of channels, and of the signs of redraws.
    """

    magnitudes: Mapping[str, np.ndarray]
    alphas: Mapping[int, Mapping[str, float]]
    constant: Mapping[int, float]
    seed: int

    @classmethod
    def of(cls, channels: xr.Dataset, errors: xr.Dataset, bits: tuple[int, ...], seed: int) -> LayerFindings:
        """From the layer-level datasets (`docs/datasets.md`)."""
        magnitude = channels["magnitude"].sel(split="calibration").transpose("site", "channel")
        labels = (channels[name].values for name in ("linear", "linear_site", "in_features"))
        magnitudes = {
            str(name): magnitude.sel(site=site).values[: int(width)] for name, site, width in zip(*labels, strict=True)
        }
        alphas = {b: best_alpha(errors, "asym-g128", b) for b in bits}
        return cls(
            magnitudes,
            {
                b: dict(zip(map(str, each["linear"].values), each.values.tolist(), strict=True))
                for b, each in alphas.items()
            },
            {b: constant_alpha(errors, "asym-g128", b) for b in bits},
            seed,
        )


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
    """

    model: Any
    architecture: Architecture
    block: int
    bits: int
    layers: LayerFindings
    found: Callable[[str], Found]
    draw: int = 0

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
            return round_to_nearest(weight, "asym-g128", self.bits)
        signs = self.signs(name, weight.shape[1]).to(weight)
        return round_to_nearest(weight * signs, "asym-g128", self.bits) * signs

    def stored(self, weights: Mapping[str, Tensor]) -> Parameters:
        """Parameters by full name, in the model's own layout, from weights `(out, in)` by linear."""
        return {f"{name}.weight": stored(linear(self.model, name), weight) for name, weight in weights.items()}


def redraw_signs(seed: int, draw: int, name: str, width: int) -> Tensor:
    """Signs `(width,)`, a function of the seed, the draw and the linear."""
    generator = np.random.default_rng([seed, draw, *name.encode()])
    return torch.from_numpy(generator.choice((-1.0, 1.0), width))


def _plain(at: Rounding) -> Parameters:
    return at.stored({name: at.rounded(name, weight) for name, weight in at.weights()})


def _folded(at: Rounding, scales_of: Callable[[Rounding], Found], limits: str | None = None) -> Parameters:
    chosen = [(entry.fold, entry.scales) for entry in scales_of(at).scales]
    linears, others = fold_block(at.model, at.architecture, at.block, chosen)
    weights = {name.removesuffix(".weight"): weight for name, weight in linears.items()}
    if limits is not None:
        for name, bounds in at.found(limits).limits.items():
            weights[name] = clipped(weights[name], bounds)
    return at.stored({name: at.rounded(name, weight) for name, weight in weights.items()}) | others


def _found(method: str) -> Callable[[Rounding], Found]:
    return lambda at: at.found(method)


def _nothing_found(at: Rounding) -> Found:
    return Found()


def _one_exponent(at: Rounding) -> Found:
    """The block-level search's groups, all with one exponent."""
    alpha = at.layers.constant[at.bits]
    scales = at.found("awq-block").scales
    return Found([replace(entry, alpha=alpha, scales=official_scales(entry.magnitude, alpha)) for entry in scales])


def _scaled(at: Rounding, alpha_of: Callable[[LayerFindings, int, str], float]) -> Parameters:
    changed = {}
    for name, weight in at.weights():
        magnitude = torch.as_tensor(at.layers.magnitudes[name], dtype=torch.float64, device=weight.device)
        alpha = torch.tensor([alpha_of(at.layers, at.bits, name)], dtype=torch.float64)
        scales = linear_scales(magnitude, alpha)[0].to(weight.dtype)  # (in,)
        changed[name] = at.rounded(name, weight * scales) / scales
    return at.stored(changed)


def _by_site(at: Rounding) -> Parameters:
    """Linears that share an input share a scale, whether or not anything absorbs it."""
    changed = {}
    for entry, (name, weight) in zip(linears_of_block(at.architecture, at.block), at.weights(), strict=True):
        scale = at.found("awq-site").sites[entry.site].to(weight)
        changed[name] = at.rounded(name, weight * scale) / scale
    return at.stored(changed)


def _keeping(at: Rounding, chosen: Callable[[Rounding, str, Tensor], np.ndarray]) -> Parameters:
    """1% of every linear's input channels in full precision (the paper's Table 1): rounded, then put back."""
    changed = {}
    for name, weight in at.weights():
        quantized = at.rounded(name, weight).clone()
        columns = torch.as_tensor(chosen(at, name, weight), device=weight.device)
        quantized[:, columns] = weight[:, columns]
        changed[name] = quantized
    return at.stored(changed)


def _by_activation(at: Rounding, name: str, weight: Tensor) -> np.ndarray:
    return salient_channels(at.layers.magnitudes[name])


def _by_weight(at: Rounding, name: str, weight: Tensor) -> np.ndarray:
    return salient_channels(weight.abs().mean(dim=0, dtype=torch.float64).cpu().numpy())


def _at_random(at: Rounding, name: str, weight: Tensor, choice: int) -> np.ndarray:
    magnitude = at.layers.magnitudes[name]
    generator = np.random.default_rng([at.layers.seed, choice, *name.encode()])
    return generator.choice(len(magnitude), len(salient_channels(magnitude)), replace=False)


def _coded(at: Rounding, method: str) -> Parameters:
    found = at.found(method).weights
    weights = {name: found[name].dequantize().to(weight) for name, weight in at.weights()}
    if at.draw:
        weights = {name: weight * at.signs(name, weight.shape[1]).to(weight) for name, weight in weights.items()}
    return at.stored(weights)


@dataclass(frozen=True)
class Method:
    """One way to quantize a model, block by block.

    Attributes:
        name: such as `rtn` or `awq-block`.
        round: an opened block's changed parameters, in the model's own layout.
        search: finds what rounding builds on, from what reaches the block; None where nothing is calibrated.
        builds_on: the method whose search it rounds with, or its own search starts from.
        needs: what it needs beyond an ordinary checkpoint; empty where it deploys as it is.
        folds_everywhere: it deploys where an operation absorbs every linear's scale; elsewhere it needs its `needs`.
        own_inputs: its search sees what the blocks before, rounded by it, make of the text.
        draws_searched: its search rounds, and is made anew for every redraw.
        elsewhere: text sets, beside the usual one, that it is calibrated on too.
        shown: no claim waits for it; it is scored where all methods are.
        grouped: it differs from the others only under grouped-query attention.
    """

    name: str
    round: Callable[[Rounding], Parameters]
    search: Callable[[Calibration], Found] | None = None
    builds_on: str = ""
    needs: str = ""
    folds_everywhere: bool = False
    own_inputs: bool = False
    draws_searched: bool = False
    elsewhere: tuple[str, ...] = ()
    shown: bool = False
    grouped: bool = False


_EVERYWHERE: dict[str, Any] = {"needs": A_SCALE_AT_RUN_TIME, "folds_everywhere": True, "shown": True}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("rtn", _plain),
        Method(
            "rtn-clip",
            partial(_folded, scales_of=_nothing_found, limits="rtn-clip"),
            partial(searches.clip_limits, scaled=False),
            shown=True,
        ),
        Method(
            "awq-linear",
            partial(_scaled, alpha_of=lambda layers, bits, name: layers.alphas[bits][name]),
            needs=A_SCALE_AT_RUN_TIME,
            shown=True,
        ),
        Method("awq-site", _by_site, searches.site_scales, **_EVERYWHERE),
        Method(
            "awq-constant-everywhere",
            partial(_scaled, alpha_of=lambda layers, bits, name: layers.constant[bits]),
            **_EVERYWHERE | {"shown": False},
        ),
        Method("awq-half", partial(_scaled, alpha_of=lambda layers, bits, name: 0.5), **_EVERYWHERE),
        Method(
            "awq-block",
            partial(_folded, scales_of=_found("awq-block")),
            searches.block_scales,
            elsewhere=("few", "foreign", "matched"),
        ),
        Method(
            "awq-block-clip",
            partial(_folded, scales_of=_found("awq-block"), limits="awq-block-clip"),
            searches.clip_limits,
            builds_on="awq-block",
        ),
        Method("awq-constant", partial(_folded, scales_of=_one_exponent), builds_on="awq-block", shown=True),
        Method(
            "awq-duo",
            partial(_folded, scales_of=_found("awq-duo")),
            partial(searches.block_scales, formula="duo"),
            shown=True,
        ),
        Method(
            "awq-grouped",
            partial(_folded, scales_of=_found("awq-grouped")),
            searches.grouped_scales,
            builds_on="awq-block",
            shown=True,
            grouped=True,
        ),
        Method(
            "gptq",
            partial(_coded, method="gptq"),
            searches.gptq,
            own_inputs=True,
            draws_searched=True,
            elsewhere=("foreign", "matched"),
        ),
        Method(
            "gptq-parallel", partial(_coded, method="gptq-parallel"), searches.gptq, draws_searched=True, shown=True
        ),
        Method(
            "gptq-order",
            partial(_coded, method="gptq-order"),
            partial(searches.gptq, activation_order=True),
            draws_searched=True,
            shown=True,
        ),
        Method("keep-activation", partial(_keeping, chosen=_by_activation), needs=MIXED_PRECISION),
        Method("keep-weight", partial(_keeping, chosen=_by_weight), needs=MIXED_PRECISION),
        *(
            Method(f"keep-random{i}", partial(_keeping, chosen=partial(_at_random, choice=i)), needs=MIXED_PRECISION)
            for i in range(RANDOM_CHOICES)
        ),
    )
}
"""Every method by name."""


@dataclass(frozen=True)
class Search:
    """One method's search at one precision on one text set.

    Attributes:
        method: whose.
        bits: precision.
        text: name of the text set; empty for the usual one.
        draw: of a method that rounds while it searches.
    """

    method: Method
    bits: int
    text: str
    draw: int = 0

    @property
    def name(self) -> str:
        """`awq-block-few-3`: safe as the name of a folder."""
        parts = (self.method.name, self.text, str(self.bits))
        return "-".join(part for part in parts if part) + (f"~{self.draw}" if self.draw else "")


@dataclass(frozen=True)
class Strategy:
    """One way to quantize a model, as it is scored.

    Attributes:
        method: what is done; None for full precision.
        bits: precision; 0 for `full`.
        text: name of the text set that it is calibrated on; empty for the usual one.
        draw: see `Rounding`.
        needs: what it needs beyond an ordinary checkpoint of this model; empty where it deploys as it is.
    """

    method: Method | None
    bits: int
    text: str = ""
    draw: int = 0
    needs: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """The method and its text set: `awq-block-few`."""
        if self.method is None:
            return "full"
        return f"{self.method.name}-{self.text}" if self.text else self.method.name

    @property
    def name(self) -> str:
        """`full`, or the label and its bits, and the draw if it is a redraw: `awq-block-3`, `rtn-4~2`."""
        if self.method is None:
            return "full"
        return f"{self.label}-{self.bits}" + (f"~{self.draw}" if self.draw else "")

    def searches(self) -> list[Search]:
        """What has to be found before it can round a block, in order."""
        if self.method is None:
            return []
        listed = []
        for name in (self.method.builds_on, self.method.name):
            if name and METHODS[name].search is not None:
                draw = self.draw if METHODS[name].draws_searched else 0
                listed.append(Search(METHODS[name], self.bits, self.text, draw))
        return listed


FULL = Strategy(None, 0)
RTN_AT_TWO_BITS = Strategy(METHODS["rtn"], 2)


def strategies(model: Any, architecture: Architecture, bits: tuple[int, ...], *, all_methods: bool) -> list[Strategy]:
    """Full precision first, then at each precision what is scored of a model.

    Args:
        model: with its configuration; its blocks need not be open.
        architecture: its row of the table.
        bits: precisions.
        all_methods: also those that no claim waits for, and round-to-nearest at 2 bits.
    """
    blocks = range(len(blocks_of(model, architecture)))
    folds = [applicable_folds(model, architecture, block) for block in blocks]
    everywhere = all(
        {site for fold in of for site in fold.sites} == {s.name for s in architecture.sites} for of in folds
    )
    grouped = any(
        len(applicable_folds(model, architecture, block, grouped=True)) > len(of)
        for block, of in zip(blocks, folds, strict=True)
    )
    listed = [FULL, *([RTN_AT_TWO_BITS] if all_methods else [])]
    for precision in sorted(bits):
        for method in METHODS.values():
            if (method.shown and not all_methods) or (method.grouped and not grouped):
                continue
            needs = "" if method.folds_everywhere and everywhere else method.needs
            listed += [Strategy(method, precision, text, needs=needs) for text in ("", *method.elsewhere)]
    return listed
