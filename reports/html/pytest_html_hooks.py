"""Claims in a user's own pytest-html report (`--html=FILE`), through its public hooks alone.

The table gets a column of verdicts, each claim's test its number line, and the top what came out on each model.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_html

from reports.html.environment import macro
from reports.judged_claims import JudgedClaims, claim_of

TEMPLATE = "pytest_html.jinja2"
COLUMN = 2
"""Where the verdict stands: after the outcome and the test."""


class PytestHtmlHooks:
    """A plugin for sessions that write such a report."""

    def __init__(self, judged: JudgedClaims) -> None:
        self.judged = judged

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        """Attach the number line, before pytest-html takes the report."""
        if report.when == "call" and (claim := claim_of(report)) is not None:
            line = pytest_html.extras.html(macro(TEMPLATE, "figure", claim))
            report.extras = [*getattr(report, "extras", []), line]

    def pytest_html_report_title(self, report: Any) -> None:
        """Name the page after what is judged."""
        report.title = "AWQ claims"

    def pytest_html_results_table_header(self, cells: list[str]) -> None:
        """Add the column's heading."""
        cells.insert(COLUMN, macro(TEMPLATE, "heading"))

    def pytest_html_results_table_row(self, report: Any, cells: list[str]) -> None:
        """Add the verdict, or an empty cell for a test that is no claim's."""
        cells.insert(COLUMN, macro(TEMPLATE, "cell", claim_of(report)))

    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        """Add the counts by model, and the style that verdicts and number lines need."""
        claims = {model: self.judged.of(model) for model in self.judged.models}
        prefix.append(macro(TEMPLATE, "summary", claims))
