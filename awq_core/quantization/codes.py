"""Integer codes of quantized linears: storage, dequantization, AWQ's GEMM packing and size in bytes.

Searches over several methods, precisions and text sets each produce a block's weights. Stored as codes, a 4-bit weight
takes half a byte instead of the two or four bytes of a dequantized copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from awq_core.quantization.quantizers import deployed_group_size

NIBBLE = 4
"""Largest number of bits at which two codes share a byte."""


@dataclass(frozen=True)
class CodedWeight:
    """Codes of one linear: `w = (code - zero_point) * step`, bit for bit as the quantizer computes it.

    Attributes:
        codes: `(out, in)` integers, or `(out, in / 2)` bytes if `packed`.
        steps: `(out, groups)`, in the dtype in which the quantizer computed them.
        zero_points: `(out, groups)` integers.
        packed: whether two codes share a byte: the first half of a row in the low bits, the second in the high bits.
        dtype: dtype of the dequantized weights.
    """

    codes: Tensor
    steps: Tensor
    zero_points: Tensor
    packed: bool
    dtype: torch.dtype

    @classmethod
    def of(cls, codes: Tensor, steps: Tensor, zero_points: Tensor, bits: int, dtype: torch.dtype) -> CodedWeight:
        """Store a quantizer's codes, two to a byte where `bits` and the width allow it.

        Args:
            codes: `(out, in)`, whole numbers from 0 to `2^bits - 1` in any dtype.
            steps: `(out, groups)`.
            zero_points: `(out, groups)`, whole numbers from 0 to `2^bits - 1` in any dtype.
            bits: precision, 1 to 16.
            dtype: dtype of the dequantized weights.
        """
        whole = torch.uint8 if bits <= 8 else torch.int32
        codes, zero_points = codes.to(whole), zero_points.to(whole)
        packed = bits <= NIBBLE and codes.shape[1] % 2 == 0
        if packed:
            low, high = codes.chunk(2, dim=1)
            codes = low | (high << NIBBLE)
        return cls(codes, steps, zero_points, packed, dtype)

    def dequantize(self) -> Tensor:
        """Compute the weights `(out, in)`."""
        codes = self.codes
        if self.packed:
            codes = torch.cat([codes & (2**NIBBLE - 1), codes >> NIBBLE], dim=1)
        groups = codes.unflatten(1, (self.steps.shape[1], -1)).to(self.steps.dtype)  # (out, groups, g)
        weights = (groups - self.zero_points.to(self.steps.dtype).unsqueeze(2)) * self.steps.unsqueeze(2)
        return weights.flatten(1).to(self.dtype)

    def split(self, rows: list[int]) -> list[CodedWeight]:
        """Split stacked linears into one `CodedWeight` each, in host memory.

        Args:
            rows: number of output rows of each linear, in the order in which they were stacked.
        """
        codes, steps, zero_points = (
            # Copies, because a view would keep the whole stack alive.
            [part.contiguous().clone() for part in tensor.cpu().split(rows)]
            for tensor in (self.codes, self.steps, self.zero_points)
        )
        return [
            CodedWeight(*of_linear, packed=self.packed, dtype=self.dtype)
            for of_linear in zip(codes, steps, zero_points, strict=True)
        ]


FP16_BYTES = 2
CODES_IN_A_WORD = 8
COLUMN_OF_NIBBLE = (0, 2, 4, 6, 1, 3, 5, 7)
"""Column order within a word: nibble i of word c holds column `8 c + COLUMN_OF_NIBBLE[i]`, as AutoAWQ's GEMM kernels
read pairs of halves."""


def pack_awq(codes: Tensor) -> Tensor:
    """Pack 4-bit codes as AutoAWQ's `qweight` and `qzeros` store them, eight to a word.

    Args:
        codes: `(rows, columns)`, whole numbers from 0 to 15: the codes of a transposed weight, `(in, out)`, or zero
            points, `(in / group_size, out)`.

    Returns:
        `(rows, columns / 8)` int32.

    Raises:
        ValueError: if a code is out of range or the number of columns is not a multiple of 8. AutoAWQ packs codes out
            of range without a check, and a -1 or a 16 then corrupts the neighbouring codes.
    """
    if codes.shape[-1] % CODES_IN_A_WORD:
        raise ValueError(f"columns must be a multiple of {CODES_IN_A_WORD}, got {codes.shape[-1]}")
    whole = codes.to(torch.int64)
    if not torch.equal(whole.to(codes.dtype), codes) or (whole.numel() and not 0 <= whole.min() <= whole.max() <= 15):
        raise ValueError("4-bit codes must be whole numbers from 0 to 15")
    words = np.zeros((codes.shape[0], codes.shape[1] // CODES_IN_A_WORD), dtype=np.uint32)
    columns = whole.cpu().numpy().astype(np.uint32)
    for nibble, column in enumerate(COLUMN_OF_NIBBLE):
        words |= columns[:, column::CODES_IN_A_WORD] << np.uint32(4 * nibble)
    return torch.from_numpy(words.view(np.int32))


def unpack_awq(words: Tensor) -> Tensor:
    """Unpack words `(rows, columns / 8)` of `pack_awq` or AutoAWQ into codes `(rows, columns)`, int64."""
    packed = words.cpu().numpy().view(np.uint32)
    codes = np.empty((packed.shape[0], packed.shape[1] * CODES_IN_A_WORD), dtype=np.int64)
    for nibble, column in enumerate(COLUMN_OF_NIBBLE):
        codes[:, column::CODES_IN_A_WORD] = (packed >> np.uint32(4 * nibble)) & np.uint32(15)
    return torch.from_numpy(codes)


def packed_bytes(out_features: int, in_features: int, bits: int) -> float:
    """Size of one linear in the AWQ layout, in bytes: packed codes, and an FP16 step and a zero point per group.

    Args:
        out_features: number of output rows.
        in_features: input width.
        bits: bits of a code and of a zero point.
    """
    groups = out_features * in_features / deployed_group_size(in_features)
    return out_features * in_features * bits / 8 + groups * (FP16_BYTES + bits / 8)
