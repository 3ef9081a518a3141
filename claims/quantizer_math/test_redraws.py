"""Redraws: signs flipped around a rounding change no function, and what they round is rounded anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from awq_core.architectures.model import architecture_of
from awq_core.measure.methods.block_rounding import LayerFindings, Rounding, redraw_signs
from awq_core.measure.methods.search_results import SearchResults
from awq_core.measure.methods.table import FULL, METHODS, Strategy
from awq_core.quantization.gptq import gptq_codes
from awq_core.quantization.quantizers import DEPLOYED, DIAGNOSTIC, round_to_nearest

LLAMA = architecture_of("llama")

draws = st.integers(1, 1000)
seeds = st.integers(0, 2**32)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
widths = st.sampled_from([1, 2, 7, 64, 128, 200])


def weight(seed: int, width: int, rows: int = 5) -> Tensor:
    return torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def at(seed: int, draw: int, bits: int) -> Rounding:
    def nothing(_: str) -> SearchResults:
        raise AssertionError("nothing is searched")

    model: Any = None
    return Rounding(model, LLAMA, 0, bits, LayerFindings(seed), nothing, draw)


@given(seeds, draws, names, widths)
def test_signs_are_a_function_of_seed_draw_and_linear(seed: int, draw: int, name: str, width: int) -> None:
    signs = redraw_signs(seed, draw, name, width)
    assert signs.shape == (width,)
    assert set(signs.tolist()) <= {-1.0, 1.0}
    torch.manual_seed(draw)  # whatever else is drawn
    np.random.default_rng(seed).random()
    assert torch.equal(signs, redraw_signs(seed, draw, name, width))


@given(seeds, draws, names)
def test_another_seed_draw_or_linear_has_other_signs(seed: int, draw: int, name: str) -> None:
    signs = redraw_signs(seed, draw, name, 256)
    for other in ((seed + 1, draw, name), (seed, draw + 1, name), (seed, draw, f"{name}x")):
        agree = float((signs == redraw_signs(*other, 256)).double().mean())
        assert 0.2 < agree < 0.8  # five standard deviations of 256 fair coins, twice over


def test_half_of_the_signs_are_minus() -> None:
    signs = redraw_signs(0, 1, "a", 100_000)
    assert abs(float(signs.mean())) < 0.02


@given(seeds, draws, widths, st.sampled_from([2, 3, 4, 8]))
def test_a_redraw_rounds_between_two_flips_that_cancel(seed: int, draw: int, width: int, bits: int) -> None:
    """`Q(W S) S`; with `S S = 1` the unrounded function is W itself, to the last bit."""
    w = weight(seed % 1000, width)
    signs = redraw_signs(seed, draw, "a", width)
    assert torch.equal(w * signs * signs, w)
    found = at(seed, draw, bits).rounded("a", w)
    flipped = torch.stack([row * signs for row in w])
    expected = round_to_nearest(flipped, DEPLOYED, bits) * signs
    assert torch.equal(found, expected)
    if width >= 64:  # narrower groups may have one sign, which no zero point reaches
        step = 2 * w.abs().amax() / (2**bits - 1)
        assert float((found - w).abs().max()) <= step  # a rounding of w, and of no other weight


@given(seeds, widths, st.sampled_from([2, 3, 4]))
def test_the_first_draw_is_plain_rounding(seed: int, width: int, bits: int) -> None:
    w = weight(seed % 1000, width)
    assert torch.equal(at(seed, 0, bits).rounded("a", w), round_to_nearest(w, DEPLOYED, bits))


@given(seeds, draws)
def test_an_asymmetric_rounding_is_made_anew(seed: int, draw: int) -> None:
    """Groups' ranges move, and with them the weights of nearly all groups."""
    w = weight(seed % 1000, 256, rows=20)
    plain, redrawn = (at(seed, d, 3).rounded("a", w) for d in (0, draw))
    assert float((plain != redrawn).double().mean()) > 0.2


@given(seeds, draws, widths, st.sampled_from([3, 4, 8]))
def test_a_grid_that_is_symmetric_leaves_only_its_ends_to_a_redraw(seed: int, draw: int, width: int, bits: int) -> None:
    """Per row, steps of the largest weight: but for ties, and the one code more below zero, the same roundings."""
    w = weight(seed % 1000, width)
    signs = redraw_signs(seed, draw, "a", width)
    plain = round_to_nearest(w, DIAGNOSTIC, bits)
    redrawn = round_to_nearest(w * signs, DIAGNOSTIC, bits) * signs
    top = 2 ** (bits - 1)
    position = w / (w.abs().amax(dim=1, keepdim=True) / top)
    inside = (position.abs() < top - 0.5 - 1e-9) & (((position - position.floor()) - 0.5).abs() > 1e-9)
    torch.testing.assert_close(plain[inside], redrawn[inside], rtol=1e-12, atol=0)


@pytest.mark.parametrize("ordered", [False, True])
@given(seed=st.integers(0, 1000), draw=draws)
@settings(max_examples=10)
def test_gptq_in_a_redraw_is_gptq_of_flipped_inputs(ordered: bool, seed: int, draw: int) -> None:
    """`x W^T = (x S) (W S)^T`: the flipped problem's weights, flipped back, err as much on the inputs as there."""
    w, x = weight(seed, 64), weight(seed + 1, 64, rows=200) @ weight(seed + 2, 64, rows=64)
    signs = redraw_signs(seed, draw, "a", 64)
    flipped = x * signs
    found = gptq_codes(w * signs, flipped.T @ flipped, 3, 64, activation_order=ordered).dequantize()
    there = (flipped @ (found - w * signs).T).square().sum()
    here = (x @ (found * signs - w).T).square().sum()
    torch.testing.assert_close(here, there, rtol=1e-9, atol=0)
    assert here < (x @ (round_to_nearest(w, DEPLOYED, 3) - w).T).square().sum()


def test_a_redraw_has_a_name_of_its_own_and_full_precision_has_none() -> None:
    assert Strategy(METHODS["rtn"], 4, draw=2).name == "rtn-4~2"
    assert Strategy(METHODS["gptq"], 3, "foreign", draw=1).name == "gptq-foreign-3~1"
    assert FULL.name == "full"
    (search,) = Strategy(METHODS["awq-block"], 3, draw=2).searches()
    assert search.name == "awq-block-3"  # it does not round: one for every draw
    (search,) = Strategy(METHODS["gptq"], 3, draw=2).searches()
    assert search.name == "gptq-3~2"
