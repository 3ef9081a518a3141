"""Matrix products on what the processor multiplies fastest.

In single precision `torch.mm` calls MKL, which on processors of another maker than its own leaves half of their vector
width unused; oneDNN, which PyTorch carries too, uses all of it. Both add in single precision, in another order.
"""

from __future__ import annotations

import torch
from torch import Tensor


def product_with_rows(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.T`.

    Args:
        left: `(m, k)`.
        right: `(n, k)`.

    Returns:
        `(m, n)`.
    """
    if left.device.type == "cpu" and left.dtype == torch.float32 and _has_onednn():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
        return found
    return left @ right.T


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16: elsewhere they are slower than single precision."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
