"""Which seconds are counted."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["wall", "processor"]


@dataclass(frozen=True)
class Clock:
    """Seconds on the wall, or seconds that this process's threads computed.

    The second are what a machine that others use can still measure: time in which another process computed is not in
    them. With several threads they are summed over threads, and a thread that waits in a loop counts as computing.

    Attributes:
        kind: which.
        device: work on it is waited for before the clock is read.
    """

    kind: Kind
    device: torch.device

    def now(self) -> float:
        """Seconds since some moment."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() if self.kind == "wall" else time.process_time()
