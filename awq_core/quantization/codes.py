"""Quantized linears as codes: kept by searches and turned back into weights, packed as AWQ GEMM does.

Searches of several methods, precisions and texts leave a block's weights behind; as codes they take half a byte a
weight, where copies would take two or four.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NIBBLE = 4
"""Up to so many bits, two codes share a byte."""


@dataclass(frozen=True)
class CodedWeight:
    """One linear: `w = (code - zero_point) * step`, exactly as the quantizer computes it.

    Attributes:
        codes: `(out, in)` integers; `(out, in / 2)` bytes where two codes share one (`packed`).
        steps: `(out, groups)`, in the dtype in which the quantizer computed.
        zero_points: `(out, groups)` integers.
        packed: whether two codes share a byte: the first half of a row in the low bits, the second in the high ones.
        dtype: of the weights.
    """

    codes: Tensor
    steps: Tensor
    zero_points: Tensor
    packed: bool
    dtype: torch.dtype

    @classmethod
    def of(cls, codes: Tensor, steps: Tensor, zero_points: Tensor, bits: int, dtype: torch.dtype) -> CodedWeight:
        """From codes as a quantizer has them.

        Args:
            codes: `(out, in)`, whole numbers from 0 to `2^bits - 1` in any dtype.
            steps: `(out, groups)`.
            zero_points: `(out, groups)`, whole numbers from 0 to `2^bits - 1` in any dtype.
            bits: 1 to 16.
            dtype: of the weights.
        """
        whole = torch.uint8 if bits <= 8 else torch.int32
        codes, zero_points = codes.to(whole), zero_points.to(whole)
        packed = bits <= NIBBLE and codes.shape[1] % 2 == 0
        if packed:
            low, high = codes.chunk(2, dim=1)
            codes = low | (high << NIBBLE)
        return cls(codes, steps, zero_points, packed, dtype)

    def dequantize(self) -> Tensor:
        """The weights `(out, in)`."""
        codes = self.codes
        if self.packed:
            codes = torch.cat([codes & (2**NIBBLE - 1), codes >> NIBBLE], dim=1)
        groups = codes.unflatten(1, (self.steps.shape[1], -1)).to(self.steps.dtype)  # (out, groups, g)
        weights = (groups - self.zero_points.to(self.steps.dtype).unsqueeze(2)) * self.steps.unsqueeze(2)
        return weights.flatten(1).to(self.dtype)

    def split(self, rows: list[int]) -> list[CodedWeight]:
        """The linears that were stacked, off the device: there they wait for their turn with all the others."""
        codes, steps, zero_points = (
            # Copies: a view would keep the whole stack.
            [part.contiguous().clone() for part in tensor.cpu().split(rows)]
            for tensor in (self.codes, self.steps, self.zero_points)
        )
        return [
            CodedWeight(*of_linear, packed=self.packed, dtype=self.dtype)
            for of_linear in zip(codes, steps, zero_points, strict=True)
        ]


CODES_IN_A_WORD = 8
COLUMN_OF_NIBBLE = (0, 2, 4, 6, 1, 3, 5, 7)
"""Nibble i of a word holds column `8 c + COLUMN_OF_NIBBLE[i]` (AutoAWQ's GEMM kernels read pairs of halves)."""


def pack_awq(codes: Tensor) -> Tensor:
    """4-bit codes as AutoAWQ's `qweight` and `qzeros` store them, eight to a word.

    Args:
        codes: `(rows, columns)`, whole numbers from 0 to 15; transposed weights `(in, out)`, or zero points
            `(in / group_size, out)`.

    Returns:
        `(rows, columns / 8)` int32.

    Raises:
        ValueError: if a code is out of range or the columns are no multiple of 8. The reference packs such codes
            all the same, and a -1 or a 16 corrupts its neighbours.
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
    """The codes `(rows, columns)`, int64, of words `(rows, columns / 8)` that `pack_awq` or AutoAWQ wrote."""
    packed = words.cpu().numpy().view(np.uint32)
    codes = np.empty((packed.shape[0], packed.shape[1] * CODES_IN_A_WORD), dtype=np.int64)
    for nibble, column in enumerate(COLUMN_OF_NIBBLE):
        codes[:, column::CODES_IN_A_WORD] = (packed >> np.uint32(4 * nibble)) & np.uint32(15)
    return torch.from_numpy(codes)
