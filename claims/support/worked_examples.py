"""The lesson's worked examples, computed with the suite's own definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from awq_core.measure.layers.importance import importance, salient_channels


@dataclass(frozen=True)
class Example:
    """One worked example.

    Attributes:
        words: what the lesson says.
        expected: its number.
        compute: ours.
    """

    words: str
    expected: float
    compute: Callable[[], float]

    def holds(self) -> bool:
        """Whether our number is the lesson's."""
        return math.isclose(self.compute(), self.expected, rel_tol=1e-9)

    def found(self) -> str:
        """Both numbers."""
        return (
            f"{self.compute():g}, as the lesson says" if self.holds() else f"{self.compute():g}, not {self.expected:g}"
        )


def importance_of(weight: float, activation: float) -> float:
    """The importance of one channel with one weight and one token."""
    return float(importance(np.abs([weight]), np.abs([activation]))[0])


def protected_first(channels: list[tuple[float, float]]) -> int:
    """Which of some channels, counted from 1, is protected first: `(weight, activation)` each."""
    weights, activations = np.abs(np.array(channels)).T
    return int(salient_channels(importance(weights, activations))[0]) + 1


EXAMPLES = (
    Example("a weight of 0.20 under an activation of 20 counts 4.0", 4.0, lambda: importance_of(0.20, 20)),
    Example("a weight of 1.20 under an activation of 0.5 counts 0.6", 0.6, lambda: importance_of(1.20, 0.5)),
    Example(
        "a rounding error of 0.1 under an activation of 20 is an error of 2.0", 2.0, lambda: importance_of(0.1, 20)
    ),
    Example("and under an activation of 0.5 one of 0.05", 0.05, lambda: importance_of(0.1, 0.5)),
    Example(
        "of the channels (0.3, 15), (1.0, 0.8), (-0.2, 12) the first is protected",
        1,
        lambda: protected_first([(0.3, 15), (1.0, 0.8), (-0.2, 12)]),
    ),
)
