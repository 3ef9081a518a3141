"""The verdict table of the HTML report, in plain HTML: it is there before any script has run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from itertools import groupby

from awq_core.evidence import Verdict
from reports.false_verdicts import trust
from reports.verdict_words import (
    APPEARANCES,
    Claim,
    interval_text,
    is_registered,
    number,
    threshold_text,
    verdict_of,
)

HEADINGS = ("Verdict", "Claim", "Estimate [95% interval]", "Supported if", "Untrained twin", "Survives Holm")


def badge(claim: Claim) -> str:
    """The verdict as a coloured badge with a symbol, and what the deviations file says of it."""
    verdict = verdict_of(claim)
    registered = claim.get("registered")
    if registered is None or (is_registered(claim) and verdict is Verdict.SUPPORTED):
        return _badge(verdict, verdict.value)
    note = "registered" if is_registered(claim) else f"registered as {registered['verdict']}"
    reason = escape(str(registered.get("reason", "")), quote=True)
    return f'{_badge(verdict, verdict.value)} <span class="registered" title="{reason}">{escape(note)}</span>'


def _badge(verdict: Verdict, text: str) -> str:
    symbol = f'<span aria-hidden="true">{APPEARANCES[verdict].symbol}</span>'
    return f'<span class="badge {verdict.value.replace(" ", "-")}">{symbol} {escape(text)}</span>'


def verdict_table(claims: Sequence[Claim]) -> str:
    """The counts, and the table: a body of rows for each group of claims, which come in the catalogue's order."""
    if not claims:
        return '<section id="verdicts"><h2>Verdicts</h2><p>No claim was judged.</p></section>'
    counts = Counter(verdict_of(claim) for claim in claims)
    tally = " ".join(_badge(verdict, f"{counts[verdict]} {verdict.value}") for verdict in Verdict if counts[verdict])
    bodies = "".join(_body(group, list(members)) for group, members in groupby(claims, key=lambda c: c["group"]))
    head = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
    return (
        f'<section id="verdicts"><h2>Verdicts</h2><p class="tally">{tally}</p><p>{escape(trust(claims).sentence)}</p>'
        f'<div class="scrolls"><table class="verdicts"><thead><tr>{head}</tr></thead>{bodies}</table></div></section>'
    )


def _body(group: str, claims: list[Claim]) -> str:
    rows = "".join(_row(claim) for claim in claims)
    heading = f'<tr class="group"><th colspan="{len(HEADINGS)}" scope="rowgroup">{escape(group)}</th></tr>'
    return f"<tbody>{heading}{rows}</tbody>"


def _row(claim: Claim) -> str:
    if claim["estimate"] is not None:
        estimate = f'<td class="number"><b>{number(claim["estimate"])}</b> {interval_text(claim)}</td>'
    else:
        estimate = f'<td class="words">{escape(claim["reason"])}</td>'
    return (
        f"<tr><td>{badge(claim)}</td>"
        f'<td class="claim"><a href="#{escape(claim["key"], quote=True)}">{escape(claim["key"])}</a>'
        f'<span class="words">{escape(claim["words"])}</span></td>'
        f'{estimate}<td class="number">{escape(threshold_text(claim))}</td>'
        f'<td class="number">{number(claim["twin_estimate"])}</td><td>{_holm(claim)}</td></tr>'
    )


def _holm(claim: Claim) -> str:
    if verdict_of(claim) not in (Verdict.SUPPORTED, Verdict.REFUTED) or claim["survives_holm"] is None:
        return ""
    return "yes" if claim["survives_holm"] else "no"
