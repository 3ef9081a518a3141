"""The block-level scale search, on full-precision inputs, for one group of linears that share a scale.

llm-awq: `s = clamp(x^alpha, 1e-4) / sqrt(max s * min s)` with `alpha = i / 20, i = 0 ... 19`; the loss is the mean
squared error of the inspected module's output over the calibration tokens, with the group's linears quantized and
everything else in full precision. Where the inspected module is the linear itself (o and down), that loss is
`tr(E G E^T)` and no token is replayed, unless G would cost more than the tokens do. Elsewhere candidates race
(`racing.py`): llm-awq replays all tokens for each of them, and most of that goes into candidates that a few tokens rule
out. Two published variants share the search and differ in the candidates.
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
from awq_core.racing import FEWEST, race
from awq_core.replays import CASE_TOKENS, TokenCalls
from awq_core.scales import duo_scales, official_scales, relative_weight_size, scaled_round_to_nearest

OFFICIAL_ALPHAS = tuple(i / 20 for i in range(20))
"""1.0 is never tried, as in llm-awq."""

FIRST_TOKENS = 256
"""What every candidate is tried on where tokens stand for themselves; where sequences do, it is `racing.FEWEST`."""

ROUNDED_BYTES = 2**30
"""Rounded weights kept at once."""

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
        losses: `(alphas,)`, mean squared error of the inspected module's output for each exponent, over the tokens that
            it was tried on.
        tried: `(alphas,)`, share of the calibration tokens that each exponent was tried on.
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
        exhaustive: try every exponent on every token, as llm-awq does.

    Raises:
        MeasurementError: if a loss is NaN or infinite.
    """
    prefix = f"{architecture.blocks}.{block}"
    linears = [linear(model, f"{prefix}.{path}") for site in fold.sites for _, path in architecture.site(site).linears]
    weights = [weight_of(module) for module in linears]
    magnitude = shared_magnitude(model, architecture, block, fold, inputs.magnitude(fold)).to(weights[0])
    candidates = _candidates(magnitude, weights, formula)

    rounded = _Rounded(weights, candidates, bits)

    def replayed(left: np.ndarray, cases: np.ndarray) -> np.ndarray:
        losses = np.zeros((len(left), len(cases)))
        rounded.keep(left)
        for replay in inputs.calls_of(fold).replays(cases):
            for row, candidate in enumerate(left):
                with replaced_weights(linears, rounded[candidate]):
                    replay.add_losses(losses[row])
        return losses

    def on_tokens(left: np.ndarray, cases: np.ndarray) -> np.ndarray:
        losses = np.zeros((len(left), len(cases)))
        rounded.keep(left)
        for replay, x in inputs.linear_inputs(fold, cases):  # (tokens, in)
            for row, candidate in enumerate(left):
                difference = rounded[candidate][0] - weights[0]
                replay.add((x @ difference.T).float().square(), losses[row])
        return losses

    def from_second_moment(left: np.ndarray, _: np.ndarray) -> np.ndarray:
        moment = inputs.second_moments[fold.name]
        outputs = max(inputs.tokens[fold.name], 1) * len(weights[0])
        differences = (rounded[candidate][0] - weights[0] for candidate in left)
        summed = [float(summed_squared_output(difference.to(moment.dtype), moment)) for difference in differences]
        return np.array(summed)[:, None] / outputs

    try:
        if inputs.by_moment(fold):
            cases = 1  # all tokens at once
            found = race(len(candidates), cases, from_second_moment)
        else:
            calls = inputs.calls_of(fold)
            cases = calls.cases
            evaluate = replayed if fold.inspected in inputs.modules else on_tokens
            first = FIRST_TOKENS // CASE_TOKENS if isinstance(calls, TokenCalls) else FEWEST
            found = race(len(candidates), cases, evaluate, first, exhaustive=exhaustive)
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


class _Rounded:
    """A group's weights under every candidate, rounded once for all rounds of a race where memory allows it.

    Args:
        weights: of the linears.
        candidates: their scales.
        bits: precision.
    """

    def __init__(self, weights: list[Tensor], candidates: list[Tensor], bits: int) -> None:
        self.weights = weights
        self.candidates = candidates
        self.bits = bits
        size = sum(weight.numel() * weight.element_size() for weight in weights)
        self.most = max(1, ROUNDED_BYTES // size)
        self.kept: dict[int, list[Tensor]] = {}

    def keep(self, left: np.ndarray) -> None:
        """Forget all candidates but these."""
        self.kept = {candidate: weights for candidate, weights in self.kept.items() if candidate in left}

    def __getitem__(self, candidate: int) -> list[Tensor]:
        if candidate in self.kept:
            return self.kept[candidate]
        scales = self.candidates[candidate]
        found = [scaled_round_to_nearest(weight, scales, "asym-g128", self.bits) for weight in self.weights]
        if len(self.kept) < self.most:
            self.kept[candidate] = found
        return found


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
