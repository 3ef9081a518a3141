"""How a verdict is worded, marked and coloured, wherever it is shown.

Evidence travels as the plain dictionary of `Evidence.as_dict`, because that is what survives a process boundary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from awq_core.judging.evidence import Verdict, interval_in_words
from awq_core.quantization.quantizers import DEPLOYED

Claim = dict[str, Any]
"""One judged claim: exactly `Evidence.as_dict()`."""


@dataclass(frozen=True)
class Appearance:
    """A verdict's symbol, readable without colour, and its colours on the terminal and on paper."""

    symbol: str
    terminal: str
    ink: str
    paper: str


APPEARANCES = {
    # Ink on paper keeps a contrast of at least 4.5 (WCAG AA); the hues are Okabe and Ito's, darkened.
    Verdict.SUPPORTED: Appearance("✓", "green", "#00553d", "#d8f0e7"),
    Verdict.REFUTED: Appearance("✗", "red", "#8f3500", "#fbe3d5"),
    Verdict.INCONCLUSIVE: Appearance("?", "yellow", "#6b4e00", "#fbf0cc"),
    Verdict.INSUFFICIENT: Appearance("–", "bright_black", "#4a4f57", "#eceef1"),
    Verdict.NOT_APPLICABLE: Appearance("∅", "bright_black", "#4a4f57", "#eceef1"),
    Verdict.REPORTED: Appearance("i", "blue", "#004a78", "#dcebf7"),
}

CATALOGUE = (
    "concentration",
    "outliers",
    "learned",
    "localization",
    "payoff",
    "clipping",
    "replication",
    "constant-alpha",
    "salience",
    "mechanism",
    "bits",
    "calibration",
    "gptq",
    "release",
)
"""The groups in the order in which the catalogue tells its story; a group of someone's own comes after them."""

QUESTIONS = {
    "concentration": "Importance sits in few channels",
    "outliers": "The salient channels are real, heavy-tailed outliers",
    "learned": "What training adds to the architecture",
    "localization": "It lives in particular linears: o and down",
    "payoff": "Protecting the salient channels beats rounding to nearest",
    "clipping": "Clipping helps by itself, and the scales add to it",
    "replication": "Another size tells the same story",
    "constant-alpha": "One exponent is enough",
    "salience": "Activations, not weights, tell which channels matter",
    "mechanism": "Why it works",
    "bits": "The price of precision",
    "calibration": "What it needs of its text",
    "gptq": "The other school",
    "release": "Checkpoints in the wild",
}
"""What each group of the catalogue is about."""

MEANINGS = {
    Verdict.SUPPORTED: "the whole 95% interval lies on the claim's side of its registered threshold",
    Verdict.REFUTED: "the whole interval lies on the other side",
    Verdict.INCONCLUSIVE: "the interval holds the threshold: more data would decide",
    Verdict.INSUFFICIENT: "too few blocks or windows, or no damage to recover",
    Verdict.NOT_APPLICABLE: "the model lacks what the claim is about, or what it builds on is not supported",
    Verdict.REPORTED: "measured and shown, not judged",
}
"""What each verdict says, for a legend."""

JUDGED = (Verdict.SUPPORTED, Verdict.REFUTED, Verdict.INCONCLUSIVE)
"""The verdicts that say something about the model; the others say why nothing can be said, or only report."""

MOST_DIGITS = 8
"""Significant digits of an interval's end, however near a threshold."""


def verdict_of(claim: Claim) -> Verdict:
    """The claim's verdict as the enumeration's member."""
    return Verdict(claim["verdict"])


def catalogue_order(claim: Claim) -> tuple[int, str, str, int]:
    """A sorting key: group by group as in the catalogue, then by id, the deployed precision first."""
    group = claim["group"]
    place = CATALOGUE.index(group) if group in CATALOGUE else len(CATALOGUE)
    return place, group, claim["id"], -(claim["bits"] or 0)


def is_judged(claim: Claim) -> bool:
    """Whether the claim got one of the three verdicts."""
    return verdict_of(claim) in JUDGED


def is_exact(claim: Claim) -> bool:
    """Whether the claim's value was computed, not estimated from a sample."""
    return bool(claim["interval"]) and claim["interval"]["exact"]


