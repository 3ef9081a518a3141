"""The two quantizers, as arithmetic: what they guarantee, and exactly where a guarantee ends."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from awq_core.quantization.quantizers import (
    DEPLOYED,
    DIAGNOSTIC,
    SMALLEST_RANGE,
    AsymmetricGroups,
    Quantizer,
    quantize_groups,
    quantize_rows,
    quantizer_named,
    round_to_nearest,
)

BITS = st.integers(2, 8)
GROUP = 8


def matrices(low: float = -8.0, high: float = 8.0, groups: int = 2) -> st.SearchStrategy[Tensor]:
    """Weights `(rows, groups * 8)` in float64, with room for constants, zeros and exact ties."""
    shape = st.tuples(st.integers(1, 3), st.just(groups * GROUP))
    elements = st.floats(low, high, allow_subnormal=False) | st.sampled_from([low, high, (low + high) / 2])
    return hnp.arrays(np.float64, shape, elements=elements).map(torch.from_numpy)


def groups_of(weight: Tensor) -> Tensor:
    """`(rows, groups, 8)`."""
    return weight.unflatten(-1, (-1, GROUP))


def steps_of(weight: Tensor, bits: int) -> Tensor:
    """`(rows, groups)`: the step of every group."""
    return quantize_groups(weight, bits, GROUP).steps


def straddles_zero(weight: Tensor) -> Tensor:
    """`(rows, groups)`: whether a group's range holds zero, so that its zero point is a code."""
    low, high = groups_of(weight).aminmax(dim=-1)
    return (low <= 0) & (high >= 0)


def is_off_ties(weight: Tensor, bits: int) -> bool:
    """Whether no group's smallest weight lies half-way between two steps: there the zero point may go either way."""
    low = groups_of(weight).amin(dim=-1) / steps_of(weight, bits)
    return bool(((low - low.floor() - 0.5).abs() > 1e-6).all())


@given(matrices(), BITS)
def test_codes_and_zero_points_are_integers_in_range(weight: Tensor, bits: int) -> None:
    quantized = quantize_groups(weight, bits, GROUP)
    for values in (quantized.codes, quantized.zero_points):
        assert torch.equal(values, values.round())
        assert values.min() >= 0
        assert values.max() <= 2**bits - 1
    assert (quantized.steps > 0).all()
    assert quantized.codes.shape == weight.shape
    assert quantized.steps.shape == quantized.zero_points.shape == groups_of(weight).shape[:-1]


@given(matrices(), BITS)
def test_rows_use_at_most_2_to_the_b_levels_of_one_step(weight: Tensor, bits: int) -> None:
    half = 2 ** (bits - 1)
    step = weight.abs().amax(dim=-1, keepdim=True) / half
    assume((step > 0).all())
    codes = quantize_rows(weight, bits) / step
    assert torch.allclose(codes, codes.round(), rtol=0, atol=1e-9)
    assert codes.min() > -half - 0.5
    assert codes.max() < half - 0.5


@given(matrices(), BITS)
def test_a_group_that_straddles_zero_errs_by_at_most_half_a_step(weight: Tensor, bits: int) -> None:
    quantized = quantize_groups(weight, bits, GROUP)
    worst = groups_of(quantized.dequantize() - weight).abs().amax(dim=-1)
    inside = straddles_zero(weight)
    assert (worst[inside] <= quantized.steps[inside] * (0.5 + 1e-9)).all()


@given(matrices(0.0, 8.0, groups=1), BITS, st.booleans())
def test_a_one_signed_group_errs_by_as_much_as_it_lies_off_zero(weight: Tensor, bits: int, negative: bool) -> None:
    """Zero is not forced into the range: the far end saturates, and its error is the near end's distance from zero."""
    weight = weight + 0.25
    quantized = quantize_groups(-weight if negative else weight, bits, GROUP)
    worst = (quantized.dequantize().abs() - weight).abs().amax(dim=-1)
    near, far = weight.aminmax(dim=-1)
    assume((far - near >= SMALLEST_RANGE).all())
    step = (far - near) / (2**bits - 1)
    assert torch.allclose(torch.maximum(worst, step / 2), torch.maximum(near, step / 2), rtol=1e-9)


