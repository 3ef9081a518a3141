"""Checkpoints: stored results of measured blocks, from which an interrupted run resumes.

Instruments ask for a block's results before they measure it, and hand over its results afterwards. This module stores
results in memory or not at all; `fixtures/cache/checkpoints.py` stores them on disk.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

Arrays = dict[str, np.ndarray]
"""Results of one block: plain arrays of numbers or text by name, no objects."""


class Checkpoints(Protocol):
    """Checkpoints by block index."""

    def read(self, index: int) -> Arrays | None:
        """Return the arrays that were written for a block, bit for bit; None if there are none or they are damaged."""
        ...

    def write(self, index: int, arrays: Arrays) -> None:
        """Store a block's results."""
        ...


class NoCheckpoints:
    """Checkpoints that store nothing, so that every block is measured."""

    def read(self, index: int) -> Arrays | None:
        """Return None."""
        return None

    def write(self, index: int, arrays: Arrays) -> None:
        """Discard the results."""


NO_CHECKPOINTS = NoCheckpoints()


class CheckpointsInMemory:
    """Checkpoints in memory."""

    def __init__(self) -> None:
        self._results: dict[int, Arrays] = {}

    def read(self, index: int) -> Arrays | None:
        """Return the arrays that were written for a block, or None."""
        return self._results.get(index)

    def write(self, index: int, arrays: Arrays) -> None:
        """Store a block's results."""
        self._results[index] = arrays
