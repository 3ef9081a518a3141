"""The folding check: it passes where a fold is right, and notices every way in which one is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import awq_core.architectures.folding
from awq_core.architectures.block_stream import Blocks
from awq_core.measure.fold_check import FoldingCheck, check_folding, folded_by_powers_of_two
from tests.structured_model import LLAMA, a_module, a_parameter, an_operation, structured_model, tokens, while_folded
from tests.tiny_architectures import Case, every_case, tiny, token_ids


def case(key_value_heads: int = 4, dtype: torch.dtype = torch.float64) -> Any:
    return structured_model(key_value_heads, "qwen2").to(dtype)


def checked(model: Any) -> FoldingCheck:
    return check_folding(Blocks(model, LLAMA), torch.from_numpy(tokens(4, seed=5)))


@every_case
def test_a_right_fold_changes_nothing_in_any_architecture(shape: Case) -> None:
    model, architecture = tiny(shape)
    blocks = Blocks(model, architecture)
    check = check_folding(blocks, token_ids(3, 24))
    # Gemma's norms multiply by 1 + weight, which is rounded, in single precision.
    assert check.largest_difference < (1e-6 if shape.model_type.startswith("gemma") else 1e-12)
    assert (check.modules_changed, check.parameters_changed, check.operations_changed) == (0, 0, 0)
    covered = {*shape.exact, *(("mlp_in",) if shape.model_type == "phi" else ())}  # there one norm feeds both
    foldable = [len(site.linears) for site in architecture.sites if site.role in covered]
    every = [len(site.linears) for site in architecture.sites]
    assert (check.foldable_linears, check.linears) == (2 * sum(foldable), 2 * sum(every))


@every_case
def test_every_fold_has_scales_of_its_own(shape: Case) -> None:
    """Powers of two, other ones for other seeds and blocks; the averaged fold of grouped queries among them."""
    model, architecture = tiny(shape)
    (first, again, other, further) = (
        folded_by_powers_of_two(model, architecture, block, seed) for block, seed in ((0, 3), (0, 3), (0, 4), (1, 3))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    folds = {*shape.exact, *(("attention_out",) if shape.grouped else ())}
    for site in architecture.sites:
        for _, path in site.linears:
            name = f"{architecture.blocks}.0.{path}.weight"
            powers = (first[name] / model.get_parameter(name)).log2()
            torch.testing.assert_close(powers, powers.round(), rtol=0, atol=1e-9)
            assert (len(powers.unique()) > 2) == (site.role in folds or bool(powers.any())), name
            if site.role in folds:
                assert not torch.equal(first[name], other[name])
                next_one = name.replace(".0.", ".1.", 1)
                assert not torch.equal(powers, (further[next_one] / model.get_parameter(next_one)).log2())


@pytest.mark.parametrize(("key_value_heads", "foldable"), [(4, 14), (2, 12)])
def test_a_right_fold_changes_nothing(key_value_heads: int, foldable: int) -> None:
    model = case(key_value_heads)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    check = checked(model)
    assert check.largest_difference < 1e-12
    assert (check.modules_changed, check.parameters_changed, check.operations_changed) == (0, 0, 0)
    assert (check.foldable_linears, check.linears) == (foldable, 14)
    assert (check.tokens, check.dtype, check.tolerance) == (128, "float64", 1e-9)
    assert check.modules_before == sum(len(list(block.modules())) for block in model.model.layers)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_powers_of_two_round_nothing(dtype: torch.dtype, key_value_heads: int) -> None:
    check = checked(case(key_value_heads, dtype))
    assert check.dtype == str(dtype).removeprefix("torch.")
    # Half precision has few exponents: the smallest weights lose bits when they are divided.
    assert check.largest_difference <= (check.tolerance if dtype is torch.float16 else 0.0)


@pytest.mark.parametrize("name", ["_divide_norm", "_divide_linear", "_divide_bias"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_fold_that_forgets_to_divide_is_noticed(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = case(dtype=dtype)
    monkeypatch.setattr(awq_core.architectures.folding, name, lambda *_: None)
    check = checked(model)
    assert check.largest_difference > check.tolerance


def another_class(mlp: Any) -> Any:
    kept = mlp.down_proj
    mlp.down_proj = nn.Sequential(kept)
    return lambda: setattr(mlp, "down_proj", kept)


@pytest.mark.parametrize(
    ("add", "modules", "parameters", "operations"),
    [(a_module, 1, 0, 0), (a_parameter, 0, 1, 0), (another_class, 3, 2, 0), (an_operation, 0, 0, 1)],
)
def test_whatever_is_added_is_counted(
    add: Any, modules: int, parameters: int, operations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A linear wrapped in a sequence: it and its parameter move, and the sequence stands where it was."""
    model = case()
    while_folded(monkeypatch, add)
    check = checked(model)
    changed = check.modules_changed, check.parameters_changed, check.operations_changed
    assert changed == (modules, parameters, operations)
    assert check.largest_difference < check.tolerance


def test_few_tokens_are_checked_of_many() -> None:
    model = case()
    assert check_folding(Blocks(model, LLAMA), torch.from_numpy(tokens(100))).tokens == 2048
    assert check_folding(Blocks(model, LLAMA), torch.from_numpy(tokens(1, length=50))).tokens == 50
