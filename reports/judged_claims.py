"""The claims that a session has judged so far, keyed by the models and the claim, never by a test's name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from reports.false_verdicts import with_holm
from reports.verdict_words import Claim, catalogue_order, is_settled


def claim_of(report: pytest.TestReport) -> Claim | None:
    """The evidence that a test recorded, or None."""
    return next((value for name, value in getattr(report, "user_properties", ()) if name == "claim"), None)


def models_of(report: pytest.TestReport) -> tuple[str, ...]:
    """The models that a claim's test is about: known before it ran, so an error in its set-up belongs to them too."""
    for name, value in getattr(report, "user_properties", ()):
        if name == "claims_models":
            return tuple(value)
    claim = claim_of(report)
    return tuple(claim["models"]) if claim is not None else ()


@dataclass
class JudgedClaims:
    """Evidence by models and claim, and the errors of claims that left none."""

    claims: dict[tuple[tuple[str, ...], str], Claim] = field(default_factory=dict)
    failed_without_evidence: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Node id to models: claims whose measurement or judgement broke down."""
    models: list[str] = field(default_factory=list)
    """In the order in which they first reported."""

    def add(self, report: pytest.TestReport) -> None:
        """Take what a report carries; the same claim in a later phase of its test replaces itself."""
        models, claim = models_of(report), claim_of(report)
        for name in models:
            if name not in self.models:
                self.models.append(name)
        if claim is not None:
            self.claims[models, claim["key"]] = claim
        elif models and report.failed:
            self.failed_without_evidence[report.nodeid] = models

    def of(self, model: str) -> list[Claim]:
        """The model's claims, replication's included, in the catalogue's order and marked with Holm's correction."""
        mine = [(claim, models) for (models, _), claim in self.claims.items() if model in models]
        return with_holm([claim for claim, _ in sorted(mine, key=lambda item: (catalogue_order(item[0]), item[1]))])

    def all(self) -> list[Claim]:
        """Every claim once, sorted by models and key."""
        return [claim for _, claim in sorted(self.claims.items())]

    def unsettled(self) -> list[Claim]:
        """The claims whose verdict makes the exit status 1."""
        return [claim for claim in self.all() if not is_settled(claim)]

    def broke_down(self, model: str) -> int:
        """How many claims on the model ended in an error instead of a verdict."""
        return sum(model in models for models in self.failed_without_evidence.values())

    def in_order(self, asked_for: Iterable[str]) -> list[str]:
        """The models that reported, in the order they were asked for."""
        order = {name: place for place, name in enumerate(asked_for)}
        return sorted(self.models, key=lambda name: (order.get(name, len(order)), self.models.index(name)))
