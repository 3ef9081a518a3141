"""The folding check: it passes where a fold is right, and notices every way in which one is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

import awq_core.equivalence
import awq_core.folding
from awq_core.equivalence import FoldingCheck, check_folding, powers_of_two
from tests.structured_model import LLAMA, structured_model, tokens


def case(key_value_heads: int = 4, dtype: torch.dtype = torch.float64) -> Any:
    return structured_model(key_value_heads, "qwen2").to(dtype)


def checked(model: Any) -> FoldingCheck:
    return check_folding(model, LLAMA, torch.from_numpy(tokens(4, seed=5)))


@pytest.mark.parametrize(("key_value_heads", "averaged"), [(4, 8), (2, 8)])
def test_every_fold_has_scales_of_its_own(key_value_heads: int, averaged: int) -> None:
    drawn = powers_of_two(case(key_value_heads), LLAMA, seed=3)
    assert len(drawn) == averaged  # four sites of two blocks, o under grouped queries too
    for entry in drawn:
        assert set(entry.scales.tolist()) <= {0.25, 0.5, 1.0, 2.0, 4.0}
        assert len(set(entry.scales.tolist())) > 2


@pytest.mark.parametrize(("key_value_heads", "foldable"), [(4, 14), (2, 12)])
def test_a_right_fold_changes_nothing(key_value_heads: int, foldable: int) -> None:
    model = case(key_value_heads)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    check = checked(model)
    assert check.largest_difference < 1e-12
    assert (check.modules_changed, check.parameters_changed, check.operations_changed) == (0, 0, 0)
    assert (check.foldable_linears, check.linears) == (foldable, 14)
    assert (check.tokens, check.dtype, check.tolerance) == (128, "float64", 1e-9)
    assert check.modules_before == len(list(model.modules()))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_powers_of_two_round_nothing(dtype: torch.dtype, key_value_heads: int) -> None:
    check = checked(case(key_value_heads, dtype))
    assert check.dtype == str(dtype).removeprefix("torch.")
    # Half precision has few exponents: the smallest weights lose bits when they are divided.
    assert check.largest_difference <= (check.tolerance if dtype is torch.float16 else 0.0)


def forget_the_norm(*_: object) -> None:
    """The previous operation is a norm, and stays as it was."""


def forget_the_linear(*_: object) -> None:
    """The previous operation is a linear, and stays as it was."""


def forget_the_bias(*_: object) -> None:
    """Of the previous operation the weight alone is divided."""


@pytest.mark.parametrize(
    ("name", "forgets"),
    [("_divide_norm", forget_the_norm), ("_divide_linear", forget_the_linear), ("_divide_bias", forget_the_bias)],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_fold_that_forgets_to_divide_is_noticed(
    name: str, forgets: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = case(dtype=dtype)
    monkeypatch.setattr(awq_core.folding, name, forgets)
    check = checked(model)
    assert check.largest_difference > check.tolerance


def with_more(add: Any) -> Any:
    """`applied`, with something added to the model for as long."""
    real = awq_core.equivalence.applied

    @contextmanager
    def more(model: Any, parameters: Any) -> Iterator[None]:
        with real(model, parameters):
            remove = add(model)
            yield
            remove()

    return more


def a_module(model: Any) -> Any:
    model.model.layers[0].mlp.add_module("scale", nn.Identity())
    return lambda: delattr(model.model.layers[0].mlp, "scale")


def a_parameter(model: Any) -> Any:
    model.model.layers[0].mlp.register_parameter("scale", nn.Parameter(torch.ones(3)))
    return lambda: delattr(model.model.layers[0].mlp, "scale")


def another_class(model: Any) -> Any:
    mlp = model.model.layers[0].mlp
    kept = mlp.down_proj
    mlp.down_proj = nn.Sequential(kept)
    return lambda: setattr(mlp, "down_proj", kept)


def an_operation(model: Any) -> Any:
    return model.model.layers[0].mlp.register_forward_hook(lambda module, args, output: output * 1.0).remove


@pytest.mark.parametrize(
    ("add", "modules", "parameters", "operations"),
    [(a_module, 1, 0, 0), (a_parameter, 0, 1, 0), (another_class, 3, 2, 0), (an_operation, 0, 0, 1)],
)
def test_whatever_is_added_is_counted(
    add: Any, modules: int, parameters: int, operations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A linear wrapped in a sequence: it and its parameter move, and the sequence stands where it was."""
    model = case()
    monkeypatch.setattr(awq_core.equivalence, "applied", with_more(add))
    check = checked(model)
    assert (check.modules_changed, check.parameters_changed, check.operations_changed) == (
        modules,
        parameters,
        operations,
    )
    assert check.largest_difference < check.tolerance


def test_few_tokens_are_checked_of_many() -> None:
    model = case()
    assert check_folding(model, LLAMA, torch.from_numpy(tokens(100))).tokens == 2048
    assert check_folding(model, LLAMA, torch.from_numpy(tokens(1, length=50))).tokens == 50
