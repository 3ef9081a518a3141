"""Every claim, group by group: the question, claim by claim, then the figures in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from itertools import groupby

from awq_core.judging.evidence import Verdict
from reports.html.article import article
from reports.html.badges import badge
from reports.html.entry import Entry
from reports.html.filters import filters
from reports.html.pictures import Pictures
from reports.verdict_words import QUESTIONS, verdict_of

LEGEND = (
    '<span><i class="disc"></i> estimate</span> <span><i class="bar"></i> 95% interval</span> '
    '<span><i class="dash"></i> threshold</span> <span><i class="side"></i> supported there</span> '
    '<span><i class="diamond"></i> untrained twin</span>'
)
"""What the signs of a number line stand for. Each line says the same in words."""


def every_claim(entries: Sequence[Entry], pictures: Pictures) -> str:
    """The filters, and a section for each group in the catalogue's order."""
    if not entries:
        return '<section id="claims"><h2>Every claim</h2><p>No claim was judged.</p></section>'
    sections = "".join(
        _group(group, list(members), pictures) for group, members in groupby(entries, key=lambda e: e.claim["group"])
    )
    return (
        f'<section id="claims"><h2>Every claim</h2>{filters([entry.claim for entry in entries])}'
        f'<p class="legend" aria-hidden="true">{LEGEND}</p>{sections}</section>'
    )


def further_figures(pictures: Pictures) -> str:
    """Figures whose group has no claims on this page."""
    names = pictures.at("")
    if not names:
        return ""
    return f'<section id="figures"><h2>Further figures</h2>{"".join(map(pictures.full, names))}</section>'


def counts(entries: Sequence[Entry]) -> str:
    """How many of the claims came out which way, as badges."""
    counted = Counter(verdict_of(entry.claim) for entry in entries)
    return " ".join(badge(verdict, f"{counted[verdict]} {verdict.value}") for verdict in Verdict if counted[verdict])


def _group(group: str, entries: Sequence[Entry], pictures: Pictures) -> str:
    name = escape(group, quote=True)
    question = QUESTIONS.get(group, "")
    return (
        f'<section class="group" id="group-{name}" data-group="{name}"><header><h3>{escape(group)}</h3>'
        f'<p class="question">{escape(question)}</p><p class="tally">{counts(entries)}</p></header>'
        f"{''.join(article(entry, pictures) for entry in entries)}"
        f'<div class="figures">{"".join(map(pictures.full, pictures.at(group)))}</div></section>'
    )
