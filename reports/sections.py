"""The parts of the HTML report that stand around the verdict table, in plain HTML."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from typing import Any

from awq_core.measured import Measured
from reports.answer import Answer, perplexity_words
from reports.figures import Drawing


def partial(complete: bool) -> str:
    """The warning on a report that does not cover every claim; nothing on one that does."""
    if complete:
        return ""
    return (
        '<p class="partial" role="alert"><b>Partial.</b> The run ended before every claim was judged: '
        "what follows covers the claims judged until then.</p>"
    )


def answer_first(answer: Answer) -> str:
    """The answer's sentence, and its numbers as cards where there are any."""
    cards = ""
    if answer.full is not None and answer.rtn is not None and answer.awq is not None:
        cards = _card("full precision", perplexity_words(answer.full), "perplexity")
        cards += _card("rounded to nearest", perplexity_words(answer.rtn), "perplexity, 4 bits")
        cards += _card("AWQ", perplexity_words(answer.awq), "perplexity, 4 bits")
        if answer.won_back is not None:
            share = f"{answer.won_back:.0%}".replace("-", "−")
            cards += _card("won back by AWQ", share, "of RTN's loss in nats")
        cards = f'<div class="cards">{cards}</div>'
    return f'<section id="answer"><p class="sentence">{escape(answer.sentence)}</p>{cards}</section>'


def _card(name: str, value: str, unit: str) -> str:
    return f'<div class="card"><span class="name">{name}</span><b>{value}</b><span class="unit">{unit}</span></div>'


def figures(drawings: Mapping[str, Drawing], measured: Measured | None) -> str:
    """Every figure, all of them visible at once; the picture's words are its alternative text."""
    if measured is None:
        shown = "<p>The measurements did not finish, so there is nothing to draw.</p>"
    else:
        shown = "".join(_figure(name, drawing) for name, drawing in drawings.items())
    return f'<section id="figures"><h2>Figures</h2>{shown}</section>'


def _figure(name: str, drawing: Drawing) -> str:
    words = escape(f"{drawing.finding}. {drawing.reading}", quote=True)
    picture = b64encode(drawing.png).decode()
    return (
        f'<figure id="figure-{escape(name, quote=True)}">'
        f'<img alt="{words}" src="data:image/png;base64,{picture}"></figure>'
    )


def provenance(measured: Measured | None) -> str:
    """Where the numbers come from: everything that the measurements say of themselves."""
    if measured is None:
        return ""
    facts = {"parameters": f"{measured.parameters:,}", "family": measured.family or "", **_flat(measured.provenance)}
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>' for name, value in facts.items()
    )
    return (
        '<section id="provenance"><h2>Where these numbers come from</h2>'
        f'<div class="scrolls"><table>{rows}</table></div></section>'
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, their names joined: `tokens: heldout`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        flat |= _flat(value, f"{label}: ") if isinstance(value, Mapping) else {label: value}
    return flat
