"""A claim's number line: its estimate and interval, against the registered threshold.

Written as SVG by hand: one takes microseconds, scales with the page and needs no picture file. The style sheet gives
the colours, the verdict's among them; every sign has a shape of its own, and the threshold says in words which side
is supported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from reports.verdict_words import Claim, interval_name, number, verdict_of

WIDTH, HEIGHT = 400, 82
MARGIN = 14
LINE_Y = 38
LABEL_Y, THRESHOLD_Y = 12, 75
CHARACTER = 6.3
"""Width of a character of the labels, on the safe side."""
GAP = 12
"""Between two labels, at least."""


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

    The shaded side is where the claim is supported; the capped bar is the 95% interval, the disc the estimate and the
    hollow diamond the untrained twin's estimate.
    """
    values = _values(claim)
    if claim.get("estimate") is None or not values:
        return ""
    low, high = min(values), max(values)
    # A tenth of room at both ends; a single value gets a line of its own size around it.
    room = 0.1 * (high - low) or 0.5 * abs(high) or 1.0
    scale = _Scale(low - room, high + room)
    verdict = verdict_of(claim).value.replace(" ", "-")
    parts = [
        f'<svg class="number-line {verdict}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_in_words(claim), quote=True)}">',
        *_threshold(claim, scale),
        f'<line class="axis" x1="{MARGIN}" y1="{LINE_Y}" x2="{WIDTH - MARGIN}" y2="{LINE_Y}"/>',
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
    parts = [f'<rect class="side" x="{start}" y="20" width="{round(end - start, 1)}" height="36"/>']
    for value in (lower, upper):
        if value is not None:
            parts.append(f'<line class="threshold" x1="{scale.x(value)}" y1="18" x2="{scale.x(value)}" y2="60"/>')
    if lower is not None and upper is not None:
        words = f"supported from {number(lower)} to {number(upper)}"
        parts.append(_text((start + end) / 2, THRESHOLD_Y, words, "middle", "label"))
    elif lower is not None:
        parts.append(_text(start, THRESHOLD_Y, f"supported above {number(lower)} ▸", "start", "label"))
    else:
        parts.append(_text(end, THRESHOLD_Y, f"◂ supported below {number(upper)}", "end", "label"))
    return parts


def _interval(claim: Claim, scale: _Scale) -> list[str]:
    interval = claim.get("interval")
    if interval is None:
        return []
    start, end = scale.x(interval["lower"]), scale.x(interval["upper"])
    caps = f"M{start},{LINE_Y - 6}v12M{end},{LINE_Y - 6}v12M{start},{LINE_Y}H{end}"
    return [f'<path class="bar" d="{caps}"/>']


def _estimate(claim: Claim, scale: _Scale) -> list[str]:
    x, words = scale.x(claim["estimate"]), number(claim["estimate"])
    return [
        f'<circle class="disc" cx="{x}" cy="{LINE_Y}" r="5.5"/>',
        _text(x, LABEL_Y, words, "middle", "value"),
    ]


def _twin(claim: Claim, scale: _Scale) -> list[str]:
    twin = claim.get("twin_estimate")
    if twin is None or not math.isfinite(twin):
        return []
    x, words = scale.x(twin), f"untrained {number(twin)}"
    diamond = f"{x},{LINE_Y - 6} {x + 6},{LINE_Y} {x},{LINE_Y + 6} {x - 6},{LINE_Y}"
    parts = [f'<polygon class="diamond" points="{diamond}"/>']
    # Where the two labels would run into each other the twin's is left out: the facts beside the line give it too.
    value = number(claim["estimate"])
    mine, left = _left(scale.x(claim["estimate"]), value, "middle"), _left(x, words, "middle")
    if left + len(words) * CHARACTER + GAP < mine or mine + len(value) * CHARACTER + GAP < left:
        parts.append(_text(x, LABEL_Y, words, "middle", "label"))
    return parts


def _text(x: float, y: float, words: str, anchor: str, kind: str) -> str:
    left = round(_left(x, words, anchor), 1)
    return f'<text class="{kind}" x="{left}" y="{y}">{escape(words)}</text>'


def _left(x: float, words: str, anchor: str) -> float:
    """Where a label begins: about `x` as its anchor says, and never cut off at an end."""
    width = len(words) * CHARACTER
    left = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
    return max(2.0, min(left, WIDTH - 2.0 - width))


def _in_words(claim: Claim) -> str:
    text = f"estimate {number(claim['estimate'])}"
    if interval := claim.get("interval"):
        text += f", {interval_name(claim)} {number(interval['lower'])} to {number(interval['upper'])}"
    if threshold := claim.get("threshold"):
        text += f", supported {threshold['text']}"
    if claim.get("twin_estimate") is not None:
        text += f", untrained twin {number(claim['twin_estimate'])}"
    return text