def test_weights_between_a_half_and_one_err_by_fifteen_steps() -> None:
    weight = torch.linspace(0.5, 1.0, 64, dtype=torch.float64)[None]
    quantized = quantize_groups(weight, 4, 64)
    worst = (quantized.dequantize() - weight).abs().max() / quantized.steps
    assert float(worst) == pytest.approx(15.0)


@given(matrices(), BITS)
def test_rows_err_by_half_a_step_save_the_clipped_top(weight: Tensor, bits: int) -> None:
    step = weight.abs().amax(dim=-1, keepdim=True) / 2 ** (bits - 1)
    error = (quantize_rows(weight, bits) - weight).abs()
    clipped = weight > step * (2 ** (bits - 1) - 0.5)
    assert (error[~clipped] <= (0.5 + 1e-9) * step.expand_as(error)[~clipped]).all()
    assert (error[clipped] <= (1 + 1e-9) * step.expand_as(error)[clipped]).all()


@given(matrices(), BITS)
def test_quantizing_again_changes_nothing_where_groups_straddle_zero_off_ties(weight: Tensor, bits: int) -> None:
    """Then the smallest and largest weight take the first and the last code, so that the step comes out again."""
    assume(straddles_zero(weight).all())
    assume(is_off_ties(weight, bits))
    once = quantize_groups(weight, bits, GROUP).dequantize()
    twice = quantize_groups(once, bits, GROUP).dequantize()
    assert torch.allclose(twice, once, rtol=0, atol=1e-11)


def test_quantizing_a_one_signed_group_again_changes_it() -> None:
    weight = torch.linspace(0.5, 1.0, 8, dtype=torch.float64)[None]
    once = quantize_groups(weight, 4, 8).dequantize()
    assert torch.allclose(once, torch.full_like(once, 0.5))  # every weight saturates
    twice = quantize_groups(once, 4, 8).dequantize()
    assert torch.allclose(twice, torch.full_like(once, SMALLEST_RANGE))  # a group without range keeps nothing


def test_quantizing_a_group_on_a_tie_again_changes_it() -> None:
    weight = torch.tensor([[-0.5, 1.0, 2.5]], dtype=torch.float64)  # smallest weight: half a step
    once = quantize_groups(weight, 2, 3).dequantize()
    assert once.tolist() == [[0.0, 1.0, 2.0]]  # three of the four codes
    assert not torch.allclose(quantize_groups(once, 2, 3).dequantize(), once)


@given(matrices(), BITS)
def test_quantizing_rows_again_changes_nothing_where_the_largest_weight_is_negative(weight: Tensor, bits: int) -> None:
    weight[:, 0] = -weight.abs().amax(dim=-1)
    once = quantize_rows(weight, bits)
    assert torch.equal(quantize_rows(once, bits), once)


@given(matrices(0.25, 8.0), BITS)
def test_quantizing_positive_rows_again_shrinks_them(weight: Tensor, bits: int) -> None:
    """The largest positive weight is clipped by one step, each time anew."""
    once = quantize_rows(weight, bits)
    twice = quantize_rows(once, bits)
    assert (twice.amax(dim=-1) < once.amax(dim=-1)).all()


@given(matrices(), BITS)
def test_groups_are_sign_equivariant_off_ties(weight: Tensor, bits: int) -> None:
    """One-signed groups too: a zero point that saturates at the bottom becomes one that saturates at the top."""
    assume(is_off_ties(weight, bits))
    assume(is_off_ties(-weight, bits))
    mirrored = -quantize_groups(-weight, bits, GROUP).dequantize()
    assert torch.allclose(mirrored, quantize_groups(weight, bits, GROUP).dequantize(), rtol=0, atol=1e-12)


@given(matrices(), BITS)
def test_rows_are_sign_equivariant_save_the_clipped_code(weight: Tensor, bits: int) -> None:
    """Codes reach `-2^(b-1)` on one side and `2^(b-1) - 1` on the other: there, and only there, by one step."""
    half = 2 ** (bits - 1)
    step = weight.abs().amax(dim=-1, keepdim=True) / half
    assume((step > 0).all())
    forward, mirrored = quantize_rows(weight, bits), -quantize_rows(-weight, bits)
    at_the_end = torch.round(weight / step).abs() == half
    assert torch.equal(forward[~at_the_end], mirrored[~at_the_end])
    difference = ((mirrored - forward) / step)[at_the_end]
    assert torch.allclose(difference, torch.ones_like(difference))


