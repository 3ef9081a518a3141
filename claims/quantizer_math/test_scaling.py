"""Scales: what multiplying weights before rounding, and dividing after, does and does not change."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from awq_core.measured import ALPHAS
from awq_core.measured import QUANTIZERS as QUANTIZERS_MEASURED
from awq_core.quantization.quantizers import DEPLOYED, Quantizer, quantize_groups, round_to_nearest
from awq_core.quantization.scales import linear_scales, official_scales, scaled_round_to_nearest

QUANTIZERS: st.SearchStrategy[Quantizer] = st.sampled_from(QUANTIZERS_MEASURED)
BITS = st.integers(2, 8)
ALPHA = st.sampled_from(ALPHAS)
WIDTH = 64


def weights() -> st.SearchStrategy[Tensor]:
    """`(2, 64)`, both signs in every group, drawn from a seed: many different values matter more than odd ones."""
    return st.integers(0, 2**32 - 1).map(
        lambda seed: torch.randn(2, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )


def magnitudes(low: float = 1e-3) -> st.SearchStrategy[Tensor]:
    """`(64,)`, over several orders of magnitude."""
    return hnp.arrays(np.float64, WIDTH, elements=st.floats(low, 100.0)).map(torch.from_numpy)


@given(weights(), magnitudes(0.0), QUANTIZERS, BITS)
def test_alpha_zero_is_round_to_nearest_exactly(
    weight: Tensor, magnitude: Tensor, quantizer: Quantizer, bits: int
) -> None:
    expected = round_to_nearest(weight, quantizer, bits)
    linear = linear_scales(magnitude, torch.zeros(1))
    assert torch.equal(scaled_round_to_nearest(weight, linear, quantizer, bits)[0], expected)
    official = official_scales(magnitude, 0.0)
    assert torch.equal(scaled_round_to_nearest(weight, official, quantizer, bits), expected)


@given(weights(), st.integers(-8, 8), QUANTIZERS, BITS)
def test_protecting_everything_protects_nothing(weight: Tensor, power: int, quantizer: Quantizer, bits: int) -> None:
    """mechanism.uniform-is-nothing: one power of two for every channel gives round-to-nearest's weights exactly."""
    scales = torch.full((WIDTH,), 2.0**power, dtype=torch.float64)
    same = scaled_round_to_nearest(weight, scales, quantizer, bits)
    assert torch.equal(same, round_to_nearest(weight, quantizer, bits))


