"""The benchmark's counts of operations: against sums by hand, and of a model's blocks against torch's own counter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from awq_core.quantization.gptq import gptq_codes, gptq_operations
from awq_core.quantization.matmul import product_with_rows
from benchmarks.operations import CountedProducts
from tests.structured_model import structured_model, tokens


def counted(action: Callable[[], Any]) -> Counter[torch.dtype]:
    found: Counter[torch.dtype] = Counter()

    def add(dtype: torch.dtype, operations: int) -> None:
        found[dtype] += operations

    with torch.no_grad(), CountedProducts(add):
        action()
    return found


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("action", "operations"),
    [
        (lambda: ones(3, 5) @ ones(5, 7), 2 * 3 * 5 * 7),
        (lambda: ones(2, 3, 5) @ ones(2, 5, 7), 2 * 2 * 3 * 5 * 7),
        (lambda: ones(2, 3, 5) @ ones(5, 7), 2 * 6 * 5 * 7),
        (lambda: ones(3, 5) @ ones(5), 2 * 3 * 5),
        (lambda: product_with_rows(ones(2, 3, 5), ones(7, 5), ones(7)), 2 * 6 * 5 * 7),
        (lambda: functional.linear(ones(2, 3, 5), ones(7, 5), ones(7)), 2 * 6 * 5 * 7),
        (lambda: ones(3, 7).addmm_(ones(3, 5), ones(5, 7)), 2 * 3 * 5 * 7),
        (lambda: ones(2, 3, 7).baddbmm_(ones(2, 3, 5), ones(2, 5, 7)), 2 * 2 * 3 * 5 * 7),
        # Two heads of five places and three channels: scores and weighted values.
        (lambda: functional.scaled_dot_product_attention(*[ones(1, 2, 5, 3)] * 3), 2 * 2 * (2 * 5 * 3 * 5)),
        (lambda: torch.linalg.cholesky_ex(torch.eye(6)), 6**3 // 3),
        (lambda: torch.linalg.solve_triangular(torch.eye(6), torch.eye(6), upper=False), 6**3),
        (lambda: ones(3, 5) * 2, 0),
    ],
    ids=["mm", "bmm", "rows", "mv", "onednn", "linear", "addmm", "baddbmm", "attention", "cholesky", "solve", "none"],
)
def test_a_product_has_the_operations_of_its_sizes(action: Callable[[], Any], operations: int) -> None:
    assert counted(action) == (Counter({torch.float32: operations}) if operations else Counter())


def test_operations_are_told_apart_by_dtype() -> None:
    def both() -> None:
        ones(3, 5) @ ones(5, 7)
        ones(3, 5, dtype=torch.bfloat16) @ ones(5, 2, dtype=torch.bfloat16)

    assert counted(both) == Counter({torch.float32: 210, torch.bfloat16: 60})


def test_torch_counts_the_same_for_a_model() -> None:
    """Attention as two products, or torch's counter would count none of it."""
    model, ids = structured_model(), torch.from_numpy(tokens(2))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):
        model(input_ids=ids)
    assert counted(lambda: model(input_ids=ids)).total() == counter.get_total_flops()


def test_gptq_makes_the_products_that_it_is_counted_for() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, inputs = (torch.randn(shape, generator=generator) for shape in ((192, 512), (2048, 512)))
    found = counted(lambda: gptq_codes(weight, inputs.T @ inputs, 4, 128)).total() - 2 * 2048 * 512**2
    assert found == pytest.approx(gptq_operations(192, 512), rel=0.35)
