"""Ways to quantize a whole model, each as the parameters it changes.

A strategy that *deploys* folds into an ordinary checkpoint; one that does not would need an extra
multiplication at run time wherever no operation can absorb its scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from awq_core.architecture import Architecture, blocks_of, linear
from awq_core.block_search import FoundScale, rounded
from awq_core.choices import best_alpha, constant_alpha
from awq_core.folding import Parameters, fold_block
from awq_core.scales import linear_scales, scaled_round_to_nearest


@dataclass(frozen=True)
class Strategy:
    """One way to quantize a model.

    Attributes:
        method: `full`, `rtn`, `awq-linear`, `awq-block`, `awq-constant` or `awq-half`.
        bits: precision; 0 for `full`.
        deploys: whether it folds into an ordinary checkpoint.
        parameters: makes the parameters that differ from the full-precision model's.
    """

    method: str
    bits: int
    deploys: bool
    parameters: Callable[[], Parameters]

    @property
    def name(self) -> str:
        """`full`, or the method and its bits: `awq-block-3`."""
        return self.method if self.bits == 0 else f"{self.method}-{self.bits}"


def strategies(
    model: Any,
    architecture: Architecture,
    channels: xr.Dataset,
    errors: xr.Dataset,
    found: dict[int, list[FoundScale]],
) -> list[Strategy]:
    """Every strategy that claims compare, all under asym-g128; full precision first.

    Args:
        model: the full-precision model.
        architecture: its row of the table.
        channels: the layer-level instrument's first dataset (its calibration magnitudes make the scales).
        errors: its second (its calibration errors choose the exponents).
        found: the block-level search's scales by bits.
    """
    names = errors["linear"].values.tolist()
    magnitudes = _magnitudes(channels)

    def scaled(method: str, bits: int, alphas: dict[str, float], deploys: bool = False) -> Strategy:
        return Strategy(method, bits, deploys, lambda: _scaled_parameters(model, bits, alphas, magnitudes))

    rtn = dict.fromkeys(names, 0.0)
    listed = [Strategy("full", 0, True, dict), scaled("rtn", 2, rtn, deploys=True)]
    for bits, scales in sorted(found.items()):
        each = best_alpha(errors, "asym-g128", bits)
        constant = constant_alpha(errors, "asym-g128", bits)
        listed += [
            scaled("rtn", bits, rtn, deploys=True),
            scaled("awq-linear", bits, dict(zip(names, each.values.tolist(), strict=True))),
            _block_strategy(model, architecture, bits, scales),
            scaled("awq-constant", bits, dict.fromkeys(names, constant)),
            scaled("awq-half", bits, dict.fromkeys(names, 0.5)),
        ]
    return listed


def folded_parameters(
    model: Any, architecture: Architecture, scales: list[FoundScale]
) -> tuple[Parameters, Parameters]:
    """Parameters of the whole model after folding, before rounding: `(linear weights, norms and biases)`."""
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
    """
    present = dict(model.named_parameters())
    originals = {name: present[name].data for name in parameters}
    try:
        for name, value in parameters.items():
            present[name].data = value.to(present[name])
        yield
    finally:
        for name, original in originals.items():
            present[name].data = original


def _block_strategy(model: Any, architecture: Architecture, bits: int, scales: list[FoundScale]) -> Strategy:
    def parameters() -> Parameters:
        linears, others = folded_parameters(model, architecture, scales)
        return rounded(linears, bits) | others

    return Strategy("awq-block", bits, True, parameters)


def _scaled_parameters(
    model: Any, bits: int, alphas: dict[str, float], magnitudes: dict[str, np.ndarray]
) -> Parameters:
    changed: Parameters = {}
    for name, alpha in alphas.items():
        weight = linear(model, name).weight.detach()
        magnitude = torch.as_tensor(magnitudes[name], dtype=torch.float64, device=weight.device)
        scales = linear_scales(magnitude, torch.tensor([alpha], dtype=torch.float64))[0].to(weight.dtype)  # (in,)
        changed[f"{name}.weight"] = scaled_round_to_nearest(weight, scales, "asym-g128", bits)
    return changed


def _magnitudes(channels: xr.Dataset) -> dict[str, np.ndarray]:
    """Calibration magnitude `[in_features]` of each linear's input."""
    magnitude = channels["magnitude"].sel(split="calibration").transpose("site", "channel")
    found = {}
    for name, site, width in zip(
        channels["linear"].values, channels["linear_site"].values, channels["in_features"].values, strict=True
    ):
        found[str(name)] = magnitude.sel(site=site).values[: int(width)]
    return found
