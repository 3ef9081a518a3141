"""Matrix products by the fastest library for the processor.

In single precision `torch.mm` calls MKL, which uses only half of the vector width of processors that Intel did not
make; oneDNN, which PyTorch includes too, uses all of it. Both accumulate in single precision, in different orders.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def product_with_rows(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `left @ right.T + bias`.

    Args:
        left: `(..., k)`.
        right: `(n, k)`.
        bias: `(n,)`; None for no bias.

    Returns:
        `(..., n)`.
    """
    if left.device.type == "cpu" and left.dtype == right.dtype == torch.float32 and _has_onednn():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
        return found
    product = left @ right.T
    return product if bias is None else product + bias


class Products(TorchFunctionMode):
    """Context in which linears with single-precision inputs multiply by `product_with_rows`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.linear or kwargs or args[0].dtype != torch.float32:
            return func(*args, **kwargs)
        inputs, weight, *rest = args
        return product_with_rows(inputs, weight, rest[0] if rest else None)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 products; without them, bfloat16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
