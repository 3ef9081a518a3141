"""Two sizes of one family."""

from __future__ import annotations

from awq_core.measured import Measured

Pair = tuple[Measured, Measured]
"""The smaller and the larger of two sizes."""
