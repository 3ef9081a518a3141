"""Operations of matrix products, counted as a program makes them: a multiplication and an addition each.

Rounding, powers of activations, softmax and norms are left out: they cost time, and that they do is what a low share of
the product rate says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Add = Callable[[torch.dtype, int], None]
"""Told the dtype and the operations of every product."""


class CountedProducts(TorchDispatchMode):
    """Counts what is multiplied inside.

    Args:
        add: see `Add`.
    """

    def __init__(self, add: Add) -> None:
        super().__init__()
        self._add = add

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        count = _COUNTS.get(func.overloadpacket.__name__.removesuffix("_"))
        if count is not None:
            self._add(args[0].dtype, count(*args))
        return func(*args, **(kwargs or {}))


def _product(left: Tensor, right: Tensor, *_: Any) -> int:
    """`(..., m, k) @ (..., k, n)`."""
    return 2 * left.numel() * right.shape[-1]


def _linear(inputs: Tensor, weight: Tensor, *_: Any) -> int:
    return 2 * inputs.numel() * weight.shape[0]


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    """Scores and weighted values at all pairs of places, also where a kernel leaves half of them out."""
    pairs = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    return 2 * pairs * (query.shape[3] + value.shape[3])


def _added(_: Tensor, left: Tensor, right: Tensor, *__: Any) -> int:
    return _product(left, right)


_COUNTS: dict[str, Callable[..., int]] = {
    "mm": _product,
    "bmm": _product,
    "mv": lambda left, right, *_: 2 * left.numel(),
    "addmm": _added,
    "baddbmm": _added,
    "_linear_pointwise": _linear,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "linalg_cholesky_ex": lambda matrix, *_: len(matrix) ** 3 // 3,
    "cholesky_inverse": lambda matrix, *_: 2 * len(matrix) ** 3 // 3,
    "linalg_solve_triangular": lambda matrix, right, *_: len(matrix) ** 2 * right.shape[-1],
}
"""By the operation's name, from its arguments."""
