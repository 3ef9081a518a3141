"""`report.html`: one self-contained pytest-html file per model, on a page of the project's own.

Pytest-html gathers outcomes, durations and logs, and renders; the template puts its table at the end, and before it
the answer, the verdicts at a glance and every claim, in plain HTML that needs no script.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from pytest_html.basereport import _format_duration
from pytest_html.report_data import ReportData
from pytest_html.selfcontained_report import SelfContainedReport
from pytest_html.util import _read_template

from awq_core.measured import Measured
from reports.answer import Answer
from reports.figures import Drawing
from reports.gathered import claim_of
from reports.html import glance, groups, opening, provenance, tests_table
from reports.html.entry import Judged, Owners, entries, owners
from reports.html.pictures import Pictures
from reports.html.repeat import Repeat
from reports.verdict_words import Claim
from reports.writing import write_whole

HERE = Path(__file__).parent
TEMPLATE, STYLE_SHEET = "report.jinja2", "report.css"


class ModelReport(SelfContainedReport):
    """A pytest-html report on one model's claims, fed by hand with that model's test reports only.

    It is not registered as a plugin: a user's own `--html` report, and the hooks that dress it, stay untouched.
    """

    def __init__(
        self, path: Path, config: pytest.Config, model: str, *, started: float, session: Sequence[str] = ()
    ) -> None:
        """Open the report at `path`; nothing is written before `finish`.

        Args:
            path: the file; its folder is made.
            config: the session's, for pytest-html's own settings and for the commands that repeat the run.
            model: the model's name.
            started: when the session started, in seconds since the epoch.
            session: the names of the session's models, in the order asked for.
        """
        # The template includes the project's script and pytest-html's own.
        template = _read_template([HERE, Path(str(files("pytest_html"))) / "resources"], TEMPLATE)
        super().__init__(path, config, ReportData(config), template, (HERE / STYLE_SHEET).read_text("utf-8"))
        self.path = path
        self.config = config
        self.model = model
        self.session = list(session) or [model]
        self._suite_start_time = started
        self._judged: dict[Owners, Judged] = {}
        self._broken: list[tuple[str, str]] = []
        self._keys: dict[str, str] = {}
        self._report.title = f"AWQ claims on {model}"
        self._report.table_header = list(tests_table.HEADINGS)
        self._report.set_data("environment", {})
        # Every row open, in the order of the page, whatever the user's settings for an own report are.
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
        beside: Mapping[str, Sequence[Claim]],
        drawings: Mapping[str, Drawing],
        measured: Measured | None,
        complete: bool,
        published: str = "",
    ) -> None:
        """Write the file, whole or not at all.

        Args:
            answer: the page's opening.
            claims: the model's, in the order to be shown.
            beside: the claims of the session's other models, for the grid.
            drawings: the figures by name.
            measured: the measurements; None where they did not finish.
            complete: False where the run was interrupted before every claim was judged.
            published: HTML on published numbers, a section of its own, or empty.
        """
        repeat = Repeat(self.config, self.session, measured.provenance if measured is not None else {})
        pictures = Pictures(drawings, list(dict.fromkeys(claim["group"] for claim in claims)))
        shown = entries(claims, self._judged, repeat.claim, pictures)
        summary = self._report.additional_summary
        summary["prefix"] += [opening.partial(complete), opening.answer_first(answer)]
        summary["prefix"] += [
            opening.asked(self.model, measured, claims),
            glance.glance(self.model, shown, beside),
            tests_table.broken(self._broken),
            groups.every_claim(shown, pictures),
            groups.further_figures(pictures),
        ]
        summary["postfix"] += [published, provenance.provenance(measured, repeat.run(self._models(claims)))]
        # Tests report in any order, the more so under pytest-xdist: the rows follow the claims.
        order = {claim["key"]: place for place, claim in enumerate(claims)}
        rows = self._report.data["tests"]
        keys = sorted(rows, key=lambda node: order.get(self._keys.get(node, ""), len(order)))
        self._report.set_data("tests", {node: rows[node] for node in keys})
        self._report.running_state = "finished"
        self._report.total_duration = time.time() - self._suite_start_time
        self._generate_report()

    def _models(self, claims: Sequence[Claim]) -> list[str]:
        """The model, and those without which its claims about two sizes could not be judged again."""
        return list(dict.fromkeys([self.model, *(name for claim in claims for name in claim["models"])]))

    def _write_report(self, rendered_report: str) -> None:
        write_whole(self.path, rendered_report.encode())

    def _process_report(
        self, report: pytest.TestReport, duration: float, processed_extras: list[dict[str, Any]]
    ) -> None:
        """Make the row of a test (pytest-html's own has other columns), and keep what the claim's article needs."""
        error = report.failed and report.when != "call"
        outcome = "Error" if error else _outcome(report)
        claim, account = claim_of(report), report.longreprtext if report.failed else ""
        if claim is not None:
            self._keys[report.nodeid] = claim["key"]
            if report.when == "call" or owners(claim) not in self._judged:
                self._judged[owners(claim)] = Judged(report.nodeid, account)
        if account and (claim is None or error):
            self._broken.append((report.nodeid, account))
        row = tests_table.cells(claim, report, outcome, _format_duration(duration))
        output = {"format_type": "html", "content": tests_table.captured(report), "name": "", "extension": "html"}
        data: dict[str, Any] = {"extras": [output, *processed_extras], "resultsTableRow": row}
        self._hydrate_data(data, row)
        self._report.add_test(data, report, outcome, [])


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "XFailed" if report.skipped else "XPassed"
    return report.outcome.capitalize()
