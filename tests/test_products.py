"""Products on what the processor multiplies fastest, against plain ones in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awq_core.quantization.matmul import Products, product_with_rows


def drawn(dtype: torch.dtype, bias: bool) -> tuple[nn.Linear, Tensor]:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(300, 50, bias=bias)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.normal_(generator=generator)
    return linear.to(dtype), torch.randn(2, 7, 300, generator=generator).to(dtype)


def exact(linear: nn.Linear, inputs: Tensor) -> Tensor:
    product = inputs.double() @ linear.weight.double().T
    return product if linear.bias is None else product + linear.bias.double()


@pytest.mark.parametrize("bias", [False, True])
def test_in_single_precision_they_differ_by_its_rounding(bias: bool) -> None:
    linear, inputs = drawn(torch.float32, bias)
    with torch.no_grad(), Products():
        found = linear(inputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact(linear, inputs), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found, product_with_rows(inputs, linear.weight.detach(), linear.bias), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_are_left_alone(dtype: torch.dtype) -> None:
    linear, inputs = drawn(dtype, bias=True)
    with torch.no_grad():
        expected = linear(inputs)
        with Products():
            assert torch.equal(linear(inputs), expected)
        assert torch.equal(linear(inputs), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_product_with_rows_takes_a_bias_and_any_shape(dtype: torch.dtype) -> None:
    linear, inputs = drawn(dtype, bias=True)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-12, torch.bfloat16: 0.5}[dtype]
    for left in (inputs, inputs[0], inputs[0, 0]):
        found = product_with_rows(left, linear.weight.detach(), linear.bias.detach())
        torch.testing.assert_close(found.double(), exact(linear, left), rtol=0.01, atol=tolerance)
