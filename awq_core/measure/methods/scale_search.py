"""Block-level scale search, on full-precision inputs, for one group of linears that share a scale.

As in llm-awq, `s = clamp(x^alpha, 1e-4) / sqrt(max s * min s)` with `alpha = i / 20, i = 0 ... 19`, and the loss is the
mean squared error of the inspected module's output over the calibration tokens, with the group's linears quantized and
everything else in full precision. Candidates race on samples of the tokens (`alpha_race.py`). AutoAWQ's
published variant is the same search with other candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from awq_core.architectures.model import Architecture, Fold, linear, shared_magnitude, weight_of
from awq_core.measure.layers.moments import MeasurementError
from awq_core.measure.methods.alpha_race import race
from awq_core.measure.methods.block_inputs import BlockInputs
from awq_core.measure.methods.scale_losses import RoundingChanges, losses_of
from awq_core.quantization.quantizers import AsymmetricGroups
from awq_core.quantization.scales import duo_scales, official_scales, relative_weight_size

OFFICIAL_ALPHAS = tuple(i / 20 for i in range(20))
"""Exponents to try; as in llm-awq, 1.0 is not among them."""

Formula = Literal["official", "duo"]
"""Formula of scales: llm-awq's (`official_scales`), or AutoAWQ's and llm-compressor's (`duo_scales`)."""


@dataclass(frozen=True)
class FoundScale:
    """Result of the search for one group.

    Attributes:
        block: index of the block.
        fold: fold of the group.
        alpha: exponent with the least loss.
        scales: scales of this exponent, `(width,)`.
        losses: mean squared error of the inspected module's output for each exponent, estimated from the tokens on
            which the exponent was tried.
        tried: share of the calibration tokens on which each exponent was tried.
        magnitude: mean of abs(x), `(width,)`, from which the scales were computed.
    """

    block: int
    fold: Fold
    alpha: float
    scales: Tensor
    losses: tuple[float, ...]
    tried: tuple[float, ...]
    magnitude: Tensor


def search_group(
    model: Any,
    architecture: Architecture,
    block: int,
    fold: Fold,
    quantizer: AsymmetricGroups,
    bits: int,
    inputs: BlockInputs,
    formula: Formula = "official",
    *,
    exhaustive: bool = False,
) -> FoundScale:
    """Search for the scale of one group.

    Args:
        model: model with the block open.
        architecture: the model's row of the table.
        block: index of the block.
        fold: the group, and what absorbs its scale.
        quantizer: which rounding.
        bits: precision.
        inputs: inputs of the block on the calibration tokens.
        formula: formula of the candidate scales.
        exhaustive: whether to try every exponent on every token, as llm-awq does.

    Raises:
        MeasurementError: if a loss is NaN or infinite.
    """
    prefix = f"{architecture.blocks}.{block}"
    members = [member for site in fold.sites for member in architecture.site(site).linears]  # (family, path) each
    linears = [linear(model, f"{prefix}.{path}") for _, path in members]
    weights = [weight_of(module) for module in linears]
    magnitude = shared_magnitude(model, architecture, block, fold, inputs.magnitude(fold)).to(weights[0])
    candidates = candidate_scales(magnitude, weights, formula, quantizer)
    changes = RoundingChanges(
        linears, [family for family, _ in members], torch.stack(candidates, dim=1), quantizer, bits
    )
    try:
        found = race(losses_of(fold, inputs, changes), exhaustive=exhaustive)
    except FloatingPointError:
        raise MeasurementError(
            f"block {block}, {fold.name}: the block-level search met a NaN or infinite loss"
        ) from None
    return FoundScale(
        block=block,
        fold=fold,
        alpha=OFFICIAL_ALPHAS[found.winner],
        scales=candidates[found.winner],
        losses=tuple(found.losses.tolist()),
        tried=tuple(found.tried.tolist()),
        magnitude=magnitude,
    )


def candidate_scales(
    magnitude: Tensor, weights: list[Tensor], formula: Formula, quantizer: AsymmetricGroups
) -> list[Tensor]:
    """Compute the scales of every exponent, `(in,)` each."""
    if formula == "official":
        return [official_scales(magnitude, alpha) for alpha in OFFICIAL_ALPHAS]
    size = relative_weight_size(torch.cat(weights), quantizer.group_size_for(weights[0].shape[1]))  # (in,)
    return [duo_scales(magnitude, size, alpha) for alpha in OFFICIAL_ALPHAS]
