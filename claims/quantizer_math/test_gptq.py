"""GPTQ: where columns do not interact it is round-to-nearest, and what must not matter does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from awq_core.quantization.gptq import gptq_codes
from awq_core.quantization.quantizers import quantize_groups

BITS = st.integers(2, 8)
GROUP_SIZES = st.sampled_from([4, 8, 16, 48])
BLOCK_SIZES = st.sampled_from([1, 3, 8, 20, 128])
ORDERED = st.booleans()
WIDTH = 48


def gptq(weight: Tensor, moment: Tensor, *given: Any, **options: Any) -> Tensor:
    """The weights that GPTQ's codes stand for."""
    return gptq_codes(weight, moment, *given, **options).dequantize()


@st.composite
def linears(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A weight `(out, in)` and the second moment of correlated inputs, fewer or more than there are channels."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    out, tokens = draw(st.integers(1, 6)), draw(st.integers(1, 150))
    mixing = torch.randn(WIDTH, WIDTH, dtype=torch.float64, generator=generator)
    x = torch.randn(tokens, WIDTH, dtype=torch.float64, generator=generator) @ mixing / WIDTH**0.5
    x[:, draw(st.integers(0, WIDTH - 1))] *= draw(st.floats(1.0, 20.0))
    return torch.randn(out, WIDTH, dtype=torch.float64, generator=generator), x.T @ x


def rounded_to_nearest(weight: Tensor, bits: int, group_size: int) -> Tensor:
    return quantize_groups(weight, bits, group_size).dequantize()


def assert_same(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


@given(
    linears(), st.lists(st.floats(1e-3, 1e3), min_size=WIDTH, max_size=WIDTH), BITS, GROUP_SIZES, BLOCK_SIZES, ORDERED
)
def test_independent_channels_leave_nothing_to_make_up_for(
    case: tuple[Tensor, Tensor], diagonal: list[float], bits: int, group_size: int, block_size: int, ordered: bool
) -> None:
    """For a diagonal second moment GPTQ is round-to-nearest, to the last bit, damping and all."""
    weight, _ = case
    moment = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    found = gptq(weight, moment, bits, group_size, activation_order=ordered, block_size=block_size)
    assert torch.equal(found, rounded_to_nearest(weight, bits, group_size))


@given(linears(), BITS, GROUP_SIZES, BLOCK_SIZES, ORDERED)
def test_the_block_size_decides_the_speed_and_not_the_result(
    case: tuple[Tensor, Tensor], bits: int, group_size: int, block_size: int, ordered: bool
) -> None:
    weight, moment = case
    default = gptq(weight, moment, bits, group_size, activation_order=ordered)
    other = gptq(weight, moment, bits, group_size, activation_order=ordered, block_size=block_size)
    assert_same(other, default)


@given(linears(), st.floats(1e-6, 1e6), BITS, GROUP_SIZES, ORDERED)
def test_a_factor_on_the_second_moment_changes_nothing(
    case: tuple[Tensor, Tensor], factor: float, bits: int, group_size: int, ordered: bool
) -> None:
    weight, moment = case
    plain = gptq(weight, moment, bits, group_size, activation_order=ordered)
    assert_same(gptq(weight, factor * moment, bits, group_size, activation_order=ordered), plain)


@given(linears(), linears(), BITS, GROUP_SIZES, ORDERED)
def test_rows_do_not_influence_one_another(
    case: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], bits: int, group_size: int, ordered: bool
) -> None:
    (first, moment), (second, _) = case, other
    together = gptq(torch.cat([first, second]), moment, bits, group_size, activation_order=ordered)
    apart = [gptq(weight, moment, bits, group_size, activation_order=ordered) for weight in (first, second)]
    assert_same(together, torch.cat(apart))


@given(linears(), BITS, BLOCK_SIZES)
def test_the_order_of_equal_activations_is_the_given_one(
    case: tuple[Tensor, Tensor], bits: int, block_size: int
) -> None:
    """With one group a row: with several, plain GPTQ takes each step late and the ordered one at the start."""
    weight, moment = case
    size = moment.diagonal().sqrt()
    moment = moment / (size * size.unsqueeze(1))
    moment.diagonal().fill_(1.0)
    plain = gptq(weight, moment, bits, WIDTH, block_size=block_size)
    assert_same(gptq(weight, moment, bits, WIDTH, activation_order=True, block_size=block_size), plain)


@given(linears(), st.permutations(range(WIDTH)), BITS)
def test_ordered_gptq_follows_the_channels_wherever_they_stand(
    case: tuple[Tensor, Tensor], order: list[int], bits: int
) -> None:
    """The order is by activation: shuffling channels shuffles the result, if each row is one group."""
    weight, moment = case
    found = gptq(weight, moment, bits, WIDTH, activation_order=True)
    shuffled = gptq(weight[:, order], moment[order][:, order], bits, WIDTH, activation_order=True)
    assert_same(shuffled, found[:, order])


@given(linears(), st.sets(st.integers(0, WIDTH - 1), max_size=20), BITS, GROUP_SIZES, BLOCK_SIZES, ORDERED)
def test_dead_columns_become_what_a_zero_rounds_to(
    case: tuple[Tensor, Tensor], dead: set[int], bits: int, group_size: int, block_size: int, ordered: bool
) -> None:
    weight, moment = case
    columns = sorted(dead)
    moment[columns] = 0.0
    moment[:, columns] = 0.0
    found = gptq(weight, moment, bits, group_size, activation_order=ordered, block_size=block_size)
    assert bool((found[:, columns] == 0.0).all())
    changed = weight.clone()
    changed[:, columns] = 7.0  # what stood there matters to nobody
    assert torch.equal(gptq(changed, moment, bits, group_size, activation_order=ordered, block_size=block_size), found)


@given(linears(), BITS, GROUP_SIZES, ORDERED)
def test_every_group_takes_at_most_two_to_the_bits_values(
    case: tuple[Tensor, Tensor], bits: int, group_size: int, ordered: bool
) -> None:
    weight, moment = case
    found = gptq(weight, moment, bits, group_size, activation_order=ordered)
    for group in found.unflatten(1, (-1, group_size)).flatten(0, 1):
        assert len(group.unique()) <= 2**bits


@settings(max_examples=20)
@given(linears(), BITS)
def test_the_inputs_are_left_as_they_were(case: tuple[Tensor, Tensor], bits: int) -> None:
    weight, moment = case
    moment[3] = 0.0
    moment[:, 3] = 0.0
    kept = weight.clone(), moment.clone()
    gptq(weight, moment, bits, 8, activation_order=True)
    assert torch.equal(weight, kept[0])
    assert torch.equal(moment, kept[1])


@pytest.mark.parametrize("group_size", [0, -8, 7, 96])
def test_a_group_size_that_does_not_divide_the_width_is_refused(group_size: int) -> None:
    with pytest.raises(ValueError, match=f"group_size must divide the input width 48, got {group_size}"):
        gptq(torch.zeros(2, WIDTH), torch.eye(WIDTH), 4, group_size)


def test_a_nan_among_the_inputs_is_refused() -> None:
    moment = torch.eye(WIDTH)
    moment[3, 5] = moment[5, 3] = float("nan")
    with pytest.raises(ValueError, match="not positive definite; the inputs hold NaN"):
        gptq(torch.ones(2, WIDTH), moment, 4, 8)


def test_fewer_tokens_than_channels_need_damping() -> None:
    x = torch.ones(1, WIDTH, dtype=torch.float64)
    weight = torch.randn(2, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="or damping is 0"):
        gptq(weight, x.T @ x, 4, 8, damping=0.0)
    assert bool(torch.isfinite(gptq(weight, x.T @ x, 4, 8)).all())
