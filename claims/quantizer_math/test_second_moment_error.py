"""The output error from second moments: the same number that replaying every token gives."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from awq_core.measured import QUANTIZERS
from awq_core.quantization import output_error
from awq_core.quantization.output_error import error_grid, relative_output_error, summed_squared_output
from awq_core.quantization.quantizers import Quantizer
from awq_core.quantization.scales import linear_scales, scaled_round_to_nearest


@st.composite
def linears(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A weight `(out, in)` and inputs `(tokens, in)`, correlated, some channels large; tokens may be fewer than in."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    out, width, tokens = draw(st.integers(1, 6)), draw(st.sampled_from([32, 48, 64])), draw(st.integers(1, 80))
    mixing = torch.randn(width, width, dtype=torch.float64, generator=generator)
    x = torch.randn(tokens, width, dtype=torch.float64, generator=generator) @ mixing / width**0.5
    x[:, draw(st.integers(0, width - 1))] *= draw(st.floats(1.0, 50.0))
    weight = torch.randn(out, width, dtype=torch.float64, generator=generator)
    return weight, x


@given(linears(), st.integers(0, 2**32 - 1))
def test_the_trace_is_the_replayed_error(case: tuple[Tensor, Tensor], seed: int) -> None:
    weight, x = case
    difference = torch.randn(3, *weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    replayed = torch.stack([(x @ each.T).square().sum() for each in difference])
    torch.testing.assert_close(summed_squared_output(difference, x.T @ x), replayed, rtol=1e-10, atol=0)


@given(linears(), st.floats(0.01, 100.0))
def test_second_moments_add_over_tokens(case: tuple[Tensor, Tensor], size: float) -> None:
    weight, x = case
    parts = sum((batch.T @ batch for batch in x.split(7)), torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64))
    together = summed_squared_output(weight * size, x.T @ x)
    torch.testing.assert_close(summed_squared_output(weight * size, parts), together, rtol=1e-10, atol=0)


@given(linears(), st.sampled_from(QUANTIZERS), st.integers(2, 8))
def test_the_relative_error_is_the_replayed_one(case: tuple[Tensor, Tensor], quantizer: Quantizer, bits: int) -> None:
    weight, x = case
    quantized = scaled_round_to_nearest(weight, torch.ones(x.shape[1], dtype=torch.float64), quantizer, bits)
    replayed = (x @ (weight - quantized).T).square().sum() / (x @ weight.T).square().sum()
    torch.testing.assert_close(relative_output_error(weight, quantized, x.T @ x), replayed, rtol=1e-7, atol=1e-14)


@given(linears(), linears(), st.integers(1, 5))
def test_the_grid_is_what_a_naive_loop_gives(
    case: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], per_chunk: int
) -> None:
    """Also when the exponents do not fit into one chunk."""
    weight, x = case
    generator = torch.Generator().manual_seed(len(other[1]))
    splits = [x, torch.randn(50, x.shape[1], dtype=torch.float64, generator=generator)]
    alphas = torch.tensor([0.0, 0.3, 0.55, 1.0], dtype=torch.float64)
    scales = linear_scales(x.abs().mean(dim=0), alphas)
    bits = (2, 3, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_error, "CHUNK_ELEMENTS", per_chunk * weight.numel())
        grid = error_grid(weight, scales, QUANTIZERS, bits, [inputs.T @ inputs for inputs in splits])
    assert grid.shape == (2, 3, 4, 2)
    for q, b, a, m in itertools.product(range(2), range(3), range(4), range(2)):
        scaled = weight * scales[a]
        ones = torch.ones_like(scales[a])
        quantized = scaled_round_to_nearest(scaled, ones, QUANTIZERS[q], bits[b]) / scales[a]
        inputs = splits[m]
        replayed = (inputs @ (quantized - weight).T).square().sum() / (inputs @ weight.T).square().sum()
        torch.testing.assert_close(grid[q, b, a, m], replayed, rtol=1e-7, atol=1e-13)


def test_the_weight_is_left_as_it_was() -> None:
    weight = torch.randn(4, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = weight.clone()
    error_grid(weight, torch.ones(2, 32, dtype=torch.float64), QUANTIZERS, (3,), [torch.eye(32, dtype=torch.float64)])
    assert torch.equal(weight, before)


@given(st.sampled_from(["no input", "no weight"]), st.sampled_from(QUANTIZERS))
def test_a_linear_without_output_errs_by_nothing(what: str, quantizer: Quantizer) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 32, dtype=torch.float64, generator=generator)
    moment = torch.eye(32, dtype=torch.float64)
    weight, moment = (weight, 0 * moment) if what == "no input" else (0 * weight, moment)
    quantized = scaled_round_to_nearest(weight, torch.ones(32, dtype=torch.float64), quantizer, 3)
    assert float(relative_output_error(weight, quantized, moment)) == 0.0
    grid = error_grid(weight, torch.ones(1, 32, dtype=torch.float64), [quantizer], [3], [moment])
    assert torch.equal(grid, torch.zeros(1, 1, 1, 1, dtype=torch.float64))
