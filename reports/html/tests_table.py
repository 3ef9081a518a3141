"""The run as pytest saw it: rows of pytest-html's own table, drawn by its own script, at the end of the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import pytest

from reports.html.article import account
from reports.verdict_words import Claim

# The script sorts by what stands in these columns. A button can be reached by keyboard, a heading cannot.
HEADINGS = tuple(
    f'<th scope="col"><button type="button" class="sortable" data-column-type="{kind}">{words}</button></th>'
    for kind, words in (("result", "Outcome"), ("testId", "Test"), ("verdict", "Verdict"), ("duration", "Duration"))
)


def cells(claim: Claim | None, report: pytest.TestReport, outcome: str, duration: str) -> list[str]:
    """The row's cells, as many as there are headings, whether or not the test left evidence."""
    name = report.nodeid if report.when == "call" else f"{report.nodeid}::{report.when}"
    # pytest-html's script folds a row where a cell outside its column of links is clicked: there is nothing to fold.
    return [
        f'<td class="col-result col-links">{outcome}</td>',
        f'<td class="col-testId col-links">{escape(name)}</td>',
        f'<td class="col-verdict col-links">{escape(claim["verdict"]) if claim else ""}</td>',
        f'<td class="col-duration col-links">{duration}</td>',
    ]


def captured(report: pytest.TestReport) -> str:
    """What the test printed and logged."""
    text = "\n".join(f"{name}\n{content}".rstrip() for name, content in report.sections)
    if not text:
        return ""
    return f'<details><summary>captured output</summary><pre tabindex="0">{escape(text)}</pre></details>'


def broken(accounts: Sequence[tuple[str, str]]) -> str:
    """The claims that ended in an error instead of a verdict, by test and pytest's account of it."""
    if not accounts:
        return ""
    many = "1 claim" if len(accounts) == 1 else f"{len(accounts)} claims"
    items = "".join(
        f"<div><p><code>{escape(node)}</code></p>{account(text, opened=True)}</div>" for node, text in accounts
    )
    return f'<section id="errors"><h2>Ended in an error</h2><p>{many} got no verdict.</p>{items}</section>'
