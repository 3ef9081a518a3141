"""A claim's number line: its estimate and interval, against the registered threshold.

Drawn as SVG by a template: it scales with the page and needs no picture file. The style sheet gives the colours, the
verdict's among them; every sign has a shape of its own, and the threshold says in words which side is supported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from reports.verdict_words import Claim, interval_name, number

WIDTH, HEIGHT = 400, 82
MARGIN = 14
LABEL_Y, LINE_Y, THRESHOLD_Y = 12, 38, 75
CHARACTER = 6.3
"""Width of a character of the labels, on the safe side."""
GAP = 12
"""Between two labels, at least."""


@dataclass(frozen=True)
class Label:
    """Words on a number line, from `x` to the right; `kind` is value or label, for the style sheet."""

    x: float
    y: float
    words: str
    kind: str = "label"

    @property
    def end(self) -> float:
        """Where the words end, at most."""
        return self.x + len(self.words) * CHARACTER


@dataclass(frozen=True)
class NumberLine:
    """Where everything stands on a claim's number line, in units of a picture `WIDTH` by `HEIGHT`.

    Attributes:
        in_words: the same for those who do not see it.
        estimate: the disc.
        interval: the ends of the capped bar; None without an interval.
        twin: the hollow diamond, the untrained twin's estimate; None without one.
        supported: the ends of the shaded side; None without a threshold.
        thresholds: the dashed lines.
        labels: of the estimate, the twin and the threshold.
    """

    in_words: str
    estimate: float
    interval: tuple[float, float] | None
    twin: float | None
    supported: tuple[float, float] | None
    thresholds: list[float]
    labels: list[Label]
    size = (WIDTH, HEIGHT)
    margin = MARGIN
    y = LINE_Y


def number_line(claim: Claim) -> NumberLine | None:
    """Place the claim's numbers on a line; None where there is no estimate to place."""
    interval, threshold = claim["interval"] or {}, claim["threshold"] or {}
    ends, edges = [
        [float(value) for end in ("lower", "upper") if (value := pair.get(end)) is not None]
        for pair in (interval, threshold)
    ]
    estimate, twin = claim["estimate"], claim["twin_estimate"]
    values = [value for value in (estimate, twin, *ends, *edges) if value is not None and math.isfinite(value)]
    if estimate is None or not values:
        return None
    # A tenth of room at both ends; a single value gets a line of its own size around it.
    room = 0.1 * (max(values) - min(values)) or 0.5 * abs(max(values)) or 1.0
    low, high = min(values) - room, max(values) + room

    def x(value: float) -> float:
        share = (value - low) / (high - low)
        return round(MARGIN + min(max(share, 0.0), 1.0) * (WIDTH - 2 * MARGIN), 1)

    labels = [_label(x(estimate), LABEL_Y, number(estimate), 0.5, "value")]
    if twin is not None and math.isfinite(twin):
        label = _label(x(twin), LABEL_Y, f"untrained {number(twin)}", 0.5)
        # Where the two labels would run into each other the twin's is left out: the facts beside the line give it too.
        if label.end + GAP < labels[0].x or labels[0].end + GAP < label.x:
            labels.append(label)
    else:
        twin = None
    supported = None
    if threshold:
        lower, upper = threshold["lower"], threshold["upper"]
        supported = (MARGIN if lower is None else x(lower), WIDTH - MARGIN if upper is None else x(upper))
        if lower is not None and upper is not None:
            words, at, share = f"supported from {number(lower)} to {number(upper)}", sum(supported) / 2, 0.5
        elif lower is not None:
            words, at, share = f"supported above {number(lower)} ▸", supported[0], 0.0
        else:
            words, at, share = f"◂ supported below {number(upper)}", supported[1], 1.0
        labels.append(_label(at, THRESHOLD_Y, words, share))
    return NumberLine(
        _in_words(claim),
        x(estimate),
        (x(ends[0]), x(ends[1])) if ends else None,
        None if twin is None else x(twin),
        supported,
        [x(edge) for edge in edges],
        labels,
    )


def _label(x: float, y: float, words: str, share: float, kind: str = "label") -> Label:
    """Words with `share` of their width left of `x`, and never cut off at an end of the line."""
    width = len(words) * CHARACTER
    return Label(round(max(2.0, min(x - share * width, WIDTH - 2.0 - width)), 1), y, words, kind)


def _in_words(claim: Claim) -> str:
    text = f"estimate {number(claim['estimate'])}"
    if interval := claim["interval"]:
        text += f", {interval_name(claim)} {number(interval['lower'])} to {number(interval['upper'])}"
    if threshold := claim["threshold"]:
        text += f", supported {threshold['text']}"
    if claim["twin_estimate"] is not None:
        text += f", untrained twin {number(claim['twin_estimate'])}"
    return text
