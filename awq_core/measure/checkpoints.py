"""What was measured of each block, kept outside the process: a run that is stopped goes on where it was.

Instruments ask for a block's results before they measure it and hand them over afterwards. Where they are kept is not
their business (`fixtures/cache/store.py` has it on disk); by default they are kept in memory, or not at all.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

Arrays = dict[str, np.ndarray]
"""One block's results: plain arrays of numbers or text by name, no objects."""


class KeptBlocks(Protocol):
    """Results by the index of the block."""

    def read(self, index: int) -> Arrays | None:
        """What `write` was given for this index, to the last bit; None where nothing (or nothing whole) is kept."""
        ...

    def write(self, index: int, arrays: Arrays) -> None:
        """Keep results."""
        ...


class NothingKept:
    """Forgets everything: every block is measured."""

    def read(self, index: int) -> Arrays | None:
        """Nothing."""
        return None

    def write(self, index: int, arrays: Arrays) -> None:
        """Nothing."""


NOTHING_KEPT = NothingKept()


class KeptInMemory:
    """Remembers everything as long as it lives."""

    def __init__(self) -> None:
        self._results: dict[int, Arrays] = {}

    def read(self, index: int) -> Arrays | None:
        """Return what was written of a block, or None."""
        return self._results.get(index)

    def write(self, index: int, arrays: Arrays) -> None:
        """Remember results."""
        self._results[index] = arrays
