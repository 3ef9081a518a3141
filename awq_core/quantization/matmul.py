"""Matrix products on what the processor multiplies fastest.

In single precision `torch.mm` calls MKL, which on processors of another maker than its own leaves half of their vector
width unused; oneDNN, which PyTorch carries too, uses all of it. Both add in single precision, in another order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def product_with_rows(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """`left @ right.T`, and a bias on top of it.

    Args:
        left: `(..., k)`.
        right: `(n, k)`.
        bias: `(n,)`.

    Returns:
        `(..., n)`.
    """
    if left.device.type == "cpu" and left.dtype == right.dtype == torch.float32 and _has_onednn():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
        return found
    product = left @ right.T
    return product if bias is None else product + bias


class Products(TorchFunctionMode):
    """Lets the linears that are called inside multiply as fast as the processor can."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.linear or kwargs or args[0].dtype != torch.float32:
            return func(*args, **kwargs)
        inputs, weight, *rest = args
        return product_with_rows(inputs, weight, rest[0] if rest else None)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16: elsewhere they are slower than single precision."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
