"""The verdicts at a glance: what each symbol means and how often it fell, and the grid of claims by model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from awq_core.judging.evidence import Verdict
from reports.false_verdicts import trust
from reports.html.badges import badge, tile
from reports.html.entry import Entry
from reports.verdict_words import MEANINGS, QUESTIONS, Claim, catalogue_order, verdict_of

Slot = tuple[str, int]
"""A column of the grid: a claim's key, and which of several pairs of sizes it is about."""


def glance(model: str, entries: Sequence[Entry], beside: Mapping[str, Sequence[Claim]]) -> str:
    """The legend with its counts, how far the verdicts can be trusted, and the grid.

    Args:
        model: the model that the page is about; its tiles lead to its claims.
        entries: its claims.
        beside: the claims of the session's other models, for comparison.
    """
    if not entries:
        return '<section id="verdicts"><h2>Verdicts at a glance</h2><p>No claim was judged.</p></section>'
    claims = [entry.claim for entry in entries]
    counted = Counter(map(verdict_of, claims))
    legend = "".join(
        f"<li>{badge(verdict, f'{counted[verdict]} {verdict.value}')} <span>{escape(MEANINGS[verdict])}</span></li>"
        for verdict in Verdict
        if counted[verdict]
    )
    return (
        f'<section id="verdicts"><h2>Verdicts at a glance</h2><ul class="meanings">{legend}</ul>'
        f"<p>{escape(trust(claims).sentence)}</p>{_grid(model, entries, beside)}</section>"
    )


def _grid(model: str, entries: Sequence[Entry], beside: Mapping[str, Sequence[Claim]]) -> str:
    anchors = dict(zip(_slots([entry.claim for entry in entries]), (entry.anchor for entry in entries), strict=True))
    rows = {model: _slots([entry.claim for entry in entries])}
    rows |= {name: _slots(claims) for name, claims in beside.items() if name != model and claims}
    every = {slot: claim for row in reversed(rows.values()) for slot, claim in row.items()}
    columns = sorted(every, key=lambda slot: (catalogue_order(every[slot]), slot[1]))
    groups = list(dict.fromkeys(every[slot]["group"] for slot in columns))
    return '<div class="grid">' + "".join(
        _group(group, [slot for slot in columns if every[slot]["group"] == group], rows, anchors, model)
        for group in groups
    ) + "</div>"  # fmt: skip


def _slots(claims: Sequence[Claim]) -> dict[Slot, Claim]:
    seen: Counter[str] = Counter()
    slots = {}
    for claim in claims:
        slots[claim["key"], seen[claim["key"]]] = claim
        seen[claim["key"]] += 1
    return slots


def _group(
    group: str,
    columns: Sequence[Slot],
    rows: Mapping[str, Mapping[Slot, Claim]],
    anchors: Mapping[Slot, str],
    model: str,
) -> str:
    """A group's claims side by side, one row for each model: the same claim stands in the same column."""
    lines = "".join(
        f'<div class="line"><span class="model">{escape(name)}</span>'
        f'<ul aria-label="{escape(f"{group} on {name}", quote=True)}">'
        + "".join(
            f"<li>{_cell(row.get(slot), anchors.get(slot, '') if name == model else '')}</li>" for slot in columns
        )
        + "</ul></div>"
        for name, row in rows.items()
    )
    name = escape(group, quote=True)
    title = f'<a href="#group-{name}">{escape(group)}</a>' if any(slot in rows[model] for slot in columns) else name
    return (
        f'<div class="of"><div class="what"><h3>{title}</h3><p>{escape(QUESTIONS.get(group, ""))}</p></div>'
        f'<div class="lines">{lines}</div></div>'
    )


def _cell(claim: Claim | None, anchor: str) -> str:
    if claim is None:
        return '<span class="tile none" role="img" aria-label="not judged in this run"></span>'
    return tile(claim, anchor)
