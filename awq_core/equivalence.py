"""What folding leaves as it was: the function, the modules, the parameters, the operations.

Checked with scales that are powers of two, drawn at random: multiplying and dividing by those rounds nothing in any
dtype, so what is left of a difference is a mistake, and in half precision too a forgotten bias shows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from awq_core.architecture import (
    Architecture,
    Fold,
    applicable_folds,
    blocks_of,
    in_storage_layout,
    linear,
    shared_magnitude,
    weight_of,
)
from awq_core.block_search import FoundScale
from awq_core.strategies import applied, folded_parameters

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
        modules_before: modules of the model, by path and class, as a count.
        modules_changed: modules that are there only before or only after.
        parameters_changed: parameters whose name, shape or dtype is there only before or only after.
        operations_changed: tensor operations of one forward pass that are there only before or only after, by name.
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


def check_folding(model: Any, architecture: Architecture, tokens: Tensor, seed: int = 0) -> FoldingCheck:
    """Fold scales into a model without rounding, and compare it with itself.

    Every fold is checked, with the averaged one of grouped-query attention.

    Args:
        model: unmodified; it is the same afterwards.
        architecture: its row of the table.
        tokens: `(windows, T)`.
        seed: of the scales.
    """
    most = min(CHECKED_TOKENS, CHECKED_LOGITS // model.get_output_embeddings().weight.shape[0])
    windows = tokens[: max(1, most // tokens.shape[1])]
    before, shape_before = _logits(model, windows), _shape(model, windows[:1])
    linears, others = folded_parameters(model, architecture, powers_of_two(model, architecture, seed))
    with applied(model, in_storage_layout(model, linears) | others):
        after, shape_after = _logits(model, windows), _shape(model, windows[:1])
    difference = float((after - before).abs_().max() / before.abs().max())
    dtype = next(model.parameters()).dtype
    modules, parameters, operations = (
        sum(((old - new) + (new - old)).values()) for old, new in zip(shape_before, shape_after, strict=True)
    )
    return FoldingCheck(
        difference,
        LOGIT_TOLERANCE[dtype],
        str(dtype).removeprefix("torch."),
        windows.numel(),
        shape_before[0].total(),
        modules,
        parameters,
        operations,
        *_foldable(model, architecture),
    )


def powers_of_two(model: Any, architecture: Architecture, seed: int) -> list[FoundScale]:
    """A scale for every fold of every block, each channel's a random power of two."""
    generator = torch.Generator().manual_seed(seed)

    def scale(block: int, fold: Fold) -> FoundScale:
        reader = architecture.site(fold.sites[0]).linears[0][1]
        weight = weight_of(linear(model, f"{architecture.blocks}.{block}.{reader}"))
        powers = torch.randint(-LARGEST_POWER, LARGEST_POWER + 1, weight.shape[1:], generator=generator)
        # Heads that share a value share its scale.
        shared = shared_magnitude(model, architecture, block, fold, powers.exp2().to(weight.device))
        return FoundScale(block, fold, float("nan"), shared.log2().round().exp2(), (), ())

    return [
        scale(block, fold)
        for block in range(len(blocks_of(model, architecture)))
        for fold in applicable_folds(model, architecture, block, grouped=True)
    ]


def _foldable(model: Any, architecture: Architecture) -> tuple[int, int]:
    foldable = total = 0
    for block in range(len(blocks_of(model, architecture))):
        covered = {site for fold in applicable_folds(model, architecture, block) for site in fold.sites}
        for site in architecture.sites:
            total += len(site.linears)
            foldable += len(site.linears) if site.name in covered else 0
    return foldable, total


def _logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(input_ids=row[None], use_cache=False).logits.double().cpu() for row in ids])


class _Operations(TorchDispatchMode):
    """Counts the tensor operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted[str(func)] += 1
        return func(*args, **(kwargs or {}))


def _shape(model: Any, ids: Tensor) -> tuple[Counter[Any], Counter[Any], Counter[Any]]:
    """Modules by path and class, parameters by name, shape and dtype, operations of one forward pass by name."""
    with torch.no_grad(), _Operations() as operations:
        model(input_ids=ids, use_cache=False)
    return (
        Counter((name, type(module).__name__) for name, module in model.named_modules()),
        Counter((name, tuple(p.shape), p.dtype) for name, p in model.named_parameters()),
        operations.counted,
    )
