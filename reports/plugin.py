"""The pytest plugin of the reports: gathers evidence while claims run, words verdicts, writes what a session leaves.

A claim's test says what it found with `record_property("claim", evidence.as_dict())`, and which models it is about
with the user property `claims_models`. Both travel on test reports.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from awq_core.judging.evidence import Verdict
from awq_core.measured import Measured
from reports import hookspecs
from reports.answer import answer
from reports.evidence_file import read_evidence
from reports.judged_claims import JudgedClaims, claim_of, models_of
from reports.junit import add_plain_properties
from reports.output import write_model
from reports.published import Published, sentence
from reports.terminal import write_summary
from reports.verdict_words import APPEARANCES, is_changed, is_judged, verdict_of, words
from reports.writing import obstacle

DEFAULT_OUTPUT = "reports/out"

NO_VERDICT = "NO VERDICT"
"""The word for every skipped claim: pytest folds skips with one reason into a line, and gives all the first one's word.
The reason itself says whether data or the model lack something."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the questions that `fixtures.plugin` answers."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Gather the evidence of this session."""
    reporter = Reporter(config)
    config.pluginmanager.register(reporter, "claims-reporter")
    if config.getoption("htmlpath", default=None):  # pytest-html's --html
        from reports.html.pytest_html_hooks import PytestHtmlHooks

        config.pluginmanager.register(PytestHtmlHooks(reporter.judged))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Put the evidence into words for JUnit XML, before it is written; other listeners keep the dictionary."""
    add_plain_properties(report)


class Reporter:
    """Gathers a session's evidence and writes it out at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.judged = JudgedClaims()
        self.reports: dict[str, list[pytest.TestReport]] = {}
        self.started = time.time()
        self.complete = True
        self.blamed = False
        self.nothing_judged = False
        """Whether the run was interrupted before a claim that it selected had a verdict."""
        self.measured: list[Measured] = []
        self.published: dict[str, list[Published]] = {}
        self.unwritten = ""
        self.replaced: dict[str, int] = {}
        """By model, how many claims the report held that a report of fewer has replaced."""

    def folder(self, model: str) -> Path:
        """Where the model's files go."""
        output = os.path.expanduser(self.config.getoption("--output", DEFAULT_OUTPUT))
        return self.config.invocation_params.dir / output / model

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """See, before anything is measured, that its reports can be written.

        Raises:
            UsageError: if they cannot.
        """
        if self.config.getoption("--collect-only"):
            return
        markers = (item.get_closest_marker("claims_model") for item in session.items)
        for name in dict.fromkeys(name for marker in markers if marker is not None for name in marker.args):
            if what := obstacle(self.folder(name)):
                given = self.config.getoption("--output", DEFAULT_OUTPUT)
                raise pytest.UsageError(f"--output {given!r}: {what}; give another folder")

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the evidence, and keep the report for each model's HTML file."""
        self.judged.add(report)
        for name in models_of(report):
            self.reports.setdefault(name, []).append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        """Word a claim's verdict on the terminal; every other report keeps pytest's own words."""
        return status(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write everything judged so far, and let an unsettled verdict fail the session."""
        if not self.judged.models:
            interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
            self.nothing_judged = interrupted and any(item.get_closest_marker("claim") for item in session.items)
            return
        ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        self.complete = ended and not session.shouldstop and not session.shouldfail
        self.measured = self.config.hook.pytest_claims_measured(config=self.config) or []
        self.published = {
            measured.name: self.config.hook.pytest_claims_published(measured=measured) or []
            for measured in self.measured
            if measured.name in self.judged.models
        }
        try:
            names = self.models()
            for name in names:
                if (before := claims_in(self.folder(name))) > len(self.judged.of(name)):
                    self.replaced[name] = before
                write_model(
                    self.folder(name),
                    name,
                    self.judged,
                    self.reports[name],
                    self.config,
                    self.measured,
                    session=names,
                    started=self.started,
                    complete=self.complete and not self.judged.broke_down(name),
                    published=self.published.get(name, []),
                )
        except OSError as error:
            self.unwritten = f"the reports could not be written: {error}"
        if session.exitstatus == pytest.ExitCode.OK:
            self.blamed = bool(self.judged.unsettled())
            if self.blamed or self.unwritten:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def models(self) -> list[str]:
        """The models that reported, in the order in which they were asked for."""
        return self.judged.in_order(self.config.hook.pytest_claims_models(config=self.config) or [])

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The answer, the table and the paths."""
        if self.nothing_judged:
            terminalreporter.write_line(
                "Interrupted before the first verdict: no report was written. What is measured is kept: the same "
                "command, without --refresh, goes on from there.",
                yellow=True,
            )
        if not self.judged.models:
            return
        models = self.models()
        measured = {candidate.name: candidate for candidate in self.measured}
        write_summary(
            terminalreporter,
            self.judged,
            models,
            [answer(name, measured.get(name), self.judged.of(name)).sentence for name in models],
            [self.folder(name) for name in models],
            complete=self.complete,
            blamed=self.blamed,
            published=[sentence(name, self.published.get(name, [])) for name in models],
        )
        for name, before in self.replaced.items():
            terminalreporter.write_line(
                f"{name}: the report of {before} claims has been replaced by one of {len(self.judged.of(name))}; "
                "--output DIR keeps both",
                yellow=True,
            )
        if self.unwritten:
            terminalreporter.write_line(self.unwritten, red=True, bold=True)


def claims_in(folder: Path) -> int:
    """How many claims the evidence in a model's folder holds; 0 where there is none to read."""
    try:
        return len(read_evidence(folder / "evidence.json")["claims"])
    except (ValueError, KeyError):
        return 0


def status(report: Any) -> tuple[str, str, str] | None:
    """Category, letter and word for a claim's report; None for anything else.

    The categories are those pytest's own summaries can print: a skip keeps its category only where the report is one.
    """
    claim = claim_of(report)
    if claim is None or report.when != "call":
        return None
    word = words(claim)
    if report.failed:
        return "failed", "F", word
    if report.skipped:
        return ("xfailed", "x", word) if hasattr(report, "wasxfail") else ("skipped", "s", NO_VERDICT)
    verdict = verdict_of(claim)
    if is_changed(claim):  # under other conditions, or it would have failed
        return "changed", "c", word
    if verdict is Verdict.SUPPORTED:
        return "passed", ".", word
    if verdict is Verdict.INCONCLUSIVE:
        return "inconclusive", "?", word
    if is_judged(claim):
        return "registered", "r", word
    return verdict.value, APPEARANCES[verdict].symbol, word