def is_registered(claim: Claim) -> bool:
    """Whether the model's deviations file names this claim, in this version, with the very verdict that it got."""
    registered = claim.get("registered")
    return registered is not None and bool(registered["matches"])


def is_changed(claim: Claim) -> bool:
    """Whether the model's deviations file names another verdict, or another version, than it got."""
    registered = claim.get("registered")
    return registered is not None and not registered["matches"]


def registration(claim: Claim) -> str:
    """Say what the deviations file has on the claim: `registered`, `registered as refuted`, or nothing to be said."""
    registered = claim.get("registered")
    if registered is None or (is_registered(claim) and verdict_of(claim) is Verdict.SUPPORTED):
        return ""
    return "registered" if is_registered(claim) else f"registered as {registered['verdict']}"


def words(claim: Claim) -> str:
    """The verdict for the terminal: `REFUTED`, `REFUTED (registered)` or `SUPPORTED (registered as refuted)`."""
    note = registration(claim)
    return f"{claim['verdict'].upper()} ({note})" if note else claim["verdict"].upper()


def counted(verdicts: Iterable[str]) -> dict[Verdict, int]:
    """How often each verdict fell, of those that did, in the order of the enumeration."""
    counts = Counter(verdicts)
    return {verdict: counts[verdict] for verdict in Verdict if counts[verdict]}


def tally(verdicts: Iterable[str]) -> str:
    """How many claims came out which way: `✓ 12 supported, ✗ 30 refuted`."""
    return ", ".join(f"{APPEARANCES[v].symbol} {count} {v}" for v, count in counted(verdicts).items())


def is_settled(claim: Claim) -> bool:
    """Whether the claim leaves the exit status at 0.

    Supported and unjudged claims do, and so does any verdict registered for the model. An entry that was
    registered under other conditions (other tokens, effort or dtype) cannot fail a run: there a changed verdict
    warns.
    """
    if not is_judged(claim) or verdict_of(claim) is Verdict.SUPPORTED or is_registered(claim):
        return True
    registered = claim.get("registered")
    return registered is not None and not registered.get("conditions_met", True)


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits and a true minus sign: `1.234`, `−0.0021`, `3.10e−06`."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    if 1e4 <= abs(value) < 1e6:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.{digits - 2}e}"
    return text.replace("-", "−")


def interval_name(claim: Claim) -> str:
    """`95% interval`, or the wider one that is read at one of several looks at the windows."""
    interval = claim.get("interval") or {}
    return interval_in_words(interval.get("level", 0.95), interval.get("looks", 1))


def interval_text(claim: Claim, digits: int = 4) -> str:
    """The 95% interval in brackets, or nothing where there is none.

    An end that so few digits would show as the threshold has more of them.
    """
    interval, threshold = claim.get("interval"), claim.get("threshold") or {}
    if not interval:
        return ""
    edges = [edge for edge in (threshold.get("lower"), threshold.get("upper")) if edge is not None]
    ends = (_beside(interval[end], edges, digits) for end in ("lower", "upper"))
    return f"[{', '.join(ends)}]"


def judgement_text(judgement: dict[str, Any]) -> str:
    """A part or a variant in words: `0.0412 [0.038, 0.0445], supported`, or why there is no estimate."""
    if judgement["estimate"] is None:
        return str(judgement["reason"])
    return f"{number(judgement['estimate'])} {interval_text(judgement)}".strip() + f", {judgement['verdict']}"


def _beside(value: float, edges: Sequence[float], digits: int) -> str:
    """A number with digits enough to be seen apart from the edges that it is not."""
    for enough in range(digits, MOST_DIGITS):
        text = number(value, enough)
        if all(value == edge or text != number(edge, enough) for edge in edges):
            return text
    return number(value, MOST_DIGITS)


def grouping(model: Mapping[str, Any]) -> str:
    """The deployed quantizer's group size in words, from a model's provenance; older runs had one alone."""
    return f"groups of {model.get('group_size', DEPLOYED.group_size)}"


def threshold_text(claim: Claim) -> str:
    """The registered threshold in words, with a true minus sign."""
    threshold = claim.get("threshold")
    return threshold["text"].replace("-", "−") if threshold else ""
