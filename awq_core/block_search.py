"""The official block-level scale search (llm-awq), on full-precision inputs, block by block.

For each group of linears that share an input: `s = clamp(x^alpha, 1e-4) / sqrt(max s * min s)` with
`alpha = i / 20, i = 0 ... 19`; the loss is the mean squared error of the inspected module's output over all
calibration tokens, with the group's linears quantized and everything else in full precision. Where the
inspected module is the linear itself (o and down), that loss is `tr(E G E^T)` and no token is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from awq_core.architecture import Architecture, Fold, applicable_folds, linear
from awq_core.moments import MeasurementError
from awq_core.output_error import summed_squared_output
from awq_core.quantizer import round_to_nearest
from awq_core.scales import official_scales, scaled_round_to_nearest
from awq_core.streaming import BlockStream

OFFICIAL_ALPHAS = tuple(i / 20 for i in range(20))
"""1.0 is never tried, as in llm-awq."""


@dataclass(frozen=True)
class FoundScale:
    """The winner of one group's search.

    Attributes:
        block: index of the block.
        fold: the group.
        alpha: the exponent with the least loss.
        scales: `(width,)`.
        losses: `(alphas,)`, mean squared error of the inspected module's output for each exponent.
    """

    block: int
    fold: Fold
    alpha: float
    scales: Tensor
    losses: tuple[float, ...]


def search_blocks(
    model: Any,
    architecture: Architecture,
    calibration: np.ndarray,
    bits: tuple[int, ...],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[int, list[FoundScale]]:
    """Search every block, at every precision.

    Args:
        model: unmodified, in evaluation mode; it is the same afterwards.
        architecture: its row of the table.
        calibration: token ids `[sequences, length]`.
        bits: precisions.
        progress: called with `(blocks done, blocks)`.

    Returns:
        For each precision, the found scales of all blocks in order.
    """
    stream = BlockStream(model, architecture, {"calibration": calibration}, groups=1)
    found: dict[int, list[FoundScale]] = {precision: [] for precision in bits}
    for block in range(stream.blocks):
        stream.begin(block)
        inputs = _ModuleInputs(stream, block)
        for fold in applicable_folds(model, architecture, block):
            for precision in bits:
                found[precision].append(_search_group(model, architecture, block, fold, precision, inputs))
        stream.advance(block)
        progress(block + 1, stream.blocks)
    return found


class _ModuleInputs:
    """What reached a block's inspected modules on the calibration tokens, in full precision."""

    def __init__(self, stream: BlockStream, block: int) -> None:
        self.magnitudes: dict[str, Tensor] = {}
        self.second_moments: dict[str, Tensor] = {}
        self.calls: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self.outputs: dict[str, list[Tensor]] = {}
        self.modules = {
            fold.inspected: stream.modules[block].get_submodule(fold.inspected)
            for fold in stream.architecture.folds
            if not isinstance(stream.modules[block].get_submodule(fold.inspected), nn.Linear)
        }
        handles = [
            module.register_forward_hook(self._keep(path), with_kwargs=True) for path, module in self.modules.items()
        ]
        sums: dict[str, Tensor] = {}
        self.tokens = 0
        try:
            for _, sites in stream.passes(block, "calibration"):
                self.tokens += len(next(iter(sites.values())))
                for role, x in sites.items():
                    x = x.to(torch.promote_types(x.dtype, torch.float32))  # half precision would lose the sums
                    total, moment = x.abs().sum(dim=0, dtype=torch.float64), x.T @ x  # (in,), (in, in)
                    sums[role] = sums.get(role, 0) + total
                    self.second_moments[role] = self.second_moments.get(role, 0) + moment
        finally:
            for handle in handles:
                handle.remove()
        self.magnitudes = {role: total / self.tokens for role, total in sums.items()}

    def _keep(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self.calls.setdefault(path, []).append((args, kwargs))
            self.outputs.setdefault(path, []).append(_tensor(output))

        return hook

    def module_loss(self, path: str) -> float:
        """Mean squared change of a module's output, with whatever weights it has now."""
        summed, count = 0.0, 0
        for (args, kwargs), expected in zip(self.calls[path], self.outputs[path], strict=True):
            with torch.no_grad():
                output = _tensor(self.modules[path](*args, **kwargs))
            summed += float((output - expected).float().square().sum(dtype=torch.float64))
            count += expected.numel()
        return summed / count


def _search_group(
    model: Any, architecture: Architecture, block: int, fold: Fold, bits: int, inputs: _ModuleInputs
) -> FoundScale:
    prefix = f"{architecture.blocks}.{block}"
    linears = [linear(model, f"{prefix}.{path}") for _, path in architecture.site(fold.role).linears]
    magnitude = inputs.magnitudes[fold.role].to(linears[0].weight)
    candidates = [official_scales(magnitude, alpha) for alpha in OFFICIAL_ALPHAS]
    losses = []
    for scales in candidates:
        quantized = [scaled_round_to_nearest(module.weight.detach(), scales, "asym-g128", bits) for module in linears]
        if fold.inspected in inputs.modules:
            with replaced_weights(linears, quantized):
                losses.append(inputs.module_loss(fold.inspected))
        else:
            moment = inputs.second_moments[fold.role]
            difference = (quantized[0] - linears[0].weight.detach()).to(moment.dtype)
            summed = float(summed_squared_output(difference, moment))
            losses.append(summed / (inputs.tokens * len(difference)))
    if not np.isfinite(losses).all():
        raise MeasurementError(f"block {block}, {fold.role}: the block-level search met a NaN or infinite loss")
    best = int(np.argmin(losses))
    return FoundScale(block, fold, OFFICIAL_ALPHAS[best], candidates[best], tuple(losses))


@contextmanager
def replaced_weights(modules: list[nn.Linear], weights: list[Tensor]) -> Iterator[None]:
    """Give linears other weights for a while; the originals come back even after an error.

    The weights' storage is exchanged, never copied into: a backup that aliases live weights is how two
    published implementations came to score every exponent after the first on damaged weights.
    """
    originals = [module.weight.data for module in modules]
    try:
        for module, weight in zip(modules, weights, strict=True):
            module.weight.data = weight
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.weight.data = original


def rounded(weights: dict[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Every weight under the deployed quantizer."""
    return {name: round_to_nearest(weight, "asym-g128", bits) for name, weight in weights.items()}


def _tensor(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
