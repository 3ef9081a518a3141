"""One small figure per claim: its estimate and interval on a number line, against the registered threshold.

Written as SVG by hand: one takes microseconds, scales with the page and needs no picture file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from reports.verdict_words import APPEARANCES, Claim, number, verdict_of

WIDTH, HEIGHT = 420, 74
MARGIN = 14
LINE_Y = 34
SHADE = "#e3f1ea"
AXIS = "#8a929c"
TEXT = "#3d444d"
TWIN = "#6b7480"


@dataclass(frozen=True)
class _Scale:
    """A number line from `low` to `high`, drawn from margin to margin."""

    low: float
    high: float

    def x(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(MARGIN + min(max(share, 0.0), 1.0) * (WIDTH - 2 * MARGIN), 1)


def number_line(claim: Claim) -> str:
    """The claim's number line as an SVG element, or an empty string where there is nothing to place on it.

    The shaded side is where the claim is supported; the bar is the 95% interval, the filled disc the estimate and the
    hollow diamond the untrained twin's estimate.
    """
    values = _values(claim)
    if claim.get("estimate") is None or not values:
        return ""
    low, high = min(values), max(values)
    # A tenth of room at both ends; a single value gets a line of its own size around it.
    room = 0.1 * (high - low) or 0.5 * abs(high) or 1.0
    scale = _Scale(low - room, high + room)
    parts = [
        f'<svg class="number-line" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_in_words(claim), quote=True)}">',
        *_threshold(claim, scale),
        f'<line x1="{MARGIN}" y1="{LINE_Y}" x2="{WIDTH - MARGIN}" y2="{LINE_Y}" stroke="{AXIS}" stroke-width="1"/>',
        *_interval(claim, scale),
        *_twin(claim, scale),
        *_estimate(claim, scale),
        "</svg>",
    ]
    return "".join(parts)


def _values(claim: Claim) -> list[float]:
    interval, threshold = claim.get("interval") or {}, claim.get("threshold") or {}
    candidates = [
        claim.get("estimate"),
        claim.get("twin_estimate"),
        interval.get("lower"),
        interval.get("upper"),
        threshold.get("lower"),
        threshold.get("upper"),
    ]
    return [float(value) for value in candidates if value is not None and math.isfinite(value)]


def _threshold(claim: Claim, scale: _Scale) -> list[str]:
    threshold = claim.get("threshold")
    if threshold is None:
        return []
    lower, upper = threshold.get("lower"), threshold.get("upper")
    start = scale.x(lower) if lower is not None else MARGIN
    end = scale.x(upper) if upper is not None else WIDTH - MARGIN
    parts = [f'<rect x="{start}" y="14" width="{round(end - start, 1)}" height="40" fill="{SHADE}"/>']
    for value in (lower, upper):
        if value is not None:
            x = scale.x(value)
            parts.append(
                f'<line x1="{x}" y1="12" x2="{x}" y2="56" stroke="{TEXT}" stroke-width="1.2" stroke-dasharray="3 2"/>'
            )
            parts.append(_text(x, 68, f"threshold {number(value)}", TEXT))
    return parts


def _interval(claim: Claim, scale: _Scale) -> list[str]:
    interval = claim.get("interval")
    if interval is None:
        return []
    ink = APPEARANCES[verdict_of(claim)].ink
    start, end = scale.x(interval["lower"]), scale.x(interval["upper"])
    return [
        f'<rect x="{start}" y="{LINE_Y - 4}" width="{max(round(end - start, 1), 1)}" height="8" rx="2" '
        f'fill="{ink}" opacity="0.4"/>'
    ]


def _estimate(claim: Claim, scale: _Scale) -> list[str]:
    x, ink = scale.x(claim["estimate"]), APPEARANCES[verdict_of(claim)].ink
    return [
        f'<circle cx="{x}" cy="{LINE_Y}" r="5.5" fill="{ink}" stroke="#fff" stroke-width="1.5"/>',
        _text(x, 10, number(claim["estimate"]), ink, bold=True),
    ]


def _twin(claim: Claim, scale: _Scale) -> list[str]:
    twin = claim.get("twin_estimate")
    if twin is None or not math.isfinite(twin):
        return []
    x = scale.x(twin)
    diamond = f"{x},{LINE_Y - 6} {x + 6},{LINE_Y} {x},{LINE_Y + 6} {x - 6},{LINE_Y}"
    parts = [f'<polygon points="{diamond}" fill="#fff" stroke="{TWIN}" stroke-width="1.8"/>']
    # Where the two estimates lie close together the twin's label would run into the estimate's: the row says it too.
    if abs(x - scale.x(claim["estimate"])) > 90:
        parts.append(_text(x, 10, f"untrained {number(twin)}", TWIN))
    return parts


def _text(x: float, y: float, text: str, colour: str, *, bold: bool = False) -> str:
    # Near an end the text leans inwards, so that it is not cut off.
    anchor = "start" if x < 60 else "end" if x > WIDTH - 60 else "middle"
    weight = ' font-weight="700"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="11" fill="{colour}"{weight}>{escape(text)}</text>'


def _in_words(claim: Claim) -> str:
    text = f"estimate {number(claim['estimate'])}"
    if interval := claim.get("interval"):
        text += f", 95% interval {number(interval['lower'])} to {number(interval['upper'])}"
    if threshold := claim.get("threshold"):
        text += f", supported {threshold['text']}"
    if claim.get("twin_estimate") is not None:
        text += f", untrained twin {number(claim['twin_estimate'])}"
    return text
