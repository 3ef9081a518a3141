"""A table for two formats: written here as Markdown, and as accessible HTML by a template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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

    @property
    def bodies(self) -> list[tuple[str, list[Sequence[Cell]]]]:
        """The rows by group, for HTML; of a table without groups all of them, under an empty name."""
        groups = self.groups or [""] * len(self.rows)
        grouped = groupby(zip(groups, self.rows, strict=True), key=lambda item: item[0])
        return [(group, [row for _, row in members]) for group, members in grouped]
