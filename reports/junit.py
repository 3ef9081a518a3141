"""A claim's evidence as plain-text properties, so that `pytest --junitxml` is of use to other tools.

The whole evidence travels on test reports as one dictionary, which the XML shows as one unreadable text. Beside it
every claim's test case carries these properties, all of them for every claim, empty where there is nothing to say.
"""

from __future__ import annotations

from typing import Any

import pytest

from reports.judged_claims import claim_of
from reports.verdict_words import Claim

NAMES = ("id", "bits", "version", "models", "verdict", "estimate", "lower", "upper", "threshold", "unit")


def plain_properties(claim: Claim) -> dict[str, str]:
    """The evidence in words and full-precision numbers: `lower` and `upper` are the 95% interval's ends."""
    interval, threshold = claim.get("interval") or {}, claim.get("threshold") or {}
    values: dict[str, Any] = {**claim, **{end: interval.get(end) for end in ("lower", "upper")}}
    values |= {"models": ", ".join(claim["models"]), "threshold": threshold.get("text")}
    return {name: "" if values[name] is None else str(values[name]) for name in NAMES}


def add_plain_properties(report: pytest.TestReport) -> None:
    """Add the properties to a report that carries a claim."""
    claim = claim_of(report)
    if claim is not None:
        report.user_properties = [*plain_properties(claim).items(), *report.user_properties]
