"""How the page opens: the answer in a sentence, then what was asked of which model."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import prod
from typing import Any

from awq_core.measured import Measured
from reports.answer import Answer, perplexity_words
from reports.verdict_words import Claim


def partial(complete: bool) -> str:
    """The warning on a report that does not cover every claim; nothing on one that does."""
    if complete:
        return ""
    return (
        '<p class="partial" role="note"><b>Partial.</b> The run ended before every claim was judged: '
        "what follows covers the claims judged until then.</p>"
    )


def answer_first(answer: Answer) -> str:
    """The answer's sentence, and its numbers as cards where there are any."""
    cards = ""
    if answer.full is not None and answer.rtn is not None:
        cards = _card("full precision", perplexity_words(answer.full), "perplexity")
        cards += _card("rounded to nearest", perplexity_words(answer.rtn), "perplexity, 4 bits")
        for name, perplexity, share in (
            ("AWQ" if answer.clipped is None else "AWQ's scales", answer.awq, answer.won_back),
            ("AWQ with clipping", answer.clipped, answer.won_with_clipping),
        ):
            if perplexity is not None:
                won = "" if share is None else f"; {share:.0%} of RTN's loss won back".replace("-", "−")
                cards += _card(name, perplexity_words(perplexity), f"perplexity, 4 bits{won}")
        cards = f'<div class="cards">{cards}</div>'
    return (
        '<section id="answer" aria-labelledby="answer-title"><h2 id="answer-title" class="small">The answer</h2>'
        f'<p class="sentence">{escape(answer.sentence)}</p>{cards}</section>'
    )


def asked(model: str, measured: Measured | None, claims: Sequence[Claim]) -> str:
    """The question, and the model it was put to."""
    groups = len({claim["group"] for claim in claims})
    number = f"{len(claims)} claim{'' if len(claims) == 1 else 's'}"
    words = (
        f"Does activation-aware weight quantization (AWQ) do on {model} what the literature says it does? {number} in "
        f"{groups} group{'' if groups == 1 else 's'}, each with an estimand and a threshold registered before anything "
        "was measured. Calibration tokens choose exponents and layers, held-out tokens judge them, and a 95% interval "
        "decides. A refuted claim is a result, as good as a supported one."
    )
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in _facts(measured) if text)
    facts = f'<dl class="model">{rows}</dl>' if rows else ""
    title = '<h2 class="small">What was asked, and of which model</h2>'
    return f'<section id="asked">{title}<p>{escape(words)}</p>{facts}</section>'


def _facts(measured: Measured | None) -> list[tuple[str, str]]:
    if measured is None:
        return []
    known = measured.provenance
    return [
        ("model", _model(measured)),
        ("shape", _shape(measured)),
        ("calibration text", _text(known, "calibration")),
        ("held-out text", _text(known, "heldout")),
        ("looked at", str(known.get("looked_at") or "")),
        ("effort", ", ".join(str(known[key]) for key in ("effort", "dtype", "device_name") if known.get(key))),
        ("held against", f"{len(measured.twins)} untrained twins" if len(measured.twins) > 1 else ""),
    ]


def _model(measured: Measured) -> str:
    revision = str(measured.provenance.get("revision") or "")
    identity = str(measured.provenance.get("id") or measured.name)
    return identity if revision in ("", "local") else f"{identity}, revision {revision}"


def _shape(measured: Measured) -> str:
    known = measured.provenance
    parts = [f"{measured.parameters:,} parameters"]
    if known.get("blocks") and known.get("hidden_size"):
        parts.append(f"{known['blocks']} blocks of width {known['hidden_size']:,}")
    if known.get("model_type"):
        parts.append(str(known["model_type"]))
    return ", ".join(parts)


def _text(known: dict[str, Any], split: str) -> str:
    text = str(known.get(f"{split}_text") or "")
    shape = known.get(f"{split}_shape")
    return f"{text}, {prod(shape):,} tokens" if text and shape else text


def _card(name: str, value: str, unit: str) -> str:
    return f'<div class="card"><span class="name">{name}</span><b>{value}</b><span class="unit">{unit}</span></div>'
