"""Judging, as pytest sees it: a verdict becomes an outcome."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from awq_core.judging.evidence import Evidence, Verdict
from awq_core.measured import Measured
from claims.support.catalogue import whole_catalogue
from claims.support.claim import Claim, Pair, Setting
from claims.support.deviations import DeviationsError, read_deviations
from claims.support.judge import judge as judge_claim
from claims.support.judge import not_measured
from claims.support.outcome import ChangedVerdictWarning, failure_message
from claims.support.published import PublishedError, published_for, read_published
from claims.support.undecided import claims_about_models, still_wanted
from fixtures.measuring.stages import Stage
from fixtures.plugin import NO_PAIR, SESSION


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each precision that a claim is judged at."""
    marker = metafunc.definition.get_closest_marker("claim")
    if marker is not None:
        options = metafunc.config.stash[SESSION].options
        settings = [Setting(bits, options.deployed.name, options.seed) for bits in marker.args[0].bits or (None,)]
        metafunc.parametrize("setting", settings, ids=[f"{s.bits}-bit" if s.bits else "any-bits" for s in settings])


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Read what is registered before anything is measured: an entry that matches no claim is an error.

    And say what the selected claims want, for models whose losses are scored look by look.
    """
    try:
        read_published()
        for name in session.config.stash[SESSION].names:
            read_deviations(name)
    except (DeviationsError, PublishedError) as problem:
        raise pytest.UsageError(str(problem)) from None
    selected = [item for item in session.items if item.get_closest_marker("claim") and NO_PAIR not in item.name]
    asked = claims_about_models(
        (item.get_closest_marker("claim").args[0], item.callspec.params["setting"])  # type: ignore[attr-defined, union-attr]
        for item in selected
    )
    session.config.stash[SESSION].wanted = partial(still_wanted, asked)


@pytest.hookimpl
def pytest_claims_header(config: pytest.Config, name: str, provenance: dict[str, Any]) -> list[str]:
    """A line where a run is not like the one whose verdicts are registered."""
    # A control's tokens are drawn when it is measured, after the header.
    unmet = [key for key in read_deviations(name).unmet(provenance) if key in provenance]
    if not unmet:
        return []
    return [f"  {', '.join(unmet)} differ from the registered run: a changed verdict warns and does not fail"]


@pytest.hookimpl
def pytest_claims_stages(nodeid: str) -> frozenset[Stage] | None:
    """What the claim behind a node id reads, for a process that has collected none."""
    path, _, test = nodeid.partition("::")
    wanted = Path(path).name, test.split("[")[0]
    for claim in whole_catalogue().values():
        if (Path(inspect.getfile(claim.estimate)).name, claim.estimate.__name__) == wanted:
            return claim.stages
    return None


@pytest.hookimpl
def pytest_claims_published(measured: Measured) -> list[dict[str, Any]]:
    """Published numbers of the model under test, for the reports."""
    return [value.as_dict() for value in published_for(measured)]


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
        alone = claim.level == "pair" and len(evidence.models) < 2
        models = [subject] if isinstance(subject, Measured) else list(subject)
        left_out = bool(not_measured(claim, [measured.for_claim(claim.id) for measured in models]))
        if evidence.verdict is not Verdict.REPORTED and not alone and not left_out:
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
        if registered["conditions_met"] or (strict and verdict is Verdict.INCONCLUSIVE):
            pytest.fail(f"{change}\n{failure_message(evidence)}", pytrace=False)
        warnings.warn(ChangedVerdictWarning(f"{change}; measured under other conditions"), stacklevel=1)
        return
    if verdict in (Verdict.INSUFFICIENT, Verdict.NOT_APPLICABLE):
        pytest.skip(f"{verdict}: {evidence.reason}")
    if verdict is Verdict.REFUTED:
        if registered is not None:
            _expect_failure(f"registered: {registered['reason']}")
        pytest.fail(failure_message(evidence), pytrace=False)
    if verdict is Verdict.INCONCLUSIVE and strict:
        pytest.fail(failure_message(evidence), pytrace=False)


def _expect_failure(reason: str) -> None:
    """`pytest.xfail` without the traceback: the reason says it all, and the arguments are whole measurements.

    Returns under `--runxfail`, where the claim fails as if it were not registered.
    """
    __tracebackhide__ = True
    try:
        pytest.xfail(reason)
    except pytest.xfail.Exception as expected:
        expected.pytrace = False
        raise
