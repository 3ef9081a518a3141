"""What this machine can do: matrix products a second at a model's own shapes.

A stage's share of the product rate compares it with nothing but large matrix products of the same shapes and dtype,
one after another, on the same threads.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

import torch

from awq_core.quantization.matmul import product_with_rows
from benchmarks.clock import Clock

MOST_OPERATIONS = {"cpu": 4e9, "cuda": 4e11}
"""Of one product that is timed, by type of device: rows are left out beyond that."""
REPEATS = 5


def product_rates(
    linears: Iterable[tuple[int, int]], dtypes: Iterable[torch.dtype], device: torch.device, clock: Clock
) -> dict[torch.dtype, float]:
    """Operations a second of `(out, in) @ (in, in)` over a block's linears, by dtype: each product's median of several.

    Args:
        linears: `(out, in)` of each.
        dtypes: to measure.
        device: where.
        clock: which seconds.
    """
    shapes = sorted(set(linears))
    return {dtype: _rate(shapes, dtype, device, clock) for dtype in dtypes}


def _rate(shapes: list[tuple[int, int]], dtype: torch.dtype, device: torch.device, clock: Clock) -> float:
    operations, seconds = 0.0, 0.0
    most = MOST_OPERATIONS.get(device.type, MOST_OPERATIONS["cpu"])
    for out, width in shapes:
        whole = 2 * out * width * width
        rows = max(1, min(out, int(most / (2 * width * width))))
        left = torch.full((rows, width), 0.5, dtype=dtype, device=device)
        right = torch.full((width, width), 0.5, dtype=dtype, device=device)
        median = _median(lambda a=left, b=right: product_with_rows(a, b), clock)  # type: ignore[misc]
        operations += whole
        seconds += median * out / rows
    return operations / seconds


def _median(step: Callable[[], object], clock: Clock) -> float:
    """Median seconds of a step; short steps are repeated to a hundredth of a second first."""
    step()  # the first one pays for setting up
    count = 1
    while True:
        began = clock.now()
        for _ in range(count):
            step()
        if clock.now() - began > 0.01:
            break
        count *= 2
    found = []
    for _ in range(REPEATS):
        began = clock.now()
        for _ in range(count):
            step()
        found.append((clock.now() - began) / count)
    return statistics.median(found)
