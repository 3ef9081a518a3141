"""Second moments by column blocks, what rounding changes, and products, against the plain definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from awq_core.measure.layers.second_moment import BLOCK_COLUMNS, SecondMoment
from awq_core.measured import QUANTIZERS
from awq_core.quantization.matmul import Products, multiplies_bfloat16, product_with_rows
from awq_core.quantization.quantizers import AsymmetricGroups, Quantizer, rounding_differences
from awq_core.quantization.scales import scaled_round_to_nearest


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("width", [1, 64, BLOCK_COLUMNS, 2 * BLOCK_COLUMNS + 7])
def test_a_second_moment_by_blocks_is_the_whole(width: int) -> None:
    inputs, rows = drawn(50, width), drawn(9, width, seed=1)
    moment = SecondMoment(width, torch.float64)
    for part in inputs.split(17):
        moment.update(part)
    torch.testing.assert_close(moment.matrix(), inputs.T @ inputs)
    torch.testing.assert_close(moment.row_errors(rows.T), (inputs @ rows.T).square().sum(dim=0))
    moment.update(inputs)  # more tokens after errors were asked for
    torch.testing.assert_close(moment.row_errors(rows.T), 2 * (inputs @ rows.T).square().sum(dim=0))


def test_products_in_bfloat16_are_nearly_exact_and_their_diagonal_is() -> None:
    inputs = drawn(400, 700, dtype=torch.float32)
    inputs[:, 3] *= 1000  # one channel holds nearly all of the sum
    rows = drawn(200, 700, seed=1, dtype=torch.float32)
    moment = SecondMoment(700, torch.float32)
    moment.update(inputs)
    exact = (inputs.double() @ rows.double().T).square().sum(dim=0)
    short = moment.row_errors(rows.T).double()
    assert float((short / exact - 1).abs().quantile(0.5)) < 1e-4
    assert float(short.sum() / exact.sum() - 1) == pytest.approx(0, abs=1e-4)


def test_rows_whose_terms_cancel_are_multiplied_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels in pairs that are nearly the same, under weights of opposite signs: little is left of a large sum."""
    half = drawn(300, 32, dtype=torch.float32)
    inputs = torch.stack([half, half + 0.1 * drawn(300, 32, seed=2, dtype=torch.float32)], dim=2).flatten(1)
    weights = drawn(256, 32, seed=1, dtype=torch.float32)
    rows = torch.stack([weights, -weights], dim=2).flatten(1)
    moment = SecondMoment(64, torch.float32)
    moment.update(inputs)
    exact = (inputs.double() @ rows.double().T).square().sum(dim=0)

    def off() -> float:
        return float((moment.row_errors(rows.T).double() / exact - 1).abs().max())

    assert off() < 1e-3
    if multiplies_bfloat16(torch.device("cpu")):
        monkeypatch.setattr("awq_core.measure.layers.second_moment.HEAVY_SHARE", float("inf"))
        assert off() > 1e-2


@pytest.mark.parametrize("quantizer", [*QUANTIZERS, AsymmetricGroups(32)], ids=lambda quantizer: quantizer.name)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("width", [48, 200, 256])
def test_what_rounding_changes_is_the_quantizers(quantizer: Quantizer, bits: int, width: int) -> None:
    weight = drawn(20, width)
    weight[3] = 0  # a row of zeros
    weight[4] = weight[4].abs() + 1  # groups of one sign
    scales = drawn(5, width, seed=1).abs() + 0.1
    found = rounding_differences(weight.T.contiguous(), scales.T.contiguous(), quantizer, bits)
    for index, scale in enumerate(scales):
        expected = scaled_round_to_nearest(weight, scale, quantizer, bits) - weight
        torch.testing.assert_close(found[:, index].T, expected, rtol=1e-9, atol=1e-12)


# products on what the processor multiplies fastest


def linear_and_inputs(dtype: torch.dtype, bias: bool = True) -> tuple[nn.Linear, torch.Tensor]:
    linear = nn.Linear(300, 50, bias=bias)
    with torch.no_grad():
        for seed, parameter in enumerate(linear.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=seed))
    return linear.to(dtype), drawn(2, 7, 300, seed=2, dtype=dtype)


def exact(linear: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    product = inputs.double() @ linear.weight.double().T
    return product if linear.bias is None else product + linear.bias.double()


@pytest.mark.parametrize("bias", [False, True])
def test_in_single_precision_they_differ_by_its_rounding(bias: bool) -> None:
    linear, inputs = linear_and_inputs(torch.float32, bias)
    with torch.no_grad(), Products():
        found = linear(inputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact(linear, inputs), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found, product_with_rows(inputs, linear.weight.detach(), linear.bias), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_are_left_alone(dtype: torch.dtype) -> None:
    linear, inputs = linear_and_inputs(dtype)
    with torch.no_grad():
        expected = linear(inputs)
        with Products():
            assert torch.equal(linear(inputs), expected)
        assert torch.equal(linear(inputs), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_product_with_rows_takes_a_bias_and_any_shape(dtype: torch.dtype) -> None:
    linear, inputs = linear_and_inputs(dtype)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-12, torch.bfloat16: 0.5}[dtype]
    for left in (inputs, inputs[0], inputs[0, 0]):
        found = product_with_rows(left, linear.weight.detach(), linear.bias.detach())
        torch.testing.assert_close(found.double(), exact(linear, left), rtol=0.01, atol=tolerance)
    rows = linear.weight.detach()
    sliced = product_with_rows(inputs[0, :, 5:25], rows[:, 5:25])  # views of wider matrices
    expected = inputs[0, :, 5:25].double() @ rows[:, 5:25].double().T
    torch.testing.assert_close(sliced.double(), expected, rtol=0.01, atol=tolerance)
