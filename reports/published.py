"""Published numbers beside ours: the report's section and the terminal's line.

They travel as plain dictionaries, exactly `PublishedValue.as_dict()` of the claims, as evidence does.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any

from reports.verdict_words import number

Published = dict[str, Any]
"""One published number with ours beside it."""

HEADINGS = ("Quantity", "Theirs", "Ours", "Agree if ours lies", "Agree")


def sentence(name: str, published: Sequence[Published]) -> str:
    """How many published numbers ours agree with; empty where nothing is published of the model."""
    if not published:
        return ""
    compared = [value for value in published if value["agrees"] is not None]
    agreeing = sum(value["agrees"] for value in compared)
    rest = len(published) - len(compared)
    if not compared:
        return f"{name}: others have published {rest} of its numbers; none is comparable with ours."
    numbers = "number" if len(compared) == 1 else "numbers"
    others = f"; {rest} more {'is' if rest == 1 else 'are'} not comparable" if rest else ""
    return (
        f"{name}: ours agree with {agreeing} of {len(compared)} comparable published {numbers}, "
        f"within tolerances registered in advance{others}."
    )


def section(name: str, published: Sequence[Published]) -> str:
    """HTML: theirs and ours, a body of rows for each source and definition; nothing without published numbers."""
    if not published:
        return ""
    bodies = "".join(
        _body(source, definition, list(values))
        for (source, definition), values in groupby(published, key=lambda v: (v["source"], v["definition"]))
    )
    head = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
    return (
        f'<section id="published"><h2>What others have published of it</h2><p>{escape(sentence(name, published))} '
        "To agree is no verdict on a claim, and to differ no error: definitions differ, as said above each group.</p>"
        '<div class="scrolls" role="region" aria-label="Published values" tabindex="0"><table class="verdicts"><thead>'
        f"<tr>{head}</tr></thead>{bodies}</table></div></section>"
    )


def _body(source: str, definition: str, values: Sequence[Published]) -> str:
    differs = "; ".join(dict.fromkeys(value["differs"] for value in values))
    heading = (
        f'<tr class="group"><th colspan="{len(HEADINGS)}" scope="rowgroup">{escape(source)}'
        f'<span class="words">Theirs: {escape(definition)}. What differs: {escape(differs)}.</span></th></tr>'
    )
    return f"<tbody>{heading}{''.join(_row(value) for value in values)}</tbody>"


def _row(value: Published) -> str:
    theirs = f'<td class="number">{_with_place(value["value"], value["unit"], value["place"])}</td>'
    quantity = f'<td class="claim">{escape(value["quantity"])}</td>'
    if value["agrees"] is None:
        reason = escape(value["not_comparable"])
        return f'<tr>{quantity}{theirs}<td class="words" colspan="3">not comparable: {reason}</td></tr>'
    ours = _with_place(value["ours"], value["unit"], value["our_place"])
    agree = "yes" if value["agrees"] else "no"
    return (
        f'<tr>{quantity}{theirs}<td class="number"><b>{ours}</b></td>'
        f'<td class="number">{escape(value["tolerance"]["text"])}</td><td>{agree}</td></tr>'
    )


def _with_place(value: float, unit: str, place: str) -> str:
    """A number with its unit, and below it the linear it belongs to."""
    where = f'<span class="words">{escape(place)}</span>' if place else ""
    return f"{number(value)} {escape(unit)}{where}"
