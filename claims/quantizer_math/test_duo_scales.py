"""Duo scaling (AutoAWQ, llm-compressor): positive, normalised, and weighed against the weights' size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from awq_core.quantization.scales import duo_scales, relative_weight_size

ALPHAS = st.floats(0.0, 1.0)
CHANNELS = st.lists(st.tuples(st.floats(0.0, 1e3), st.floats(0.0, 1.0)), min_size=1, max_size=20)


@given(CHANNELS, ALPHAS)
def test_scales_are_positive_finite_and_normalised(channels: list[tuple[float, float]], alpha: float) -> None:
    """Dead channels and weights of zero included; the largest scale times the smallest is 1."""
    magnitude, size = torch.tensor(channels, dtype=torch.float64).T
    scales = duo_scales(magnitude, size, alpha)
    assert bool((scales > 0).all())
    assert bool(torch.isfinite(scales).all())
    assert float(scales.max() * scales.min()) == pytest.approx(1.0)


@given(CHANNELS, ALPHAS, st.floats(0.05, 0.95))
def test_larger_activations_scale_up_and_larger_weights_down(
    channels: list[tuple[float, float]], alpha: float, other: float
) -> None:
    magnitude, size = torch.tensor(channels, dtype=torch.float64).T
    of_activations = duo_scales(magnitude, torch.full_like(size, other), alpha)
    assert bool((of_activations[magnitude.argsort()].diff() >= -1e-12 * of_activations.max()).all())
    of_weights = duo_scales(torch.full_like(magnitude, other), size, alpha)
    assert bool((of_weights[size.argsort()].diff() <= 1e-12 * of_weights.max()).all())


def test_the_formula_on_a_worked_example() -> None:
    magnitude, size = torch.tensor([4.0, 1.0, 0.25]).double(), torch.tensor([0.25, 1.0, 0.25]).double()
    raw = [2 / (0.5 + 1e-4), 1 / (1 + 1e-4), 0.5 / (0.5 + 1e-4)]
    expected = torch.tensor(raw).double() / (max(raw) * min(raw)) ** 0.5
    torch.testing.assert_close(duo_scales(magnitude, size, 0.5), expected, rtol=1e-6, atol=0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.floats(0.01, 100.0))
def test_the_weights_size_is_relative_to_their_group(seed: int, out: int, factor: float) -> None:
    """Between 0 and 1; a factor on one group of one row moves nothing but the guard against zeros."""
    weight = torch.randn(out, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.01
    size = relative_weight_size(weight, 8)
    assert bool(((size >= 0) & (size <= 1)).all())
    weight[0, 8:16] *= factor
    torch.testing.assert_close(relative_weight_size(weight, 8), size, rtol=0, atol=1e-3)


def test_a_group_of_zeros_has_size_zero() -> None:
    assert torch.equal(relative_weight_size(torch.zeros(3, 8), 4), torch.zeros(8))
