"""What scaling does to one linear, against replayed tokens and loops over groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from awq_core.measure.layers.errors import exhaustive_errors
from awq_core.measure.layers.second_moment import SecondMoment
from awq_core.measured import SPLITS, Measured
from awq_core.quantization.quantizers import DEPLOYED
from tests import reference_diagnostic as reference
from tests.structured_model import measured_layers, structured_model, tokens

CALIBRATION, HELDOUT = tokens(7), tokens(19, length=24, seed=1)
FACTORS = (1.0, 1.25, 1.5, 2.0, 4.0)


@pytest.fixture(scope="module")
def measured() -> Measured:
    return measured_layers(structured_model(intermediate_size=256), CALIBRATION, HELDOUT)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return reference.weights_of(structured_model(intermediate_size=256))


@pytest.fixture(scope="module")
def inputs() -> dict[str, dict[str, np.ndarray]]:
    model = structured_model(intermediate_size=256)
    return {
        split: reference.captured_inputs(model, ids) for split, ids in zip(SPLITS, (CALIBRATION, HELDOUT), strict=True)
    }


Inputs = dict[str, dict[str, np.ndarray]]
judged = pytest.mark.parametrize(("split", "bits"), [(split, bits) for split in SPLITS for bits in (3, 4)])


def scaled_error(weight: np.ndarray, scales: np.ndarray, bits: int, x: np.ndarray) -> float:
    quantized = reference.quantized(weight * scales, "asym-g128", bits) / scales
    return reference.replayed_error(weight, quantized, x)


@judged
def test_scaling_down_is_the_inverse_of_the_published_scale(
    measured: Measured, weights: dict[str, np.ndarray], inputs: Inputs, split: str, bits: int
) -> None:
    table = measured.errors["inverse_error"].sel(judged_bits=bits, split=split)
    assert table["inverse_alpha"].values.tolist() == [0.25, 0.5, 0.75, 1.0]
    for name, weight in weights.items():
        magnitude = np.abs(inputs["calibration"][name]).mean(axis=0)
        ratio = np.maximum(magnitude / magnitude.mean(), 1e-4)
        expected = [scaled_error(weight, ratio**-alpha, bits, inputs[split][name]) for alpha in (0.25, 0.5, 0.75, 1.0)]
        np.testing.assert_allclose(table.sel(linear=name), expected, rtol=1e-8)


@judged
def test_a_factor_multiplies_the_salient_channels_alone(
    measured: Measured, weights: dict[str, np.ndarray], inputs: Inputs, split: str, bits: int
) -> None:
    table = measured.errors["factor_error"].sel(judged_bits=bits, split=split)
    assert tuple(table["factor"].values) == FACTORS
    for name, weight in weights.items():
        magnitude = np.abs(inputs["calibration"][name]).mean(axis=0)
        expected = []
        for factor in FACTORS:
            scales = np.ones(weight.shape[1])
            scales[np.argsort(-magnitude)[: max(1, len(magnitude) // 100)]] = factor
            expected.append(scaled_error(weight, scales, bits, inputs[split][name]))
        np.testing.assert_allclose(table.sel(linear=name), expected, rtol=1e-8)
    plain = measured.errors["output_error"].sel(quantizer="asym-g128", bits=bits, split=split, alpha=0.0)
    np.testing.assert_allclose(table.sel(factor=1.0), plain, rtol=1e-12)


def test_steps_are_compared_group_by_group(measured: Measured, weights: dict[str, np.ndarray], inputs: Inputs) -> None:
    changed_somewhere = 0.0
    for name, weight in weights.items():
        magnitude = np.abs(inputs["calibration"][name]).mean(axis=0)
        salient = np.argsort(-magnitude)[: max(1, len(magnitude) // 100)]
        size = reference.group_size(weight.shape[1])
        for factor in FACTORS:
            scaled = weight.copy()
            scaled[:, salient] *= factor
            ratios = []
            for row, scaled_row in zip(weight, scaled, strict=True):
                for start in range(0, len(row), size):
                    before, after = (np.ptp(w[start : start + size]) for w in (row, scaled_row))
                    ratios.append(after / before)
            at = measured.errors.sel(linear=name, factor=factor)
            assert float(at["step_changed"]) == pytest.approx(np.mean(np.abs(np.array(ratios) - 1) > 0.01))
            assert float(at["step_ratio"]) == pytest.approx(np.mean(ratios))
            changed_somewhere = max(changed_somewhere, float(at["step_changed"]))
    assert 0.3 < changed_somewhere < 1  # there is something to compare
    assert float(measured.errors["step_changed"].sel(factor=1.0).max()) == 0.0


def test_the_same_scale_everywhere_changes_no_weight(measured: Measured, weights: dict[str, np.ndarray]) -> None:
    assert measured.errors["uniform_changed"].values.tolist() == [0] * 14
    for weight in weights.values():
        for bits in (3, 4):
            alike = reference.quantized(4 * weight, "asym-g128", bits) / 4
            np.testing.assert_array_equal(alike, reference.quantized(weight, "asym-g128", bits))


def test_weights_so_small_that_the_floor_under_the_step_counts_do_change() -> None:
    """llm-awq's floor of 1e-5 is absolute: the count is of what is measured, not of what ought to be."""
    weight = 1e-6 * torch.randn(8, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moments = []
    for _ in range(2):
        moments.append(SecondMoment(64, torch.float64))
        moments[-1].update(torch.eye(64, dtype=torch.float64))
    found = exhaustive_errors(weight, torch.ones(64, dtype=torch.float64), moments, (DEPLOYED,), (4, 3)).mechanism
    small = weight.numpy()
    pairs = [[reference.quantized(k * small, "asym-g128", bits) / k for k in (4, 1)] for bits in (4, 3)]
    expected = sum(int((scaled != plain).sum()) for scaled, plain in pairs)
    assert found.uniform_changed == expected > 0
