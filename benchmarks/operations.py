"""Count of the operations of matrix products in a running program: a multiplication and an addition per term.

Rounding, powers of activations, softmax and norms are not counted; the time that they cost shows as a low share of the
product rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Add = Callable[[torch.dtype, int], None]
"""Function called with the dtype and the number of operations of every product."""


class CountedProducts(TorchDispatchMode):
    """Context in which matrix products are counted.

    Args:
        add: called for every product.
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
    """Operations of `(..., m, k) @ (..., k, n)`."""
    return 2 * left.numel() * right.shape[-1]


def _linear(inputs: Tensor, weight: Tensor, *_: Any) -> int:
    return 2 * inputs.numel() * weight.shape[0]


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    """Operations of scores and weighted values for all pairs of positions, even if a kernel skips masked pairs."""
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
"""Functions from an operation's arguments to its number of operations, by the operation's name."""
