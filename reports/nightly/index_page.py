"""The nightly site's first page, and the same table in Markdown for the job's summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from urllib.parse import quote

from awq_core.judging.evidence import Verdict
from reports.verdict_words import APPEARANCES

HEADINGS = ("Model", "torch", "Verdicts", "Since the night before", "Measured", "Read")
STYLE = """
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #1c2026; }
.scrolls { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 0.4rem 0.8rem; border-bottom: 1px solid #dfe3e8; text-align: left; vertical-align: top; }
a { color: #004f85; }
"""


@dataclass(frozen=True)
class Entry:
    """One model's night.

    Attributes:
        model: its name.
        torch: the torch it was measured under: a version, or pinned.
        status: what became of the comparison with the night before, in words.
        measured: when.
        verdicts: one for each claim.
        links: words to a path relative to the page.
    """

    model: str
    torch: str
    status: str
    measured: str = ""
    verdicts: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)


def counts(verdicts: Sequence[str]) -> str:
    """How many claims came out which way: `✓ 12 supported, ✗ 30 refuted`."""
    counted = Counter(verdicts)
    return ", ".join(
        f"{APPEARANCES[verdict].symbol} {counted[verdict]} {verdict}" for verdict in Verdict if counted[verdict]
    )


def summary(entries: Sequence[Entry]) -> str:
    """The table in Markdown, without links: artifacts are not reached from a job's summary."""
    rows = [(one.model, one.torch, counts(one.verdicts), one.status, one.measured) for one in entries]
    lines = [HEADINGS[:-1], tuple("---" for _ in HEADINGS[:-1]), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def index_page(entries: Sequence[Entry]) -> str:
    """The page; it needs nothing but itself and the reports beside it."""
    head = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
    rows = "\n".join(_row(entry) for entry in entries)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>AWQ claims, nightly</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>AWQ claims, nightly</h1>\n"
        "<p>Each model's claims as measured in the last night, and what changed since the night before it. "
        "A refuted claim is a result; only a change opens an issue.</p>\n"
        f'<div class="scrolls"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>\n'
        "</body>\n</html>\n"
    )


def _row(entry: Entry) -> str:
    links = ", ".join(f'<a href="{quote(path)}">{escape(words)}</a>' for words, path in entry.links.items())
    cells = [entry.torch, counts(entry.verdicts), entry.status, entry.measured]
    plain = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row">{escape(entry.model)}</th>{plain}<td>{links}</td></tr>'
