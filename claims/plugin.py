"""The pytest plugin of the claims, wherever their files are: what they need, and how a verdict becomes an outcome."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from awq_core.judging.evidence import Evidence, Verdict
from awq_core.measured import Measured
from claims.support.catalogue import ClashError, every_key
from claims.support.claim import Claim, Pair, Setting
from claims.support.deviations import Deviations, DeviationsError, read_deviations
from claims.support.judge import is_about_the_model
from claims.support.judge import judge as judge_claim
from claims.support.outcome import ChangedVerdictWarning, failure_message
from claims.support.published import PublishedError, published_for, read_published
from claims.support.undecided import claims_about_models, still_wanted
from fixtures.plugin import NO_PAIR, SESSION
from fixtures.session import Requirements

OWN_TESTS = ("tests", "claims/quantizer_math")
"""Folders of the suite's tests that are no claims: these may run in several processes."""

DEVIATIONS = pytest.StashKey[dict[str, tuple[Deviations, Deviations]]]()
"""By model: what the suite has registered, and what the folder given with `--claims-deviations` has."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the option that claims from elsewhere need."""
    parser.getgroup("awq claims").addoption(
        "--claims-deviations",
        type=lambda given: Path(os.path.expanduser(given)),
        default=None,
        metavar="DIR",
        help="folder of registered verdicts, MODEL.toml each, read beside the suite's own",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what cannot work, before anything is collected.

    Raises:
        UsageError: for a folder of deviations that is not there, and for claims under pytest-xdist.
    """
    folder = config.getoption("--claims-deviations")
    if folder is not None and not folder.is_dir():
        raise pytest.UsageError(f"--claims-deviations names no folder: {str(folder)!r}; correct it or make the folder")
    if config.getoption("dist", "no") == "no":
        return
    project = Path(__file__).resolve().parents[1]
    for argument in config.args:
        path = (config.invocation_params.dir / argument.partition("::")[0]).resolve()
        if not any(path.is_relative_to(project / own) for own in OWN_TESTS):
            raise pytest.UsageError(
                f"-n: {argument} may hold claims, which share their measurements in one process; run claims without -n"
            )


@pytest.hookimpl(tryfirst=True)  # the precision comes before the model in a test's name
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each precision that a claim is judged at."""
    marker = metafunc.definition.get_closest_marker("claim")
    if marker is not None:
        options = metafunc.config.stash[SESSION].options
        settings = [Setting(bits, options.deployed.name, options.seed) for bits in marker.args[0].bits or (None,)]
        metafunc.parametrize("setting", settings, ids=[f"{s.bits}-bit" if s.bits else "any-bits" for s in settings])


@pytest.hookimpl
def pytest_claims_requirements(config: pytest.Config, items: list[pytest.Item]) -> Requirements:
    """The stages that the selected claims read, and which strategies they still need, given what was measured.

    Raises:
        UsageError: if two claims share an id, an entry of registered verdicts matches no claim, or a file of registered
            verdicts or of published numbers cannot be used.
    """
    folder = config.getoption("--claims-deviations")
    try:
        read_published()
        known = every_key()
        config.stash[DEVIATIONS] = {
            name: (
                read_deviations(name, known=known),
                # Entries for claims of files that this run leaves out are no mistake there.
                Deviations({}, {}) if folder is None else read_deviations(name, folder),
            )
            for name in config.stash[SESSION].names
        }
    except (ClashError, DeviationsError, PublishedError) as problem:
        raise pytest.UsageError(str(problem)) from None
    asked = [
        (item.get_closest_marker("claim").args[0], item.callspec.params["setting"])  # type: ignore[attr-defined, union-attr]
        for item in items
        if NO_PAIR not in item.name
    ]
    stages = frozenset(stage for claim, _ in asked for stage in claim.stages)
    return Requirements(stages, partial(still_wanted, claims_about_models(asked)))


@pytest.hookimpl
def pytest_claims_header(config: pytest.Config, name: str, provenance: dict[str, Any]) -> list[str]:
    """Lines where a run is not like the one whose verdicts are registered, or lacks claims that are."""
    lines, (suite, other) = [], config.stash[DEVIATIONS][name]
    # A control's tokens are drawn when it is measured, after the header.
    found = (key for file in (suite, other) for key in file.unmet(provenance) if key in provenance)
    if unmet := list(dict.fromkeys(found)):
        lines.append(f"  {', '.join(unmet)} differ from the registered run: a changed verdict warns and does not fail")
    if absent := sorted(other.entries.keys() - every_key()):
        lines.append(f"  --claims-deviations registers claims that this run has not collected: {', '.join(absent)}")
    return lines


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
    registered = request.config.stash[DEVIATIONS]

    def run(claim: Claim, subject: Measured | Pair, setting: Setting) -> None:
        __tracebackhide__ = True
        evidence = judge_claim(claim, subject, setting)
        # A claim about two sizes is registered with the larger one.
        owner = subject if isinstance(subject, Measured) else subject[-1]
        if evidence.verdict is not Verdict.REPORTED and is_about_the_model(evidence):
            suite, other = registered[owner.name]
            file = suite if claim.of_the_suite and evidence.key not in other.entries else other
            evidence.registered = file.registration(evidence, owner.provenance)
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
