"""Judging, as pytest sees it: a verdict becomes an outcome."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from awq_core.evidence import Evidence, Verdict
from awq_core.measured import Measured
from claims.claim import Claim, Setting
from claims.deviations_file import read_deviations
from claims.judging import judge as judge_claim
from claims.outcome import ChangedVerdictWarning, failure_message
from claims.pairs import Pair


@pytest.fixture
def judge(
    request: pytest.FixtureRequest, record_property: Callable[[str, Any], None]
) -> Callable[[Claim, Measured | Pair, Setting], None]:
    """Judge a claim, record its evidence, and end the test as its verdict says."""
    strict = request.config.getoption("--strict-claims")

    def run(claim: Claim, subject: Measured | Pair, setting: Setting) -> None:
        __tracebackhide__ = True
        evidence = judge_claim(claim, subject, setting)
        # A claim about two sizes is registered with the larger one.
        owner = subject if isinstance(subject, Measured) else subject[-1]
        evidence.registered = read_deviations(owner.name).registration(evidence, owner.provenance)
        record_property("claim", evidence.as_dict())
        _conclude(evidence, strict)

    return run


def _conclude(evidence: Evidence, strict: bool) -> None:
    __tracebackhide__ = True
    verdict, registered = evidence.verdict, evidence.registered
    if verdict is Verdict.REPORTED:
        return
    if registered is not None and not registered["matches"]:
        change = (
            f"{evidence.key} on {' and '.join(evidence.models)}: registered as {registered['verdict']} "
            f"(version {registered['version']}), now {verdict} (version {evidence.version})"
        )
        if registered["conditions_met"]:
            pytest.fail(f"{change}\n{failure_message(evidence)}", pytrace=False)
        warnings.warn(ChangedVerdictWarning(f"{change}; measured under other conditions"), stacklevel=1)
        return
    if verdict in (Verdict.INSUFFICIENT, Verdict.NOT_APPLICABLE):
        pytest.skip(f"{verdict}: {evidence.reason}")
    if verdict is Verdict.REFUTED:
        if registered is not None:
            pytest.xfail(f"registered: {registered['reason']}")
        pytest.fail(failure_message(evidence), pytrace=False)
    if verdict is Verdict.INCONCLUSIVE and strict:
        pytest.fail(failure_message(evidence), pytrace=False)
