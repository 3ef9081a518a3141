"""What tests of claims share: the registered claims by name, their estimates and verdicts, and a model with damage."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from awq_core.judging.evidence import Verdict
from awq_core.measured import Measured
from claims.support.catalogue import the_suites_own
from claims.support.claim import REGISTRY, Setting
from claims.support.judge import judge
from tests.hand_made import STRATEGIES, WINDOWS, hand_made, set_channel, set_losses

CATALOGUE = the_suites_own()
OF_RECORDS = {
    "mechanism.equivalence",
    "mechanism.no-overhead",
    "mechanism.traffic-arithmetic",
    "bits.four-times-smaller",
    "gptq.slower",
}
"""Claims about the model for which nothing is sampled."""
OF_QUALITY = {"bits.awq-degrades", "bits.near-lossless", "bits.two-percent", "gptq.two-percent"}
"""Claims about what is left of a model's quality, whatever there is to recover."""
OF_LOSSES = {claim.id for claim in CATALOGUE.values() if claim.level == "model"} - OF_RECORDS
"""Claims about window losses: all but `bits.cliff`, which needs blocks too, resample windows alone."""
DAGGERED = [(name, CATALOGUE[name].bits[-1]) for name in sorted(OF_LOSSES - OF_QUALITY)]
"""Claims about recovering damage, each with a precision."""

OUTLIER = ("o", "down")
REST = ("q", "k", "v", "gate", "up")


def estimate(claim: str, subject: Any, bits: int | None = None) -> Any:
    """A claim's estimate, or its parts."""
    return REGISTRY[claim].estimate(subject, Setting(bits, seed=1))


def verdict(claim: str, subject: Any, bits: int | None = None) -> Verdict:
    """A claim's verdict."""
    return judge(REGISTRY[claim], subject, Setting(bits, seed=1)).verdict


def t_interval(values: np.ndarray | list[float]) -> tuple[float, float]:
    """Student's t interval of a mean of independent values."""
    lower, upper = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return float(lower), float(upper)


def set_channel_everywhere(measured: Measured, role: str, channels: dict[int, float]) -> None:
    """Set channels of the sites with a role, in every block."""
    for block in np.unique(measured.channels["site_block"].values):
        for channel, value in channels.items():
            set_channel(measured, "magnitude", int(block), role, channel, value)


def damaged(rtn_gap: float = 0.2, spread: float = 0.0, blocks: int = 4) -> Measured:
    """Windows of different difficulty; RTN costs the same in each, give or take `spread`, and all others half of it."""
    measured = hand_made(blocks)
    full = np.linspace(1.5, 2.5, WINDOWS)
    noise = spread * np.tile([1.0, -1.0], WINDOWS // 2)
    set_losses(measured, "full", full)
    for bits in (3, 4):
        set_losses(measured, f"rtn-{bits}", full + rtn_gap + noise)
        for method in STRATEGIES:
            if method not in ("full", "rtn"):
                set_losses(measured, f"{method}-{bits}", full + rtn_gap / 2)
    return measured
