"""Evidence: a claim's estimate with its interval, the verdict on it, and all that a reader needs to check both."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import Enum, StrEnum
from typing import Any

WITH_CLIPPING = "with clipping"
"""The variant of a claim about block-level AWQ that searches clip limits as well, as llm-awq does."""


class Verdict(StrEnum):
    """The outcome of judging one claim on one model (design: "Verdicts")."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    INSUFFICIENT = "insufficient data"
    NOT_APPLICABLE = "not applicable"
    REPORTED = "reported"
    """A quantity that the catalogue reports beside the claims and does not judge."""


class Scale(StrEnum):
    """The scale on which an interval is symmetric about its estimate."""

    LINEAR = "linear"
    LOGARITHM = "logarithm"


class Ranking(StrEnum):
    """The order in which evidence names linears."""

    AGAINST = "what speaks most against it"
    HELPED_LEAST = "those that AWQ helps least"


@dataclass(frozen=True)
class Interval:
    """A 95% interval, how it was made, and the uncertainty that it stands for.

    Where the windows are scored in several looks (`awq_core/measure/methods/looks.py`), each look's interval is at a
    higher level, so that all of them together hold the truth in 95% of cases.
    """

    lower: float
    upper: float
    method: str
    resampled: str
    """Resampled units: blocks, windows, or groups of windows; of an exact value, the units that were counted."""
    n: int
    """How many of them there were."""
    seed: int | None = None
    """The seed of the resampling; None where nothing was drawn."""
    looks: int = 1
    """How many looks were registered, of which this interval is one's."""
    level: float = 0.95
    """The level of this interval alone: `1 - 0.05 / looks`."""
    look: int = 1
    """Which of the looks it is, from 1."""
    standard_error: float = field(kw_only=True)
    """The estimate's standard error, on `scale`."""
    degrees_of_freedom: float = field(kw_only=True)
    """The degrees of freedom of Student's t; 0 for an exact value, which has no variance to be estimated."""
    scale: Scale = field(default=Scale.LINEAR, kw_only=True)
    exact: bool = field(default=False, kw_only=True)
    """Whether the value was computed and nothing was sampled."""

    @property
    def in_words(self) -> str:
        """What it is called: `95% interval`; of several looks, `98.33% interval (95% over 3 looks)`."""
        return interval_in_words(self.level, self.looks)

    def __post_init__(self) -> None:
        if math.isnan(self.lower) or math.isnan(self.upper):
            raise ValueError("an interval's ends must be numbers: a NaN is an error, never a verdict")
        if self.lower > self.upper:
            raise ValueError(f"an interval's lower end must not exceed its upper, got [{self.lower}, {self.upper}]")

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Interval:
        """The inverse of `dataclasses.asdict`, on plain values."""
        return cls(**{**plain, "scale": Scale(plain["scale"])})


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
    """A linear, or another thing that an estimate summarises, with its value."""

    name: str
    value: float


@dataclass(frozen=True)
class Judgement:
    """A further estimate held against a claim's threshold: a part of the claim, or a variant of it."""

    verdict: Verdict
    """Reported where the estimate has not been judged."""
    estimate: float | None = None
    interval: Interval | None = None
    reason: str = ""
    """Why there is no verdict, or what an inconclusive one would need."""

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Judgement:
        """The inverse of `dataclasses.asdict`, on plain values."""
        interval = plain["interval"] and Interval.from_dict(plain["interval"])
        return cls(Verdict(plain["verdict"]), plain["estimate"], interval, plain["reason"])


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
    p_value: float | None = None
    """The chance of an estimate this far from the threshold were the truth on it; corrected for looks and parts."""
    linear: str | None = None
    """The one linear that the estimate is of, chosen on calibration tokens; None for claims about many."""
    parts: dict[str, Judgement] = field(default_factory=dict)
    """The parts of a claim that has several, by name."""
    deciding_part: str | None = None
    """The part whose estimate and interval stand for the claim."""
    variants: dict[str, Judgement] = field(default_factory=dict)
    """Judgements of the question asked otherwise, by name, against the same threshold; none decides the claim."""
    twin_estimate: float | None = None
    """The same estimate on the model's untrained twin (mean over its seeds); None where there is no twin to ask."""
    contrary: list[Contrary] = field(default_factory=list)
    """Five linears, or other things that the estimate summarises, worst first in the order of `ranking`."""
    ranking: Ranking = Ranking.AGAINST
    registered: dict[str, Any] | None = None
    """The entry of the deviations file that names this claim, and whether its conditions are met."""
    survives_holm: bool | None = None
    """Whether the verdict stands after Holm's correction over all claims that an interval judges on the model; None for
    an exact value, and where there is no verdict."""
    readings: dict[str, float | str] = field(default_factory=dict)
    """Further readings of the same measurement by name: shown, and never interpreted."""

    @property
    def key(self) -> str:
        """The claim's id, with the precision where it has one: `payoff.layers@4`."""
        return self.id if self.bits is None else f"{self.id}@{self.bits}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        plain: dict[str, Any] = asdict(self, dict_factory=_plain)
        plain["key"] = self.key
        if self.threshold is not None:
            plain["threshold"]["text"] = str(self.threshold)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Evidence:
        """The inverse of `as_dict`."""
        fields = {key: value for key, value in plain.items() if key != "key"}
        fields["verdict"] = Verdict(fields["verdict"])
        fields["ranking"] = Ranking(fields["ranking"])
        if fields["interval"] is not None:
            fields["interval"] = Interval.from_dict(fields["interval"])
        if fields["threshold"] is not None:
            fields["threshold"] = Threshold(fields["threshold"]["lower"], fields["threshold"]["upper"])
        for name in ("parts", "variants"):
            fields[name] = {key: Judgement.from_dict(item) for key, item in fields[name].items()}
        fields["contrary"] = [Contrary(**item) for item in fields["contrary"]]
        return cls(**fields)


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dataclass's fields with the values of enumerations in place of their members."""
    return {name: value.value if isinstance(value, Enum) else value for name, value in items}
