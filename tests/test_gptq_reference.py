"""GPTQ and the clip search against slow computations; GPTQ against round-to-nearest on the embedded models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from awq_core.architectures.block_stream import BlockStream
from awq_core.architectures.model import architecture_of
from awq_core.architectures.sources import LinearWeights
from awq_core.measure.methods.block_inputs import BlockInputs
from awq_core.quantization.clipping import search_clipping
from awq_core.quantization.codes import CodedWeight
from awq_core.quantization.gptq import _propagation, gptq_codes
from awq_core.quantization.output_error import relative_output_error
from awq_core.quantization.quantizers import DEPLOYED, quantize_groups, round_to_nearest
from tests import reference_gptq
from tests.structured_model import embedded

WIDTH = 60


def gptq(weight: Tensor, moment: Tensor, *given: Any, **options: Any) -> Tensor:
    """The weights that GPTQ's codes stand for."""
    return gptq_codes(weight, moment, *given, **options).dequantize()


def case(seed: int, tokens: int = 100) -> tuple[Tensor, Tensor]:
    """A weight `(5, 60)` and the second moment of correlated inputs with channels of many sizes."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(WIDTH, WIDTH, dtype=torch.float64, generator=generator)
    x = torch.randn(tokens, WIDTH, dtype=torch.float64, generator=generator) @ mixing
    x *= torch.exp(torch.randn(WIDTH, dtype=torch.float64, generator=generator))
    weight = torch.randn(5, WIDTH, dtype=torch.float64, generator=generator)
    weight[0] = weight[0].abs() + 0.5  # a row whose groups have one sign
    return weight, x.T @ x


@pytest.mark.parametrize("ordered", [False, True], ids=["in order", "by activation"])
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize(
    ("group_size", "block_size"),
    [(60, 128), (30, 60), (20, 10), (15, 50), (10, 20), (4, 7), (1, 16)],
    ids=lambda value: str(value),
)
def test_gptq_is_what_inverting_afresh_for_every_column_gives(
    group_size: int, block_size: int, bits: int, ordered: bool
) -> None:
    """Groups smaller and larger than a block of updates, and such as do not divide it."""
    weight, moment = case(seed=bits)
    found = gptq(weight, moment, bits, group_size, activation_order=ordered, block_size=block_size)
    expected = reference_gptq.gptq(weight.numpy(), moment.numpy(), bits, group_size, ordered)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    nearest = reference_gptq.gptq(weight.numpy(), np.eye(WIDTH), bits, group_size, ordered)
    assert not np.allclose(found, nearest)  # there is something to make up for here


def test_so_it_is_where_the_factor_is_inverted_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("awq_core.quantization.gptq.INVERTED_AT_ONCE", 5)  # halves of 60, 30, 15, 7 and 8
    weight, moment = case(seed=3)
    expected = reference_gptq.gptq(weight.numpy(), moment.numpy(), 3, 20, False)
    np.testing.assert_allclose(gptq(weight, moment, 3, 20), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_errors_are_spread_by_the_inverse_s_cholesky_factor(dtype: torch.dtype) -> None:
    """In single precision too, on halves of different widths; a wide spread of the channels, as models have it."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randn(601, generator=generator).exp()
    inputs = torch.randn(1000, 601, generator=generator, dtype=torch.float64) * sizes
    moment = inputs.T @ inputs
    damped = moment + 0.01 * moment.diagonal().mean() * torch.eye(601, dtype=torch.float64)
    expected = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    found = _propagation(moment.to(dtype), 0.01)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-12}[dtype] * float(expected.max())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("ordered", [False, True], ids=["in order", "by activation"])
@pytest.mark.parametrize("tokens", [200, 20], ids=["many tokens", "fewer than channels"])
@pytest.mark.parametrize("dead", [[0, 7, 8, 9, 59], [*range(20, 30)]], ids=["some", "a whole group"])
def test_so_it_is_with_dead_columns(ordered: bool, tokens: int, dead: list[int]) -> None:
    weight, moment = case(seed=9, tokens=tokens)
    moment[dead] = 0.0
    moment[:, dead] = 0.0
    found = gptq(weight, moment, 4, 10, activation_order=ordered, block_size=20)
    expected = reference_gptq.gptq(weight.numpy(), moment.numpy(), 4, 10, ordered)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)
    assert not found[:, dead].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("bits", "width"), [(3, 60), (4, 60), (4, 15), (8, 60), (9, 60)])
