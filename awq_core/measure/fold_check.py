"""What folding leaves as it was: the function, the modules, the parameters, the operations.

Checked with scales that are powers of two, drawn at random: multiplying and dividing by those rounds nothing in any
dtype, so what is left of a difference is a mistake, and in half precision too a forgotten bias shows.
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
from awq_core.architectures.folding import Parameters, fold_block
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
from awq_core.measure.methods.one_pass import exchanged

LOGIT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}
"""Largest logit difference, over the largest logit, that rounding in the model's dtype may make.

Needed where a norm stores its weight less one (Gemma): `(1 + w) / s - 1` is rounded whatever `s` is."""

LARGEST_POWER = 2
"""Scales are from `2^-2` to `2^2`."""

CHECKED_TOKENS = 2048
CHECKED_LOGITS = 2**26
"""No more of either model, but for a window at least: with 152k tokens in the vocabulary one of 440 tokens. A mistake
in folding shows in every token."""


@dataclass(frozen=True)
class FoldingCheck:
    """What folding did to a model that was not rounded afterwards.

    Attributes:
        largest_difference: largest change of a logit over the checked tokens, over the largest abs(logit).
        tolerance: what the dtype allows of it.
        dtype: of the model.
        tokens: how many were checked.
        modules_before: modules of all blocks, by path and class, as a count.
        modules_changed: modules that are there only before or only after.
        parameters_changed: parameters whose name, shape or dtype is there only before or only after.
        operations_changed: tensor operations of all blocks' forward passes that are there only before or only after.
        foldable_linears: linears whose scale an operation absorbs.
        linears: all of them.
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
        """Plain values."""
        return asdict(self)


def check_folding(blocks: Blocks, tokens: Tensor, seed: int = 0) -> FoldingCheck:
    """Fold scales into a model's blocks without rounding, and compare it with itself.

    Every fold is checked, with the averaged one of grouped-query attention.

    Args:
        blocks: of the model, which is the same afterwards.
        tokens: `(windows, T)`.
        seed: of the scales.

    Raises:
        MeasurementError: if a logit is NaN or infinite.
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
    """An opened block's parameters after folding, each channel's scale a random power of two."""
    generator = torch.Generator().manual_seed(seed + block)

    def scale(fold: Fold) -> Tensor:
        reader = architecture.site(fold.sites[0]).linears[0][1]
        weight = weight_of(linear(model, f"{architecture.blocks}.{block}.{reader}"))
        powers = torch.randint(-LARGEST_POWER, LARGEST_POWER + 1, weight.shape[1:], generator=generator)
        # Heads that share a value share its scale.
        shared = shared_magnitude(model, architecture, block, fold, powers.exp2().to(weight.device))
        return shared.log2().round().exp2()

    folds = applicable_folds(model, architecture, block, grouped=True)
    linears, others = fold_block(model, architecture, block, [(fold, scale(fold)) for fold in folds])
    return in_storage_layout(model, linears) | others


def _logits(blocks: Blocks, hidden: Tensor) -> Iterator[Tensor]:
    """Logits `(T, vocabulary)` of each window."""
    with torch.no_grad():
        for window in blocks.finish(hidden):
            yield logits_of(blocks.model, window)


class _Operations(TorchDispatchMode):
    """Counts the tensor operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted[str(func)] += 1
        return func(*args, **(kwargs or {}))


def _shape(blocks: Blocks, block: int, hidden: Tensor) -> tuple[Counter[Any], Counter[Any], Counter[Any]]:
    """Modules by path and class, parameters by name, shape and dtype, operations of one forward pass by name."""
    module: nn.Module = blocks.modules[block]
    with _Operations() as operations:
        blocks.forward(block, hidden)
    return (
        Counter((name, type(part).__name__) for name, part in module.named_modules()),
        Counter((name, tuple(p.shape), p.dtype) for name, p in module.named_parameters()),
        operations.counted,
    )
