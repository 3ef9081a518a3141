"""Clock of the benchmarks: wall-clock or processor time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["wall", "processor"]


@dataclass(frozen=True)
class Clock:
    """Wall-clock time, or processor time of this process's threads.

    Processor time can be measured on a busy machine, because it excludes the time of other processes. With several
    threads it is their sum, and a thread that waits in a loop counts as computing.

    Attributes:
        kind: `wall` or `processor`.
        device: device whose work is awaited before the clock is read.
    """

    kind: Kind
    device: torch.device

    def now(self) -> float:
        """Time in seconds since an arbitrary moment."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() if self.kind == "wall" else time.process_time()
