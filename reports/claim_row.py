"""One claim in the HTML report: its row, and the figure and facts below it."""

from __future__ import annotations

from html import escape
from typing import Any

import pytest

from reports.figures.claim import number_line
from reports.verdict_table import badge
from reports.verdict_words import Claim, interval_text, number, threshold_text

HEADINGS = (
    # pytest-html's script filters by the plain outcome in this column; the style sheet hides it.
    '<th class="sortable" data-column-type="result">Outcome</th>',
    '<th class="sortable" data-column-type="verdict">Verdict</th>',
    # The script makes this column's text the row's anchor, to which the verdict table links.
    '<th class="sortable" data-column-type="testId">Claim</th>',
    "<th>Statement</th>",
    "<th>Estimate</th>",
)
KEY = '<i class="disc"></i> estimate <i class="bar"></i> 95% interval <i class="side"></i> supported'
TWIN_KEY = ' <i class="diamond"></i> untrained twin'


def cells(claim: Claim | None, report: pytest.TestReport, outcome: str) -> list[str]:
    """The row's cells, as many as there are headings, whether or not the test left evidence."""
    if claim is None:
        name = report.nodeid if report.when == "call" else f"{report.nodeid} ({report.when})"
        mark = f'<span class="badge error"><span aria-hidden="true">!</span> {escape(outcome.lower())}</span>'
        return _cells(outcome, mark, escape(name), "", "")
    estimate = f"<b>{number(claim['estimate'])}</b> {escape(claim['unit'])}" if claim["estimate"] is not None else ""
    return _cells(outcome, badge(claim), escape(claim["key"]), escape(claim["words"]), estimate)


def _cells(outcome: str, verdict: str, name: str, words: str, estimate: str) -> list[str]:
    return [
        f'<td class="col-result">{outcome}</td>',
        f'<td class="col-verdict">{verdict}</td>',
        f'<td class="col-testId">{name}</td>',
        f'<td class="col-words">{words}</td>',
        f'<td class="col-estimate">{estimate}</td>',
    ]


def below(claim: Claim | None, report: pytest.TestReport) -> str:
    """What stands below the row: the number line, the facts, and pytest's own account of a failure."""
    parts = []
    if claim is not None:
        if line := number_line(claim):
            twin = TWIN_KEY if claim["twin_estimate"] is not None else ""
            parts.append(f'<figure>{line}<figcaption class="key">{KEY}{twin}</figcaption></figure>')
        parts.append(_facts(claim))
    if report.failed and report.longreprtext:
        text = escape(report.longreprtext)
        parts.append(
            f"<details{'' if claim else ' open'}><summary>pytest's account</summary><pre>{text}</pre></details>"
        )
    return f'<div class="below">{"".join(parts)}</div>' if parts else ""


def _facts(claim: Claim) -> str:
    interval = claim.get("interval") or {}
    facts: list[tuple[str, str]] = [
        ("source", escape(claim["source"])),
        ("kind", f"{escape(claim['kind'])}, version {claim['version']}"),
        ("on", escape(", ".join(claim["models"]))),
        ("estimate", _with_unit(number(claim["estimate"]), claim)),
        ("95% interval", interval_text(claim)),
        ("supported if", escape(threshold_text(claim))),
        ("resampled", _resampled(interval)),
        ("untrained twin", number(claim["twin_estimate"])),
        ("reason", escape(claim["reason"])),
        ("registered", _registered(claim.get("registered"))),
        ("speaks most against", _contrary(claim)),
        ("also read", _details(claim["details"])),
    ]
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts if text) + "</dl>"


def _with_unit(text: str, claim: Claim) -> str:
    return f"{text} {escape(claim['unit'])}".strip() if text else ""


def _resampled(interval: dict[str, Any]) -> str:
    if not interval:
        return ""
    seed = "" if interval["seed"] is None else f", seed {interval['seed']}"
    return escape(f"{interval['n']} {interval['resampled']}, {interval['method']}{seed}")


def _registered(registered: dict[str, Any] | None) -> str:
    if registered is None:
        return ""
    met = "" if registered.get("conditions_met", True) else " (under other conditions)"
    return escape(f"{registered['verdict']}{met}: {registered.get('reason', '')}")


def _contrary(claim: Claim) -> str:
    items = "".join(
        f"<li><code>{escape(item['name'])}</code> {number(item['value'])}</li>" for item in claim.get("contrary", [])
    )
    return f"<ul>{items}</ul>" if items else ""


def _details(details: dict[str, Any]) -> str:
    items = []
    for name, value in details.items():
        text = number(value) if isinstance(value, float) else str(value)
        items.append(f"<li>{escape(name.replace('_', ' '))}: {escape(text)}</li>")
    return f"<ul>{''.join(items)}</ul>" if items else ""
