"""Two sizes of one family."""

from __future__ import annotations

from collections.abc import Sequence

from awq_core.measured import Measured

Pair = tuple[Measured, Measured]
"""The smaller and the larger of two sizes."""


def by_size(models: Sequence[Measured]) -> Pair:
    """The two models, smaller first.

    Raises:
        ValueError: unless there are two.
    """
    if len(models) != 2:
        raise ValueError(f"a pair is two models, got {len(models)}")
    smaller, larger = sorted(models, key=lambda m: (m.parameters, m.name))
    return smaller, larger
