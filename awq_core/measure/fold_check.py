"""Check that folding preserves a model's function, modules, parameters and operations.

The scales are random powers of two: multiplying and dividing by them rounds nothing in any dtype, so that any
difference is a mistake, and a forgotten bias shows even in half precision.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from awq_core.architectures.block_stream import Blocks
from awq_core.architectures.folding import Parameters, exchanged, fold_block
from awq_core.architectures.model import (
    Architecture,
    Fold,
    applicable_folds,
    in_storage_layout,
    linear,
    shared_magnitude,
    weight_of,
)
from awq_core.measure.layers.moments import MeasurementError
from awq_core.measure.methods.losses import logits_of

LOGIT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}
"""Tolerance by dtype: largest difference of a logit, relative to the largest absolute logit.

Needed because norms that store their weight minus one (Gemma) round `(1 + w) / s - 1` for any `s`."""

LARGEST_POWER = 2
"""Largest exponent of the scales, which range from `2^-2` to `2^2`."""

CHECKED_TOKENS = 2048
"""Largest number of tokens to check; at least one window is always checked. A mistake in folding shows in any token."""
CHECKED_LOGITS = 2**26
"""Largest number of logits to check, per model: about 440 tokens with a vocabulary of 152k."""


@dataclass(frozen=True)
class FoldingCheck:
    """Effects of folding on a model without rounding.

    Attributes:
        largest_difference: largest absolute change of a logit, divided by the largest absolute logit.
        tolerance: largest `largest_difference` that the model's dtype explains.
        dtype: dtype of the output head, such as `float32`.
        tokens: number of checked tokens.
        modules_before: number of modules of all blocks before folding.
        modules_changed: number of modules, by path and class, that exist only before or only after folding.
        parameters_changed: number of parameters, by name, shape and dtype, that exist only before or only after.
        operations_changed: number of tensor operations in the forward passes of all blocks that run only before or only
            after.
        foldable_linears: number of linears whose scale an operation absorbs.
        linears: number of linears.
    """

    largest_difference: float
    tolerance: float
    dtype: str
    tokens: int
    modules_before: int
    modules_changed: int
    parameters_changed: int
    operations_changed: int
    foldable_linears: int
    linears: int

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values by attribute name."""
        return asdict(self)


def check_folding(blocks: Blocks, tokens: Tensor, seed: int = 0) -> FoldingCheck:
    """Fold random scales into a model's blocks without rounding, and compare the model before and after.

    All folds are checked, including the fold with shared scales under grouped-query attention.

    Args:
        blocks: blocks of the model, which is unchanged afterwards.
        tokens: token ids, `(windows, T)`.
        seed: seed of the scales.

    Raises:
        MeasurementError: if the original model's logits are NaN, infinite or all zero.
    """
    model, architecture = blocks.model, blocks.architecture
    most = min(CHECKED_TOKENS, CHECKED_LOGITS // model.get_output_embeddings().weight.shape[0])
    windows = tokens[: max(1, most // tokens.shape[1])]
    before = after = blocks.embed(windows)
    blocks.arguments(windows.shape[1])
    changed: list[Counter[Any]] = [Counter(), Counter(), Counter()]
    modules = foldable = total = 0
    for block, module in enumerate(blocks.modules):
        with blocks.open(block):
            shape_before = _shape(blocks, block, before[:1])
            before = blocks.forward(block, before)
            with exchanged(model, folded_by_powers_of_two(model, architecture, block, seed)):
                shape_after = _shape(blocks, block, after[:1])
                after = blocks.forward(block, after)
        for kind, old, new in zip(changed, shape_before, shape_after, strict=True):
            kind.update(old - new)
            kind.update(new - old)
        modules += sum(1 for _ in module.modules())
        covered = {site for fold in applicable_folds(model, architecture, block) for site in fold.sites}
        total += sum(len(site.linears) for site in architecture.sites)
        foldable += sum(len(site.linears) for site in architecture.sites if site.name in covered)
    largest = difference = 0.0
    for logits, folded in zip(_logits(blocks, before), _logits(blocks, after), strict=True):
        largest = max(largest, float(logits.abs().nan_to_num(torch.inf).max()))
        difference = max(difference, float((folded - logits).abs().nan_to_num(torch.inf).max()))
    if not (math.isfinite(largest) and largest > 0):
        raise MeasurementError("the model's logits are NaN, infinite or all zero")
    dtype = next(model.get_output_embeddings().parameters()).dtype
    return FoldingCheck(
        difference / largest,
        LOGIT_TOLERANCE[dtype],
        str(dtype).removeprefix("torch."),
        windows.numel(),
        modules,
        changed[0].total(),
        changed[1].total(),
        changed[2].total(),
        foldable,
        total,
    )


def folded_by_powers_of_two(model: Any, architecture: Architecture, block: int, seed: int) -> Parameters:
    """Compute an opened block's parameters after folding, with a random power of two as each channel's scale."""
    generator = torch.Generator().manual_seed(seed + block)

    def scale(fold: Fold) -> Tensor:
        reader = architecture.site(fold.sites[0]).linears[0][1]
        weight = weight_of(linear(model, f"{architecture.blocks}.{block}.{reader}"))
        powers = torch.randint(-LARGEST_POWER, LARGEST_POWER + 1, weight.shape[1:], generator=generator)
        # Query heads that read one value head share their scales.
        shared = shared_magnitude(model, architecture, block, fold, powers.exp2().to(weight.device))
        return shared.log2().round().exp2()

    folds = applicable_folds(model, architecture, block, grouped=True)
    linears, others = fold_block(model, architecture, block, [(fold, scale(fold)) for fold in folds])
    return in_storage_layout(model, linears) | others


def _logits(blocks: Blocks, hidden: Tensor) -> Iterator[Tensor]:
    """Yield logits `(T, vocabulary)`, window by window."""
    with torch.no_grad():
        for window in blocks.finish(hidden):
            yield logits_of(blocks.model, window)


class _Operations(TorchDispatchMode):
    """Context in which tensor operations are counted by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted[str(func)] += 1
        return func(*args, **(kwargs or {}))


def _shape(blocks: Blocks, block: int, hidden: Tensor) -> tuple[Counter[Any], Counter[Any], Counter[Any]]:
    """Count modules by path and class, parameters by name, shape and dtype, and operations of one forward pass."""
    module: nn.Module = blocks.modules[block]
    with _Operations() as operations:
        blocks.forward(block, hidden)
    return (
        Counter((name, type(part).__name__) for name, part in module.named_modules()),
        Counter((name, tuple(p.shape), p.dtype) for name, p in module.named_parameters()),
        operations.counted,
    )