def test_protecting_one_channel_does_something() -> None:
    weight = torch.randn(4, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scales = torch.ones(WIDTH, dtype=torch.float64)
    scales[3] = 2.0
    for quantizer in QUANTIZERS_MEASURED:
        protected = scaled_round_to_nearest(weight, scales, quantizer, 3)
        assert not torch.equal(protected[:, 3], round_to_nearest(weight, quantizer, 3)[:, 3])


@given(weights(), BITS, st.floats(1.1, 4.0))
def test_a_scaled_channel_errs_by_less_in_proportion(weight: Tensor, bits: int, factor: float) -> None:
    """The paper's argument, per weight: the step of `Q(W s)` is divided by s, so the bound is half of step / s."""
    scales = torch.ones(WIDTH, dtype=torch.float64)
    scales[7] = factor
    steps = quantize_groups(weight * scales, bits, WIDTH).steps  # one group: 64 does not divide by 128
    error = (scaled_round_to_nearest(weight, scales, DEPLOYED, bits) - weight).abs()
    assert (error[:, 7] <= steps[:, 0] / 2 / factor * (1 + 1e-9)).all()


def transcribed_official_scales(x: np.ndarray, alpha: float) -> np.ndarray:
    """llm-awq's two lines, read from its description: clamp from below, then divide by sqrt(max min)."""
    unnormalised = [max(value**alpha, 1e-4) for value in x.tolist()]
    return np.array(unnormalised) / (max(unnormalised) * min(unnormalised)) ** 0.5


@given(magnitudes(0.0), st.sampled_from([i / 20 for i in range(20)]))
def test_official_scales_are_the_published_formula(magnitude: Tensor, alpha: float) -> None:
    scales = official_scales(magnitude, alpha)
    np.testing.assert_allclose(scales.numpy(), transcribed_official_scales(magnitude.numpy(), alpha), rtol=1e-12)
    assert float(scales.max() * scales.min()) == pytest.approx(1.0)


@given(st.floats(0.2, 1.0), st.floats(0.5, 2.0))
def test_official_scales_blow_up_beside_a_dead_channel(alpha: float, size: float) -> None:
    """The published failure, kept: a channel that is always zero clamps to 1e-4, and all others grow 100-fold."""
    magnitude = torch.full((WIDTH,), size, dtype=torch.float64)
    assert torch.allclose(official_scales(magnitude, alpha), torch.ones(WIDTH, dtype=torch.float64))
    magnitude[5] = 0.0
    scales = official_scales(magnitude, alpha)
    others = torch.cat([scales[:5], scales[6:]])
    assert torch.allclose(others, torch.full_like(others, 100 * size ** (alpha / 2)))
    assert float(scales[5]) == pytest.approx(0.01 * size ** (-alpha / 2))


@given(magnitudes(0.0), ALPHA, st.floats(1e-3, 1e3))
def test_linear_scales_do_not_feel_the_size_of_the_inputs(magnitude: Tensor, alpha: float, factor: float) -> None:
    assume(float(magnitude.mean()) > 1e-9)
    alphas = torch.tensor([alpha], dtype=torch.float64)
    assert torch.allclose(linear_scales(magnitude * factor, alphas), linear_scales(magnitude, alphas), rtol=1e-12)


@given(weights(), magnitudes(), ALPHA, QUANTIZERS, BITS)
def test_linear_scales_quantize_as_the_study_s_normalisation_does(
    weight: Tensor, magnitude: Tensor, alpha: float, quantizer: Quantizer, bits: int
) -> None:
    """AWQ-Diag divides by `mean(x^alpha)`, we by `(mean x)^alpha`: a constant factor, and the same weights."""
    # A code within rounding of a tie may fall either way under another factor.
    ours = linear_scales(magnitude, torch.tensor([alpha], dtype=torch.float64))[0]
    assume(float((magnitude / magnitude.mean()).min()) > 1e-4)
    study = magnitude**alpha / (magnitude**alpha).mean()
    difference = scaled_round_to_nearest(weight, ours, quantizer, bits) - scaled_round_to_nearest(
        weight, study, quantizer, bits
    )
    assert float((difference.abs() > 1e-9).double().mean()) < 0.02


@given(magnitudes(0.1), ALPHA, st.integers(1, WIDTH // 2))
def test_dead_channels_neither_vanish_nor_drag_the_others_along(magnitude: Tensor, alpha: float, dead: int) -> None:
    alphas = torch.tensor([alpha], dtype=torch.float64)
    alive = linear_scales(magnitude, alphas)[0]
    magnitude = magnitude.clone()
    magnitude[:dead] = 0.0
    scales = linear_scales(magnitude, alphas)[0]
    assert (scales > 0).all()
    # A dead channel's ratio is floored at 1e-4 of the mean channel.
    assert torch.allclose(scales[:dead], torch.full_like(scales[:dead], 1e-4**alpha))
    # Only the mean changed: the other channels keep their proportions to one another.
    assert torch.allclose(scales[dead:] / scales[-1], alive[dead:] / alive[-1], rtol=1e-12)


@given(ALPHA)
def test_inputs_that_are_all_zero_scale_nothing(alpha: float) -> None:
    scales = linear_scales(torch.zeros(WIDTH), torch.tensor([alpha]))
    assert torch.equal(scales, torch.ones(1, WIDTH))


@given(magnitudes(0.0))
def test_each_exponent_has_its_own_row(magnitude: Tensor) -> None:
    alphas = torch.tensor(ALPHAS, dtype=torch.float64)
    together = linear_scales(magnitude, alphas)
    assert together.shape == (len(ALPHAS), WIDTH)
    for row, alpha in zip(together, alphas, strict=True):
        assert torch.allclose(row, linear_scales(magnitude, alpha[None])[0], rtol=1e-12)
    if float(magnitude.mean()) > 0:
        ratio = (magnitude / magnitude.mean()).clamp(min=1e-4)
        assert torch.allclose(together[-1], ratio, rtol=1e-12)  # alpha 1 is the ratio itself
