"""Packing: the bytes that are counted are the bytes that packing takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from awq_core.packing import packed_bytes
from awq_core.quantizer import deployed_group_size, quantize_groups

SHAPES = st.tuples(st.integers(1, 6).map(lambda n: 8 * n), st.sampled_from([32, 64, 96, 128, 200, 256]))


def bits_of(codes: torch.Tensor, bits: int) -> np.ndarray:
    """Every code's binary digits, one after another."""
    values = codes.flatten().to(torch.int64).numpy()
    return ((values[:, None] >> np.arange(bits)) & 1).astype(np.uint8).ravel()


@given(SHAPES, st.sampled_from([2, 3, 4, 6, 8]), st.integers(0, 2**32 - 1))
def test_codes_steps_and_zero_points_fill_what_is_counted(shape: tuple[int, int], bits: int, seed: int) -> None:
    """Rows come in eights, as packed zero points need; the packed bits give every code back."""
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    quantized = quantize_groups(weight, bits, deployed_group_size(shape[1]))
    packed = [np.packbits(bits_of(tensor, bits)) for tensor in (quantized.codes, quantized.zero_points)]
    steps = quantized.steps.half().numpy()
    assert sum(part.nbytes for part in packed) + steps.nbytes == packed_bytes(*shape, bits)
    digits = np.unpackbits(packed[0])[: quantized.codes.numel() * bits].reshape(-1, bits)
    codes = (digits.astype(np.int64) << np.arange(bits)).sum(axis=1)
    np.testing.assert_array_equal(codes, quantized.codes.flatten().numpy())


@given(SHAPES, st.integers(1, 15))
def test_every_bit_costs(shape: tuple[int, int], bits: int) -> None:
    assert packed_bytes(*shape, bits) < packed_bytes(*shape, bits + 1)


def test_four_bits_in_groups_of_128_are_3_85_times_smaller_than_fp16() -> None:
    # 4 bits a weight, and for 128 of them 16 bits of step and 4 of zero point.
    assert 2 * 4096 * 4096 / packed_bytes(4096, 4096, 4) == pytest.approx(16 / (4 + 20 / 128))
