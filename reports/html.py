"""`report.html`: one self-contained pytest-html file per model, the answer and the verdicts first."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from pytest_html.report_data import ReportData
from pytest_html.selfcontained_report import SelfContainedReport
from pytest_html.util import _read_template

from awq_core.measured import Measured
from reports import claim_row, sections
from reports.answer import Answer
from reports.figures import Drawing
from reports.gathered import claim_of
from reports.verdict_table import verdict_table
from reports.verdict_words import Claim
from reports.writing import write_whole

STYLE_SHEET = "report.css"


class ModelReport(SelfContainedReport):
    """A pytest-html report on one model's claims, fed by hand with that model's test reports only.

    It is not registered as a plugin: a user's own `--html` report, and the hooks that dress it, stay untouched.
    """

    def __init__(self, path: Path, config: pytest.Config, model: str, *, started: float) -> None:
        """Open the report at `path`; nothing is written before `finish`.

        Args:
            path: the file; its folder is made.
            config: the session's, for pytest-html's own settings.
            model: the model's name.
            started: when the session started, in seconds since the epoch.
        """
        template = _read_template([Path(str(files("pytest_html"))) / "resources"])
        super().__init__(
            path, config, ReportData(config), template, (Path(__file__).parent / STYLE_SHEET).read_text("utf-8")
        )
        self.path = path
        self._suite_start_time = started
        self._keys: dict[str, str] = {}
        self._report.title = f"AWQ claims on {model}"
        self._report.table_header = list(claim_row.HEADINGS)
        self._report.set_data("environment", {})
        # Every row open, in the order of the run, whatever the user's settings for an own report are.
        self._report.set_data("renderCollapsed", ["never"])
        self._report.set_data("initialSort", "original")

    def take(self, report: pytest.TestReport) -> None:
        """Add one phase of one test; rows appear when its teardown arrives."""
        # pytest-html rewrites extras in place, and the same report may belong to two models and to `--html`.
        mine = copy.copy(report)
        mine.extras = copy.deepcopy(getattr(report, "extras", []))  # type: ignore[attr-defined]
        self.pytest_runtest_logreport(mine)

    def finish(
        self,
        *,
        answer: Answer,
        claims: Sequence[Claim],
        drawings: Mapping[str, Drawing],
        measured: Measured | None,
        complete: bool,
        published: str = "",
    ) -> None:
        """Write the file, whole or not at all; `published` is a section of its own, or empty."""
        summary = self._report.additional_summary
        summary["prefix"].append(
            sections.partial(complete)
            + sections.answer_first(answer)
            + verdict_table(claims)
            + published
            + sections.figures(drawings, measured)
            + '<h2 id="claims">Every claim</h2>'
        )
        summary["postfix"].append(sections.provenance(measured))
        # Tests report in any order, the more so under pytest-xdist: the rows follow the table.
        order = {claim["key"]: place for place, claim in enumerate(claims)}
        rows = self._report.data["tests"]
        keys = sorted(rows, key=lambda node: order.get(self._keys.get(node, ""), len(order)))
        self._report.set_data("tests", {node: rows[node] for node in keys})
        self._report.running_state = "finished"
        self._report.total_duration = time.time() - self._suite_start_time
        self._generate_report()

    def _write_report(self, rendered_report: str) -> None:
        write_whole(self.path, rendered_report.encode())

    def _process_report(
        self, report: pytest.TestReport, duration: float, processed_extras: list[dict[str, Any]]
    ) -> None:
        """Make the claim's row (pytest-html's own makes a test's row)."""
        outcome = "Error" if report.failed and report.when != "call" else _outcome(report)
        claim = claim_of(report)
        if claim is not None:
            self._keys[report.nodeid] = claim["key"]
        row = claim_row.cells(claim, report, outcome)
        figure = {"format_type": "html", "content": claim_row.below(claim, report), "name": "", "extension": "html"}
        data: dict[str, Any] = {"extras": [figure, *processed_extras], "resultsTableRow": row}
        self._hydrate_data(data, row)
        self._report.add_test(data, report, outcome, [])


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "XFailed" if report.skipped else "XPassed"
    return report.outcome.capitalize()
