"""The block-level scale search, on full-precision inputs, for one group of linears that share a scale.

llm-awq: `s = clamp(x^alpha, 1e-4) / sqrt(max s * min s)` with `alpha = i / 20, i = 0 ... 19`; the loss is the mean
squared error of the inspected module's output over the calibration tokens, with the group's linears quantized and
everything else in full precision. Where the inspected module is the linear itself (o and down), that loss is
`tr(E G E^T)` and no token is replayed. Elsewhere candidates race (`racing.py`): llm-awq replays all tokens for each of
them, and most of that goes into candidates that a few sequences rule out. Two published variants share the search and
differ in the candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from awq_core.architecture import Architecture, Fold, linear, shared_magnitude, stored, weight_of
from awq_core.block_inputs import BlockInputs
from awq_core.moments import MeasurementError
from awq_core.output_error import summed_squared_output
from awq_core.quantizer import deployed_group_size
from awq_core.racing import race
from awq_core.scales import duo_scales, official_scales, relative_weight_size, scaled_round_to_nearest

OFFICIAL_ALPHAS = tuple(i / 20 for i in range(20))
"""1.0 is never tried, as in llm-awq."""

Formula = Literal["official", "duo"]
"""llm-awq's scales, or AutoAWQ's and llm-compressor's, which divide by the weights' size."""


@dataclass(frozen=True)
class FoundScale:
    """The winner of one group's search.

    Attributes:
        block: index of the block.
        fold: the group.
        alpha: the exponent with the least loss.
        scales: `(width,)`.
        losses: `(alphas,)`, mean squared error of the inspected module's output for each exponent, over the sequences
            that it was tried on.
        tried: `(alphas,)`, share of the calibration sequences that each exponent was tried on.
    """

    block: int
    fold: Fold
    alpha: float
    scales: Tensor
    losses: tuple[float, ...]
    tried: tuple[float, ...]


def search_group(
    model: Any,
    architecture: Architecture,
    block: int,
    fold: Fold,
    bits: int,
    inputs: BlockInputs,
    formula: Formula = "official",
    *,
    exhaustive: bool = False,
) -> FoundScale:
    """The scale of one group.

    Args:
        model: unmodified; it is the same afterwards.
        architecture: its row of the table.
        block: index of the block.
        fold: the group, and what absorbs its scale.
        bits: precision.
        inputs: what reaches the block.
        formula: which candidates.
        exhaustive: try every exponent on every sequence, as llm-awq does.

    Raises:
        MeasurementError: if a loss is NaN or infinite.
    """
    prefix = f"{architecture.blocks}.{block}"
    linears = [linear(model, f"{prefix}.{path}") for site in fold.sites for _, path in architecture.site(site).linears]
    weights = [weight_of(module) for module in linears]
    magnitude = shared_magnitude(model, architecture, block, fold, inputs.magnitude(fold)).to(weights[0])
    candidates = _candidates(magnitude, weights, formula)

    def quantized(candidate: int) -> list[Tensor]:
        return [scaled_round_to_nearest(weight, candidates[candidate], "asym-g128", bits) for weight in weights]

    def replayed(candidate: int, sequences: np.ndarray) -> np.ndarray:
        with replaced_weights(linears, quantized(candidate)):
            return inputs.sequence_losses(fold.inspected, sequences)

    def from_second_moment(candidate: int, _: np.ndarray) -> np.ndarray:
        moment = inputs.second_moments[fold.name]
        summed = float(summed_squared_output((quantized(candidate)[0] - weights[0]).to(moment.dtype), moment))
        return np.array([summed / (max(inputs.tokens[fold.name], 1) * len(weights[0]))])

    try:
        if fold.inspected in inputs.modules:
            cases = inputs.sequences(fold.inspected)
            found = race(len(candidates), cases, replayed, exhaustive=exhaustive)
        else:
            cases = 1  # all tokens at once
            found = race(len(candidates), cases, from_second_moment)
    except FloatingPointError:
        raise MeasurementError(
            f"block {block}, {fold.name}: the block-level search met a NaN or infinite loss"
        ) from None
    return FoundScale(
        block,
        fold,
        OFFICIAL_ALPHAS[found.winner],
        candidates[found.winner],
        tuple(found.losses.tolist()),
        tuple((found.tried / cases).tolist()),
    )


def _candidates(magnitude: Tensor, weights: list[Tensor], formula: Formula) -> list[Tensor]:
    if formula == "official":
        return [official_scales(magnitude, alpha) for alpha in OFFICIAL_ALPHAS]
    size = relative_weight_size(torch.cat(weights), deployed_group_size(weights[0].shape[1]))  # (in,)
    return [duo_scales(magnitude, size, alpha) for alpha in OFFICIAL_ALPHAS]


@contextmanager
def replaced_weights(modules: list[Any], weights: list[Tensor]) -> Iterator[None]:
    """Give linears other weights `(out, in)` for a while; the originals come back even after an error.

    The weights' storage is exchanged, never copied into: a backup that aliases live weights is how two
    published implementations came to score every exponent after the first on damaged weights.
    """
    originals = [module.weight.data for module in modules]
    try:
        for module, weight in zip(modules, weights, strict=True):
            module.weight.data = stored(module, weight)
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.weight.data = original
