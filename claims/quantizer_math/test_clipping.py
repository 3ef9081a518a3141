"""Clipping: limits stay within what is searched, never cost a group anything, and spare what needs none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from awq_core.quantization.clipping import SHRINKS, clipped, diagonal_blocks, search_clipping
from awq_core.quantization.quantizers import quantize_groups

BITS = st.integers(2, 6)
GROUP_SIZE = 8
WIDTH = 24


@st.composite
def linears(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A weight with a few large entries, of either sign or of one, and a second moment; a channel may be dead."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    out, tokens = draw(st.integers(1, 5)), draw(st.integers(1, 60))
    weight = torch.randn(out, WIDTH, dtype=torch.float64, generator=generator)
    weight[:, draw(st.integers(0, WIDTH - 1))] *= draw(st.floats(1.0, 10.0))
    if draw(st.booleans()):
        weight = weight.abs() + 0.1
    x = torch.randn(tokens, WIDTH, dtype=torch.float64, generator=generator)
    x[:, draw(st.integers(0, WIDTH - 1))] *= draw(st.sampled_from([0.0, 1.0, 20.0]))
    return weight, x.T @ x


def group_losses(weight: Tensor, quantized: Tensor, moment: Tensor) -> Tensor:
    """`(out, groups)`: squared error of each group's own part of the output."""
    losses = []
    for start in range(0, WIDTH, GROUP_SIZE):
        part = slice(start, start + GROUP_SIZE)
        difference = (quantized - weight)[:, part]
        losses.append(((difference @ moment[part, part]) * difference).sum(dim=1))
    return torch.stack(losses, dim=1)


@given(linears(), BITS)
def test_a_limit_is_one_of_ten_shares_of_the_largest_weight(case: tuple[Tensor, Tensor], bits: int) -> None:
    weight, moment = case
    limits = search_clipping(weight, moment, bits, GROUP_SIZE)
    largest = weight.abs().unflatten(1, (-1, GROUP_SIZE)).amax(dim=-1)
    assert limits.shape == largest.shape
    assert bool((limits <= largest).all())
    assert bool((limits >= 0.55 * largest * (1 - 1e-12)).all())
    shares = torch.tensor(SHRINKS, dtype=torch.float64)
    nearest = (limits.unsqueeze(-1) - largest.unsqueeze(-1) * shares).abs().amin(dim=-1)
    assert bool((nearest <= 1e-12 * largest).all())


@given(linears(), BITS)
def test_no_group_loses_by_clipping(case: tuple[Tensor, Tensor], bits: int) -> None:
    weight, moment = case
    limits = search_clipping(weight, moment, bits, GROUP_SIZE)
    shrunk = clipped(weight, limits)
    plain = group_losses(weight, quantize_groups(weight, bits, GROUP_SIZE).dequantize(), moment)
    with_limits = group_losses(weight, quantize_groups(shrunk, bits, GROUP_SIZE).dequantize(), moment)
    assert bool((with_limits <= plain * (1 + 1e-9) + 1e-12).all())


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(-6, 3), linears())
def test_weights_that_the_quantizer_holds_exactly_are_left_alone(
    seed: int, bits: int, exponent: int, case: tuple[Tensor, Tensor]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (4, WIDTH), generator=generator).double()
    codes[:, 0::GROUP_SIZE], codes[:, 1::GROUP_SIZE] = 0.0, 2**bits - 1.0  # each group has both ends
    zero = torch.randint(2**bits, (4, 1), generator=generator).double()
    weight = (codes - zero) * 2.0**exponent
    limits = search_clipping(weight, case[1], bits, GROUP_SIZE)
    assert torch.equal(clipped(weight, limits), weight)


@given(linears(), BITS, st.integers(-8, 8))
def test_a_factor_on_the_second_moment_changes_nothing(case: tuple[Tensor, Tensor], bits: int, power: int) -> None:
    weight, moment = case
    limits = search_clipping(weight, moment, bits, GROUP_SIZE)
    assert torch.equal(search_clipping(weight, moment * 2.0**power, bits, GROUP_SIZE), limits)


@given(linears(), st.lists(st.floats(0, 5), min_size=3, max_size=3))
def test_clamping_moves_only_what_lies_beyond_the_limit(case: tuple[Tensor, Tensor], limits: list[float]) -> None:
    weight, _ = case
    bounds = torch.tensor(limits, dtype=torch.float64).expand(len(weight), -1)
    found = clipped(weight, bounds)
    for group, bound in enumerate(limits):
        part = slice(group * GROUP_SIZE, (group + 1) * GROUP_SIZE)
        assert torch.equal(found[:, part], weight[:, part].clamp(-bound, bound))


@pytest.mark.parametrize("size", [1, 4, 12])
def test_the_blocks_are_those_on_the_diagonal(size: int) -> None:
    moment = torch.arange(144.0).view(12, 12)
    blocks = diagonal_blocks(moment, size)
    expected = [moment[i : i + size, i : i + size] for i in range(0, 12, size)]
    assert torch.equal(blocks, torch.stack(expected))
