"""What folding leaves as it was: the function, the modules, the parameters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from awq_core.architecture import Architecture, applicable_folds, blocks_of, in_storage_layout
from awq_core.block_search import FoundScale
from awq_core.strategies import applied, folded_parameters

LOGIT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
"""Largest logit difference, over the largest logit, that rounding in the model's dtype may make.

Half-precision formats round every folded weight once more; a fold that is wrong changes logits by their own size."""

CHECKED_TOKENS = 2048


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
    foldable_linears: int
    linears: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def check_folding(model: Any, architecture: Architecture, scales: list[FoundScale], tokens: Tensor) -> FoldingCheck:
    """Fold scales into a model without rounding, and compare it with itself.

    Args:
        model: unmodified; it is the same afterwards.
        architecture: its row of the table.
        scales: of every block.
        tokens: `(windows, T)`.
    """
    windows = tokens[: max(1, CHECKED_TOKENS // tokens.shape[1])]
    before, shape_before = _logits(model, windows), _shape(model)
    linears, others = folded_parameters(model, architecture, scales)
    with applied(model, in_storage_layout(model, linears) | others):
        after, shape_after = _logits(model, windows), _shape(model)
    difference = float((after - before).abs().max() / before.abs().max())
    dtype = next(model.parameters()).dtype
    return FoldingCheck(
        difference,
        LOGIT_TOLERANCE[dtype],
        str(dtype).removeprefix("torch."),
        windows.numel(),
        len(shape_before["modules"]),
        len(shape_before["modules"] ^ shape_after["modules"]),
        len(shape_before["parameters"] ^ shape_after["parameters"]),
        *_foldable(model, architecture),
    )


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


def _shape(model: Any) -> dict[str, set[Any]]:
    return {
        "modules": {(name, type(module).__name__) for name, module in model.named_modules()},
        "parameters": {(name, tuple(p.shape), p.dtype) for name, p in model.named_parameters()},
    }
