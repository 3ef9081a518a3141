"""What judging a claim yields: an estimate with its interval, a verdict, and all that a reader needs to check both."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """The outcome of judging one claim on one model (design: "Verdicts")."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    INSUFFICIENT = "insufficient data"
    NOT_APPLICABLE = "not applicable"
    REPORTED = "reported"
    """A quantity that the catalogue reports beside the claims and does not judge."""


@dataclass(frozen=True)
class Interval:
    """A 95% interval and how it was made.

    Where the windows are scored in several looks (`awq_core/measure/methods/looks.py`), each look's interval is at a
    higher level, so that all of them together hold the truth in 95% of cases.
    """

    lower: float
    upper: float
    method: str
    resampled: str
    """What was resampled: blocks, windows, or groups of windows."""
    n: int
    """How many of them there were."""
    seed: int | None = None
    looks: int = 1
    """How many looks were registered, of which this interval is one's."""
    level: float = 0.95
    """Of this interval alone: `1 - 0.05 / looks`."""

    @property
    def in_words(self) -> str:
        """What it is called: `95% interval`; of several looks, `98.33% interval (95% over 3 looks)`."""
        return interval_in_words(self.level, self.looks)

    def __post_init__(self) -> None:
        if math.isnan(self.lower) or math.isnan(self.upper):
            raise ValueError("an interval's ends must be numbers: a NaN is an error, never a verdict")
        if self.lower > self.upper:
            raise ValueError(f"an interval's lower end must not exceed its upper, got [{self.lower}, {self.upper}]")


def interval_in_words(level: float = 0.95, looks: int = 1) -> str:
    """What an interval is called: its own level, and what all looks together keep."""
    return "95% interval" if looks == 1 else f"{100 * level:.4g}% interval (95% over {looks} looks)"


@dataclass(frozen=True)
class Threshold:
    """The registered side of a claim: above `lower`, below `upper`, or between the two."""

    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        if self.lower is None and self.upper is None:
            raise ValueError("a threshold needs a lower or an upper value")

    def __str__(self) -> str:
        if self.upper is None:
            return f"above {self.lower:g}"
        if self.lower is None:
            return f"below {self.upper:g}"
        return f"between {self.lower:g} and {self.upper:g}"

    @property
    def nearest(self) -> float:
        """The value to mark on a number line; the lower one where there are two."""
        return self.lower if self.lower is not None else self.upper  # type: ignore[return-value]


@dataclass(frozen=True)
class Contrary:
    """A linear, or another part, that speaks most against a claim."""

    name: str
    value: float


@dataclass
class Evidence:
    """One claim judged on one model. Written to `evidence.json` as it stands."""

    id: str
    bits: int | None
    """The precision it was judged at, for claims with one verdict for each; else None."""
    version: int
    group: str
    words: str
    source: str
    kind: str
    """structural (about trained networks) or mechanical (true of any network)."""
    models: list[str]
    """The model, or for replication the two sizes."""
    verdict: Verdict
    reason: str = ""
    """Why there is no verdict, or what an inconclusive one would need."""
    estimate: float | None = None
    interval: Interval | None = None
    threshold: Threshold | None = None
    unit: str = ""
    twin_estimate: float | None = None
    """The same estimate on the model's untrained twin (mean over its seeds); None where there is no twin to ask."""
    contrary: list[Contrary] = field(default_factory=list)
    """The five parts that speak most against the claim, worst first."""
    registered: dict[str, Any] | None = None
    """The entry of the deviations file that names this claim, and whether its conditions are met."""
    survives_holm: bool | None = None
    """Whether the verdict stands after Holm's correction over all claims that an interval judges on the model; None for
    an exact value, and where there is no verdict."""
    details: dict[str, Any] = field(default_factory=dict)
    """Other readings of the same measurement, plain values by name."""

    @property
    def key(self) -> str:
        """The claim's id, with the precision where it has one: `payoff.layers@4`."""
        return self.id if self.bits is None else f"{self.id}@{self.bits}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        plain = asdict(self)
        plain["verdict"] = self.verdict.value
        plain["key"] = self.key
        if self.threshold is not None:
            plain["threshold"]["text"] = str(self.threshold)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Evidence:
        """The inverse of `as_dict`."""
        fields = {key: value for key, value in plain.items() if key != "key"}
        fields["verdict"] = Verdict(fields["verdict"])
        if fields.get("interval") is not None:
            fields["interval"] = Interval(**fields["interval"])
        if fields.get("threshold") is not None:
            fields["threshold"] = Threshold(fields["threshold"]["lower"], fields["threshold"]["upper"])
        fields["contrary"] = [Contrary(**item) for item in fields.get("contrary", [])]
        return cls(**fields)
