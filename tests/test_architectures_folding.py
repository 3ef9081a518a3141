"""Folding in every architecture: exact where it may be exact, and noticed where it is not done right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from awq_core.architectures.folding import fold_block
from awq_core.architectures.model import (
    Architecture,
    Fold,
    applicable_folds,
    in_storage_layout,
    linear,
    shared_magnitude,
    weight_of,
)
from tests.tiny_architectures import CASES, Case, every_case, logits, relative_change, tiny

grouped_cases = pytest.mark.parametrize(
    "shape", [shape for shape in CASES if shape.grouped], ids=[shape.name for shape in CASES if shape.grouped]
)


@pytest.fixture(autouse=True)
def norms_in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma's norms multiply by their weight in float32, whatever the model's dtype: here `float()` is `double()`."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def width_of(model: Any, architecture: Architecture, block: int, fold: Fold) -> int:
    path = architecture.site(fold.name).linears[0][1]
    return weight_of(linear(model, f"{architecture.blocks}.{block}.{path}")).shape[1]


def drawn(
    model: Any, architecture: Architecture, block: int, grouped: bool = False, seed: int = 0
) -> list[tuple[Fold, Tensor]]:
    """Every applicable fold of a block with random scales from 0.3 to 3, shared where they must be."""
    generator = torch.Generator().manual_seed(seed + block)
    found = []
    for fold in applicable_folds(model, architecture, block, grouped=grouped):
        width = width_of(model, architecture, block, fold)
        scale = torch.rand(width, dtype=torch.float64, generator=generator) * 2.7 + 0.3
        found.append((fold, shared_magnitude(model, architecture, block, fold, scale)))
    return found


def folded(model: Any, architecture: Architecture, scales: dict[int, list[tuple[Fold, Tensor]]]) -> dict[str, Tensor]:
    changed: dict[str, Tensor] = {}
    for block, chosen in scales.items():
        linears, others = fold_block(model, architecture, block, chosen)
        changed |= in_storage_layout(model, linears) | others
    return changed


@every_case
@pytest.mark.parametrize("grouped", [False, True])
def test_folding_changes_no_logit(shape: Case, grouped: bool) -> None:
    model, architecture = tiny(shape)
    scales = {block: drawn(model, architecture, block, grouped) for block in range(2)}
    changed = folded(model, architecture, scales)
    expected = logits(model)
    assert relative_change(logits(model, changed), expected) < 1e-9
    assert torch.equal(logits(model), expected)
    for block, chosen in scales.items():  # and every fold did something
        for fold, _ in chosen:
            for site in fold.sites:
                for _, path in architecture.site(site).linears:
                    name = f"{architecture.blocks}.{block}.{path}.weight"
                    assert not torch.allclose(changed[name], model.get_parameter(name))


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folding_works_in_the_models_own_dtype(shape: Case, dtype: torch.dtype) -> None:
    model, architecture = tiny(shape)
    model = model.to(dtype)
    changed = folded(model, architecture, {block: drawn(model, architecture, block, True) for block in range(2)})
    assert {value.dtype for value in changed.values()} == {dtype}
    found = logits(model, changed)
    if dtype == torch.float32:  # in bfloat16 rounding may send a token to another expert
        assert relative_change(found, logits(model)) < 1e-4
    assert bool(torch.isfinite(found).all())


@every_case
def test_the_exact_folds_are_those_that_the_literature_knows(shape: Case) -> None:
    model, architecture = tiny(shape)
    for block in range(2):
        exact = applicable_folds(model, architecture, block)
        assert tuple(dict.fromkeys(fold.name.split(".")[0] for fold in exact)) == shape.exact
        more = applicable_folds(model, architecture, block, grouped=True)
        assert [fold.name for fold in more if fold not in exact] == (["attention_out"] if shape.grouped else [])
        scaled = [site for fold in more for site in fold.sites]
        assert len(scaled) == len(set(scaled))


@grouped_cases
def test_a_grouped_fold_wants_a_scale_that_query_heads_share(shape: Case) -> None:
    model, architecture = tiny(shape)
    (fold,) = (f for f in applicable_folds(model, architecture, 0, grouped=True) if f.name == "attention_out")
    width = width_of(model, architecture, 0, fold)
    magnitude = torch.rand(width, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    with pytest.raises(ValueError, match="block 0: scales of attention_out must be equal where one row of"):
        fold_block(model, architecture, 0, [(fold, magnitude)])
    shared = shared_magnitude(model, architecture, 0, fold, magnitude)
    size = width // 4
    means = magnitude.view(2, 2, size).mean(1)  # by key-value head, over the two query heads that read it
    torch.testing.assert_close(shared.view(2, 2, size), torch.stack([means, means], dim=1))
    others = (f for f in applicable_folds(model, architecture, 0) if f.name != "attention_out")
    for other in others:
        assert torch.equal(shared_magnitude(model, architecture, 0, other, magnitude), magnitude)


@every_case
def test_leaving_out_the_inverse_would_show(shape: Case) -> None:
    """Were the operation before, its bias or a router left as it was, the logits would change."""
    model, architecture = tiny(shape)
    expected = logits(model)
    for fold, scale in drawn(model, architecture, 0, grouped=True):
        changed = folded(model, architecture, {0: [(fold, scale)]})
        before = [f"{fold.previous}.weight", f"{fold.previous}.bias", *(f"{path}.weight" for path in fold.further)]
        for path in before:
            name = f"{architecture.blocks}.0.{path}"
            if name in changed:
                wrong = changed | {name: model.get_parameter(name).detach()}
                assert relative_change(logits(model, wrong), expected) > 1e-6, name
