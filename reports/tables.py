"""A table that is written once and reads well twice: as Markdown and as accessible HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby

from awq_core.judging.evidence import Verdict
from reports.verdict_words import APPEARANCES


@dataclass(frozen=True)
class Cell:
    """One cell: its verdict as a symbol or badge, its text, and below it a mark.

    Attributes:
        text: plain text.
        verdict: shown before the text; its word stands in the HTML, its symbol in both.
        mark: a note that wants to be seen, such as a change.
        tone: the mark's colour class: changed, drift or differs.
        code: set the text in the fixed-width type of names.
    """

    text: str
    verdict: Verdict | None = None
    mark: str = ""
    tone: str = ""
    code: bool = False

    def markdown(self) -> str:
        """The cell's Markdown, with nothing that would end it."""
        text = f"`{self.text}`" if self.code else self.text
        parts = [
            APPEARANCES[self.verdict].symbol if self.verdict else "",
            text,
            f"**{self.mark}**" if self.mark else "",
        ]
        return " ".join(filter(None, parts)).replace("|", "\\|").replace("\n", " ")

    def html(self) -> str:
        """The cell's HTML."""
        parts = [badge(self.verdict) if self.verdict else "", escape(self.text)]
        if self.code:
            parts[1] = f"<code>{parts[1]}</code>"
        if self.mark:
            parts.append(f'<span class="mark {self.tone}">{escape(self.mark)}</span>')
        return " ".join(filter(None, parts))


@dataclass(frozen=True)
class Table:
    """Headings and rows; the first cell of each row heads it.

    Attributes:
        caption: what the table shows, for those who cannot see it at a glance.
        headings: one for each column.
        rows: as many cells each.
        groups: for each row the group it belongs to; empty for a table without groups.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    groups: Sequence[str] = field(default=())

    def markdown(self) -> str:
        """The table as Markdown; groups are seen in the order of the rows only."""
        lines = ["| " + " | ".join(heading.replace("|", "\\|") for heading in self.headings) + " |"]
        lines.append("|" + "---|" * len(self.headings))
        lines += ["| " + " | ".join(cell.markdown() for cell in row) + " |" for row in self.rows]
        return "\n".join(lines)

    def html(self) -> str:
        """The table as HTML: every heading with its scope, and a box of its own to scroll in on a narrow screen."""
        head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in self.headings)
        caption = escape(self.caption)
        return (
            f'<div class="scrolls" role="region" aria-label="{escape(self.caption, quote=True)}" tabindex="0">'
            f'<table class="verdicts compared"><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
            f"{self._bodies()}</table></div>"
        )

    def _bodies(self) -> str:
        groups = self.groups or [""] * len(self.rows)
        bodies = []
        for group, members in groupby(zip(groups, self.rows, strict=True), key=lambda item: item[0]):
            title = f'<th colspan="{len(self.headings)}" scope="rowgroup">{escape(group)}</th>'
            rows = "".join(_row(row) for _, row in members)
            bodies.append(f"<tbody>{f'<tr class=group>{title}</tr>' if group else ''}{rows}</tbody>")
        return "".join(bodies)


def _row(cells: Sequence[Cell]) -> str:
    return (
        f'<tr><th scope="row">{cells[0].html()}</th>'
        + "".join(f"<td>{cell.html()}</td>" for cell in cells[1:])
        + "</tr>"
    )


def badge(verdict: Verdict, text: str = "") -> str:
    """A verdict in colour, with its symbol and its word."""
    symbol = f'<span aria-hidden="true">{APPEARANCES[verdict].symbol}</span>'
    return f'<span class="badge {verdict.value.replace(" ", "-")}">{symbol} {escape(text or verdict.value)}</span>'
