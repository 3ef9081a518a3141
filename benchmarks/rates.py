"""Rates of matrix products on this machine, at a model's own shapes.

They are the reference of a stage's share of the product rate: large matrix products of the same shapes and dtype alone,
one after another, on the same threads.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

import torch

from awq_core.quantization.matmul import product_with_rows
from benchmarks.clock import Clock

MOST_OPERATIONS = {"cpu": 4e9, "cuda": 4e11}
"""Largest number of operations of one timed product, by type of device; larger products are timed on fewer rows."""
REPEATS = 5
"""Number of timings, of which the median is taken."""


def product_rates(
    linears: Iterable[tuple[int, int]], dtypes: Iterable[torch.dtype], device: torch.device, clock: Clock
) -> dict[torch.dtype, float]:
    """Measure the rate of products `(out, in) @ (in, in)` over linears' shapes, in operations per second by dtype.

    Args:
        linears: shapes `(out, in)`; each distinct shape counts once.
        dtypes: dtypes to measure.
        device: device of the products.
        clock: clock of the durations.
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
    """Measure the median seconds of a step; short steps are repeated to take at least 0.01 s per timing."""
    step()  # warms up
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
