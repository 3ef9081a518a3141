"""Packing: codes come back as they went in, others are refused, and the bytes counted are the bytes taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from awq_core.quantization.codes import pack_awq, unpack_awq
from awq_core.quantization.quantizers import DEPLOYED, QuantizedGroups, quantize_groups

SHAPES = st.tuples(st.integers(1, 6).map(lambda n: 8 * n), st.sampled_from([32, 64, 96, 128, 200, 256]))


def bits_of(codes: torch.Tensor, bits: int) -> np.ndarray:
    """Every code's binary digits, one after another."""
    values = codes.flatten().to(torch.int64).numpy()
    return ((values[:, None] >> np.arange(bits)) & 1).astype(np.uint8).ravel()


@given(SHAPES, st.sampled_from([2, 3, 4, 6, 8]), st.integers(0, 2**32 - 1))
def test_codes_steps_and_zero_points_fill_what_is_counted(shape: tuple[int, int], bits: int, seed: int) -> None:
    """Rows come in eights, as packed zero points need; the packed bits give every code back."""
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    quantized = quantize_groups(weight, bits, DEPLOYED.group_size_for(shape[1]))
    packed = [np.packbits(bits_of(tensor, bits)) for tensor in (quantized.codes, quantized.zero_points)]
    steps = quantized.steps.half().numpy()
    assert sum(part.nbytes for part in packed) + steps.nbytes == DEPLOYED.stored_bytes(*shape, bits)
    digits = np.unpackbits(packed[0])[: quantized.codes.numel() * bits].reshape(-1, bits)
    codes = (digits.astype(np.int64) << np.arange(bits)).sum(axis=1)
    np.testing.assert_array_equal(codes, quantized.codes.flatten().numpy())


@given(SHAPES, st.integers(1, 15))
def test_every_bit_costs(shape: tuple[int, int], bits: int) -> None:
    assert DEPLOYED.stored_bytes(*shape, bits) < DEPLOYED.stored_bytes(*shape, bits + 1)


def test_four_bits_in_groups_of_128_are_3_85_times_smaller_than_fp16() -> None:
    # 4 bits a weight, and for 128 of them 16 bits of step and 4 of zero point.
    assert 2 * 4096 * 4096 / DEPLOYED.stored_bytes(4096, 4096, 4) == pytest.approx(16 / (4 + 20 / 128))


def quantized(shape: tuple[int, int], seed: int) -> QuantizedGroups:
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return quantize_groups(weight, 4, DEPLOYED.group_size_for(shape[1]))


@given(SHAPES, st.integers(0, 2**32 - 1))
def test_codes_and_zero_points_come_back(shape: tuple[int, int], seed: int) -> None:
    found = quantized(shape, seed)
    for codes in (found.codes.T, found.zero_points.T):
        words = pack_awq(codes)
        assert words.dtype == torch.int32
        assert words.shape == (codes.shape[0], codes.shape[1] // 8)
        assert torch.equal(unpack_awq(words), codes.to(torch.int64))


@given(SHAPES)
def test_the_packed_linear_takes_the_bytes_that_are_counted(shape: tuple[int, int]) -> None:
    found = quantized(shape, seed=0)
    parts = pack_awq(found.codes.T), pack_awq(found.zero_points.T), found.steps.half()
    assert sum(part.nbytes for part in parts) == DEPLOYED.stored_bytes(*shape, 4)


def test_the_nibbles_are_in_the_gemm_kernels_order() -> None:
    """Column k holds the code k: the lowest nibble is column 0, the next column 2."""
    (word,) = pack_awq(torch.arange(8)[None])[0].tolist()
    assert [(word >> 4 * nibble) & 15 for nibble in range(8)] == [0, 2, 4, 6, 1, 3, 5, 7]


@given(st.sampled_from([-1, 16, 255, 0.5]), st.integers(0, 15))
def test_a_code_out_of_range_is_refused(code: float, column: int) -> None:
    codes = torch.full((3, 16), 7.0)
    codes[1, column] = code
    with pytest.raises(ValueError, match="whole numbers from 0 to 15"):
        pack_awq(codes)


def test_columns_come_in_eights() -> None:
    with pytest.raises(ValueError, match="multiple of 8, got 12"):
        pack_awq(torch.zeros(4, 12))