def test_codes_give_the_quantizer_s_weights_to_the_last_bit(bits: int, width: int, dtype: torch.dtype) -> None:
    weight = case(seed=bits)[0][:, :width].to(dtype)
    quantized = quantize_groups(weight, bits, 15)
    found = CodedWeight.of(*quantized, bits, dtype)
    assert torch.equal(found.dequantize(), quantized.dequantize())
    assert found.packed == (bits <= 4 and width % 2 == 0)
    first, second = found.split([2, 3])
    assert torch.equal(first.dequantize(), quantized.dequantize()[:2])
    assert torch.equal(second.dequantize(), quantized.dequantize()[2:])


CALIBRATION_TOKENS = 4096


def linears_with_moments(name: str) -> Iterator[tuple[LinearWeights, Tensor]]:
    """Every linear of an embedded model, and the second moment of its inputs on 4096 calibration tokens."""
    model, selected = embedded(name)
    calibration = selected.calibration
    count = CALIBRATION_TOKENS // calibration.shape[1]
    chosen = calibration[np.arange(count) * len(calibration) // count]
    assert chosen.size == CALIBRATION_TOKENS
    stream = BlockStream(model, architecture_of(model.config), {"calibration": chosen}, groups=1)
    for block in range(stream.blocks):
        stream.begin(block)
        inputs = BlockInputs(stream, block, "calibration", torch.float64)
        for entry in stream.linears(block):
            yield entry, inputs.second_moment(entry.site).matrix()
        stream.advance(block)


@pytest.mark.parametrize("name", ["embedded-tiny", "embedded-small"])
def test_gptq_errs_less_than_rounding_on_its_calibration_tokens(name: str) -> None:
    """Every linear, 3 and 4 bits, either order: at least 15% less; the typical linear 20% or more."""
    ratios: dict[tuple[int, bool], list[float]] = {}
    for entry, moment in linears_with_moments(name):
        weight = entry.weight.double()
        group_size = DEPLOYED.group_size_for(weight.shape[1])
        for bits in (3, 4):
            rtn = relative_output_error(weight, round_to_nearest(weight, DEPLOYED, bits), moment)
            for ordered in (False, True):
                found = gptq(weight, moment, bits, group_size, activation_order=ordered)
                ratio = float(relative_output_error(weight, found, moment) / rtn)
                assert ratio < 0.85, f"{entry.name} at {bits} bits, ordered {ordered}"
                ratios.setdefault((bits, ordered), []).append(ratio)
    assert {len(values) for values in ratios.values()} == {35}
    for values in ratios.values():
        assert float(np.median(values)) < 0.8


# the clip search

GROUP = 16


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("tokens", [10, 300], ids=["fewer tokens than channels", "many"])
def test_the_limits_are_those_of_replayed_tokens(bits: int, tokens: int) -> None:
    rng = np.random.default_rng(bits)
    weight = rng.standard_t(3, size=(12, 4 * GROUP))  # heavy tails: something to clip
    weight[0] = np.abs(weight[0]) + 0.3  # one sign
    weight[1, :GROUP] = 0.0
    x = rng.normal(size=(tokens, 4 * GROUP)) @ rng.normal(size=(4 * GROUP, 4 * GROUP))
    x[:, 5] *= 30
    x[:, 3 * GROUP :] = 0.0  # a group that no token reaches: nothing is clipped
    found = search_clipping(torch.from_numpy(weight), torch.from_numpy(x.T @ x), bits, GROUP).numpy()
    np.testing.assert_allclose(found, reference_gptq.clip_limits(weight, x, bits, GROUP), rtol=1e-12)
    largest = np.abs(weight).reshape(12, 4, GROUP).max(axis=-1)
    np.testing.assert_array_equal(found[:, 3], largest[:, 3])
    assert (found < largest).mean() > 0.2  # the search has something to find here
