"""Storing quantized linears: the AWQ GEMM layout of 4-bit codes, and how many bytes a linear takes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from awq_core.quantizer import deployed_group_size

FP16_BYTES = 2
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


def packed_bytes(out_features: int, in_features: int, bits: int) -> float:
    """Bytes of one linear in the AWQ layout: packed codes, an FP16 step and a packed zero point for every group.

    Args:
        out_features: rows.
        in_features: columns.
        bits: of a code and of a zero point.
    """
    groups = out_features * in_features / deployed_group_size(in_features)
    return out_features * in_features * bits / 8 + groups * (FP16_BYTES + bits / 8)