@given(matrices(groups=3), BITS, st.permutations(range(3)), st.permutations(range(GROUP)))
def test_groups_are_permutation_equivariant(weight: Tensor, bits: int, groups: list[int], channels: list[int]) -> None:
    """Output rows, whole groups, and channels inside a group may be reordered; channels across groups may not."""

    def quantized(w: Tensor) -> Tensor:
        return quantize_groups(w, bits, GROUP).dequantize()

    expected = quantized(weight)
    assert torch.equal(quantized(weight.flip(0)), expected.flip(0))
    assert torch.equal(groups_of(quantized(groups_of(weight)[:, groups].flatten(1))), groups_of(expected)[:, groups])
    inside = quantized(groups_of(weight)[..., channels].flatten(1))
    assert torch.equal(groups_of(inside), groups_of(expected)[..., channels])


def test_channels_of_different_groups_share_no_step() -> None:
    weight = torch.cat([torch.linspace(-1, 1, 8), torch.linspace(-100, 100, 8)])[None].double()
    mixed = weight[:, [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]]
    alone = quantize_groups(weight, 4, 8).dequantize()[:, :8] - weight[:, :8]
    together = quantize_groups(mixed, 4, 8).dequantize() - mixed
    assert together[:, 0::2].abs().max() > 5 * alone.abs().max()


@given(matrices(), BITS, st.permutations(range(2 * GROUP)))
def test_rows_are_permutation_equivariant(weight: Tensor, bits: int, channels: list[int]) -> None:
    expected = quantize_rows(weight, bits)
    assert torch.equal(quantize_rows(weight.flip(0), bits), expected.flip(0))
    assert torch.equal(quantize_rows(weight[:, channels], bits), expected[:, channels])


@given(st.data(), BITS)
def test_representable_groups_are_reproduced(data: st.DataObject, bits: int) -> None:
    """Weights `(code - zero_point) * step` that use the first and the last code come back."""
    top = 2**bits - 1
    codes = data.draw(hnp.arrays(np.int64, (2, GROUP), elements=st.integers(0, top)))
    codes[:, 0], codes[:, -1] = 0, top
    zero_point = data.draw(st.integers(0, top))
    step = data.draw(st.floats(1e-3, 10.0) | st.sampled_from([0.25, 1.0]))
    weight = torch.from_numpy((codes - zero_point) * step)
    quantized = quantize_groups(weight, bits, GROUP)
    assert torch.equal(quantized.codes, torch.from_numpy(codes).double())
    assert (quantized.zero_points == zero_point).all()
    assert torch.allclose(quantized.dequantize(), weight, rtol=1e-12, atol=0)
    if step in (0.25, 1.0):
        assert torch.equal(quantized.dequantize(), weight)


@given(st.data(), BITS)
def test_representable_rows_are_reproduced(data: st.DataObject, bits: int) -> None:
    """Weights `code * step` that use the lowest code come back exactly."""
    half = 2 ** (bits - 1)
    codes = data.draw(hnp.arrays(np.int64, (2, GROUP), elements=st.integers(-half, half - 1)))
    codes[:, 0] = -half
    weight = torch.from_numpy(codes * data.draw(st.floats(1e-3, 10.0)))
    assert torch.equal(quantize_rows(weight, bits), weight)


@given(matrices(), BITS, st.integers(-12, 12))
def test_scaling_by_a_power_of_two_scales_the_result(weight: Tensor, bits: int, power: int) -> None:
    """Exactly; for groups, as long as the floor under a group's range is not reached on either side."""
    factor = 2.0**power
    assert torch.equal(quantize_rows(weight * factor, bits), quantize_rows(weight, bits) * factor)
    low, high = groups_of(weight).aminmax(dim=-1)
    assume(((high - low) * min(factor, 1.0) > SMALLEST_RANGE).all())
    expected = quantize_groups(weight, bits, GROUP).dequantize() * factor
    assert torch.equal(quantize_groups(weight * factor, bits, GROUP).dequantize(), expected)


def test_below_the_floor_a_group_does_not_scale() -> None:
    weight = torch.linspace(-1, 1, 8, dtype=torch.float64)[None]
    tiny = quantize_groups(weight * 2.0**-20, 4, 8)
    assert float(tiny.steps) == pytest.approx(SMALLEST_RANGE / 15)
    assert not torch.allclose(tiny.dequantize() * 2.0**20, quantize_groups(weight, 4, 8).dequantize(), atol=1e-3)


