"""A comparison as one HTML file: no script, nothing loaded, headings with their scope, colour never alone."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from reports.compare import tables
from reports.compare.runs import Comparison
from reports.figures.canvas import Drawing

HERE = Path(__file__).parent
STYLE_SHEETS = (HERE.parent / "html" / "report.css", HERE / "compare.css")


def page(title: str, under: str, body: str) -> bytes:
    """A whole page.

    Args:
        title: its heading.
        under: a line below it.
        body: HTML.
    """
    style = "\n".join(path.read_text(encoding="utf-8") for path in STYLE_SHEETS)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main><h1>{escape(title)}</h1><p>{escape(under)}</p>{body}</main></body></html>\n"
    ).encode()


def said(sentences: Sequence[str]) -> str:
    """Sentences as a list."""
    return f'<ul class="said">{"".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)}</ul>'


def figures(drawings: Mapping[str, Drawing]) -> str:
    """Every figure, embedded; its words are the alternative text."""
    return '<section id="figures"><h2>Figures</h2>' + "".join(map(_figure, drawings.values())) + "</section>"


def comparison_page(comparison: Comparison) -> bytes:
    """Runs held against each other: what changed first, then every claim."""
    changes = tables.changes_table(comparison)
    body = said(tables.sentences(comparison))
    if changes.rows:
        body += f"<h2>What changed</h2>{changes.html()}"
    body += f"<h2>The runs</h2>{tables.runs_table(comparison).html()}"
    body += f'<h2>Every claim</h2><p class="words">{escape(tables.READING)}</p>{tables.claims_table(comparison).html()}'
    return page(tables.title(comparison), "Run A is the reference.", body)


def _figure(drawing: Drawing) -> str:
    words = escape(f"{drawing.finding}. {drawing.reading}", quote=True)
    picture = b64encode(drawing.png).decode()
    return f'<figure><img src="data:image/png;base64,{picture}" alt="{words}"></figure>'
