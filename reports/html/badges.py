"""Verdicts as badges and as tiles: a colour, and a symbol and a word that say the same without it."""

from __future__ import annotations

from html import escape

from awq_core.judging.evidence import Verdict
from reports.verdict_words import APPEARANCES, Claim, is_registered, verdict_of


def slug(verdict: Verdict) -> str:
    """The verdict as a class name and a value of the filter: `insufficient-data`."""
    return verdict.value.replace(" ", "-")


def badge(verdict: Verdict, text: str = "") -> str:
    """A verdict's symbol and word in its colours."""
    return f'<span class="badge {slug(verdict)}">{symbol(verdict)} {escape(text or verdict.value)}</span>'


def symbol(verdict: Verdict) -> str:
    """The symbol alone, for eyes only: a word stands beside it, or in a label."""
    return f'<span aria-hidden="true">{APPEARANCES[verdict].symbol}</span>'


def claim_badge(claim: Claim) -> str:
    """A claim's badge, and what the deviations file says of its verdict."""
    verdict = verdict_of(claim)
    registered = claim.get("registered")
    if registered is None or (is_registered(claim) and verdict is Verdict.SUPPORTED):
        return badge(verdict)
    note = "registered" if is_registered(claim) else f"registered as {registered['verdict']}"
    return f'{badge(verdict)} <span class="registered">{escape(note)}</span>'


def tile(claim: Claim, anchor: str = "") -> str:
    """One cell of the grid: the symbol in its colours; with an anchor, a link to the claim."""
    verdict = verdict_of(claim)
    label = escape(f"{claim['key']}: {verdict.value}", quote=True)
    look = f'class="tile {slug(verdict)}" title="{label}" aria-label="{label}"'
    if anchor:
        return f'<a {look} href="#{escape(anchor, quote=True)}">{symbol(verdict)}</a>'
    return f'<span {look} role="img">{symbol(verdict)}</span>'