@given(matrices(), BITS)
def test_stacked_matrices_are_quantized_one_by_one(weight: Tensor, bits: int) -> None:
    stacked = torch.stack([weight, 3 * weight, -weight])
    for quantize in (lambda w: quantize_groups(w, bits, GROUP).dequantize(), lambda w: quantize_rows(w, bits)):
        for together, alone in zip(quantize(stacked), stacked, strict=True):
            assert torch.equal(together, quantize(alone))


@given(BITS)
def test_zeros_stay_zeros(bits: int) -> None:
    zeros = torch.zeros(2, 16)
    assert torch.equal(quantize_rows(zeros, bits), zeros)
    assert torch.equal(quantize_groups(zeros, bits, GROUP).dequantize(), zeros)


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (64, 64),
        (128, 128),
        (172, 86),
        (352, 88),
        (896, 128),
        (4864, 128),
        (192, 96),
        (256, 128),
        (31, 31),
        (97, 97),
        (127, 127),
        (131, 131),
        (1009, 1009),
        (2 * 131, 262),
        (16, 16),
        (40, 40),
        (32 * 131, 32),
        (31 * 131, 31 * 131),
    ],
)
def test_group_sizes(width: int, expected: int) -> None:
    assert DEPLOYED.group_size_for(width) == expected


@given(st.integers(1, 20_000), st.sampled_from([16, 32, 64, 96, 128, 256]))
@settings(max_examples=200)
def test_group_size_rule(width: int, asked: int) -> None:
    """The one asked for where it divides, else the largest divisor from 32 to it, else the row."""
    size = AsymmetricGroups(asked).group_size_for(width)
    divisors = [d for d in range(32, asked + 1) if width % d == 0]
    if width % asked == 0:
        assert size == asked
    else:
        assert size == (max(divisors) if divisors else width)


@given(matrices(groups=4), BITS)
def test_the_deployed_quantizer_takes_the_deployed_group_size(weight: Tensor, bits: int) -> None:
    assert torch.equal(round_to_nearest(weight, DEPLOYED, bits), quantize_groups(weight, bits, 32).dequantize())
    assert torch.equal(round_to_nearest(weight, DIAGNOSTIC, bits), quantize_rows(weight, bits))


@pytest.mark.parametrize("bits", [0, 17, -1])
def test_impossible_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits must be from"):
        quantize_groups(torch.ones(1, 8), bits, 8)
    with pytest.raises(ValueError, match="bits must be from"):
        quantize_rows(torch.ones(1, 8), bits)


def test_one_bit_leaves_a_symmetric_row_nothing() -> None:
    with pytest.raises(ValueError, match="bits must be from 2 to 16, got 1"):
        quantize_rows(torch.ones(1, 8), 1)


@pytest.mark.parametrize("group_size", [0, 3, 16])
def test_a_group_size_that_does_not_divide_is_refused(group_size: int) -> None:
    with pytest.raises(ValueError, match=f"group_size must divide the input width 8, got {group_size}"):
        quantize_groups(torch.ones(1, 8), 4, group_size)


@pytest.mark.parametrize("quantizer", [DEPLOYED, AsymmetricGroups(32), DIAGNOSTIC], ids=lambda q: q.name)
def test_a_name_means_one_quantizer(quantizer: Quantizer) -> None:
    assert quantizer_named(quantizer.name) == quantizer


def test_names_carry_the_group_size() -> None:
    assert [AsymmetricGroups(64).name, DIAGNOSTIC.name] == ["asym-g64", "sym-channel"]


@pytest.mark.parametrize("name", ["", "nearest", "nearest-g64", "sym-channel-g64", "asym-g"])
def test_an_unknown_quantizer_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"no quantizer is called {name!r}; known: .*asym, sym-channel"):
        quantizer_named(name)


@pytest.mark.parametrize("group_size", [-64, 0, 1, 64.0, True, "64"])
def test_an_impossible_group_size_is_refused(group_size: Any) -> None:
    with pytest.raises(ValueError, match=f"group_size must be a whole number from 2 on, got {group_size!r}"):
        AsymmetricGroups(group_size)
