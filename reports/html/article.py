"""One claim on the page: its words, the verdict and what it means, the number line, the figure, how to repeat it."""

from __future__ import annotations

from html import escape
from typing import Any

from reports.figures.claim import number_line
from reports.html.badges import claim_badge, slug
from reports.html.entry import Entry
from reports.html.meaning import meaning
from reports.html.pictures import Pictures
from reports.verdict_words import Claim, interval_name, interval_text, is_exact, number, threshold_text, verdict_of


def article(entry: Entry, pictures: Pictures) -> str:
    """The claim as an article, with what the filters ask for in its data attributes."""
    claim, anchor = entry.claim, escape(entry.anchor, quote=True)
    picture = pictures.beside(entry.figure) if entry.figure else ""
    return (
        f'<article class="claim" id="{anchor}" data-verdict="{slug(verdict_of(claim))}" '
        f'data-group="{escape(claim["group"], quote=True)}" aria-labelledby="words-{anchor}">'
        f'<header><p class="tags">{claim_badge(claim)} <a class="key" href="#{anchor}">{escape(claim["key"])}</a></p>'
        f'<h4 id="words-{anchor}">{escape(claim["words"])}</h4>'
        f'<p class="source">Source: {escape(claim["source"])}</p></header>'
        f'<div class="measured">{number_line(claim)}{_estimate(claim)}</div>'
        f'<div class="explained"><p class="meaning">{escape(meaning(claim))}</p>{_facts(claim)}</div>'
        f"{picture}{repeat(entry.command)}{_more(claim)}{account(entry.account)}</article>"
    )


def repeat(command: str) -> str:
    """The command that repeats it; the script puts a button for copying beside it."""
    if not command:
        return ""
    # A narrow page breaks it between options, never inside one.
    first, *options = command.split(" --")
    words = "".join(f" <span>--{escape(option)}</span>" for option in options)
    return f'<p class="repeat"><b>Repeat</b> <code>{escape(first)}{words}</code></p>'


def account(text: str, *, opened: bool = False) -> str:
    """Pytest's own words on a failure."""
    if not text:
        return ""
    return (
        f'<details class="more"{" open" if opened else ""}><summary>Pytest\'s account</summary>'
        f'<pre tabindex="0">{escape(text)}</pre></details>'
    )


def _estimate(claim: Claim) -> str:
    """The number line in words: the estimate, its interval and what would be supported."""
    if claim["estimate"] is None:
        needed = f"supported {threshold_text(claim)}" if claim["threshold"] else ""
        return f'<p class="estimate">no estimate <span>{escape(needed)}</span></p>'
    interval = "exact" if is_exact(claim) else f"{interval_name(claim)} {interval_text(claim)}"
    parts = [
        interval if claim["interval"] else "",
        f"supported {threshold_text(claim)}" if claim["threshold"] else "",
    ]
    rest = "; ".join(part for part in parts if part)
    return (
        f'<p class="estimate"><b>{number(claim["estimate"])}</b> {escape(claim["unit"])} '
        f"<span>{escape(rest)}</span></p>"
    )


def _facts(claim: Claim) -> str:
    facts = [
        ("untrained twin", number(claim["twin_estimate"])),
        ("resampled", _resampled(claim.get("interval") or {})),
        ("kind", f"{claim['kind']}, version {claim['version']}"),
        ("with clipping", str(claim["details"].get("with clipping", ""))),
        ("on", " and ".join(claim["models"]) if len(claim["models"]) > 1 else ""),
    ]
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts if text) + "</dl>"


def _resampled(interval: dict[str, Any]) -> str:
    if not interval:
        return ""
    seed = "" if interval["seed"] is None else f", seed {interval['seed']}"
    return f"{interval['n']:,} {interval['resampled']}, {interval['method']}{seed}"


def _more(claim: Claim) -> str:
    """What else was read from the same measurement, and the linears that speak most against the claim."""
    shown = ("the linears named", "with clipping")
    details = {name: value for name, value in claim["details"].items() if name not in shown}
    against = claim.get("contrary", [])
    named = claim["details"].get("the linears named", "what speaks most against it")
    parts = []
    if against:
        items = "".join(
            f"<dt><code>{escape(item['name'])}</code></dt><dd>{number(item['value'])}</dd>" for item in against
        )
        parts.append(f"<div><h5>{escape(_capital(str(named)))}</h5><dl>{items}</dl></div>")
    if details:
        items = "".join(f"<dt>{escape(_label(name))}</dt><dd>{_value(value)}</dd>" for name, value in details.items())
        parts.append(f"<div><h5>Also read</h5><dl>{items}</dl></div>")
    if not parts:
        return ""
    return f'<details class="more"><summary>More readings</summary><div class="pair">{"".join(parts)}</div></details>'


def _label(name: str) -> str:
    return "p value" if name == "p_value" else name


def _value(value: Any) -> str:
    return escape(number(value) if isinstance(value, float) else str(value))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
