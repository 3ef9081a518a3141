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
from awq_core.block_search import FoundScale
from awq_core.calibrated import BLOCK, calibrate
from awq_core.equivalence import FoldingCheck, check_folding
from tests.structured_model import LLAMA, structured_model, tokens


def case(key_value_heads: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Any, list[FoundScale]]:
    model = structured_model(key_value_heads, "qwen2").to(dtype)
    return model, calibrate(model, LLAMA, tokens(6), (3,), (BLOCK,)).scales[BLOCK, 3]


def checked(model: Any, scales: list[FoundScale]) -> FoldingCheck:
    return check_folding(model, LLAMA, scales, torch.from_numpy(tokens(4, seed=5)))


@pytest.mark.parametrize(("key_value_heads", "foldable"), [(4, 14), (2, 12)])
def test_a_right_fold_changes_nothing(key_value_heads: int, foldable: int) -> None:
    model, scales = case(key_value_heads)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    check = checked(model, scales)
    assert check.largest_difference < 1e-12
    assert (check.modules_changed, check.parameters_changed) == (0, 0)
    assert (check.foldable_linears, check.linears) == (foldable, 14)
    assert (check.tokens, check.dtype, check.tolerance) == (128, "float64", 1e-9)
    assert check.modules_before == len(list(model.modules()))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_tolerance_is_the_dtype_s(dtype: torch.dtype) -> None:
    """A right fold stays below a third of it in single precision, below all of it in half."""
    check = checked(*case(dtype=dtype))
    assert check.dtype == str(dtype).removeprefix("torch.")
    assert 0 < check.largest_difference < check.tolerance / (3 if dtype is torch.float32 else 1)


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
    model, scales = case(dtype=dtype)
    monkeypatch.setattr(awq_core.folding, name, forgets)
    check = checked(model, scales)
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


@pytest.mark.parametrize(
    ("add", "modules", "parameters"), [(a_module, 1, 0), (a_parameter, 0, 1), (another_class, 3, 2)]
)
def test_whatever_is_added_is_counted(add: Any, modules: int, parameters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear wrapped in a sequence: it and its parameter move, and the sequence stands where it was."""
    model, scales = case()
    monkeypatch.setattr(awq_core.equivalence, "applied", with_more(add))
    check = checked(model, scales)
    assert (check.modules_changed, check.parameters_changed) == (modules, parameters)
    assert check.largest_difference < check.tolerance


def test_few_tokens_are_checked_of_many() -> None:
    model, scales = case()
    assert check_folding(model, LLAMA, scales, torch.from_numpy(tokens(100))).tokens == 2048
    assert check_folding(model, LLAMA, scales, torch.from_numpy(tokens(1, length=50))).tokens == 50
