"""Figure 1: sorted channel importance. A few channels dominate where the curve has a hockey stick's shape."""

from __future__ import annotations

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from awq_core.measure.layers.importance import salient_count
from awq_core.measured import Measured
from reports.figures.canvas import Drawing, finish, paper, percent, times
from reports.figures.palette import FAINT, INK, MUTED, RULE, family_colour
from reports.linears import Array, Linears

POINTS = 400
"""Points drawn of a background curve; more cannot be seen."""
LINES = {"most concentrated": "-", "typical (median)": "--", "least concentrated": ":"}


def hockey_stick(measured: Measured) -> Drawing:
    """Every linear's importance, sorted and over its median; the most concentrated and a typical one stand out."""
    linears = Linears(measured)
    enrichment, share = linears.enrichment(), linears.top_share()
    # Where some are too narrow for an enrichment, only the others can be ranked by it.
    comparable = np.flatnonzero(np.isfinite(enrichment)) if np.isfinite(enrichment).any() else np.arange(len(share))
    ranked = enrichment if np.isfinite(enrichment).any() else share
    order = comparable[np.argsort(ranked[comparable], kind="stable")]
    most, typical, least = int(order[-1]), int(order[len(order) // 2]), int(order[0])
    finding = _finding(linears, enrichment, share, most)
    reading = (
        f"Importance |W|·|x| of each input channel over the linear's median, largest first, on held-out tokens; one "
        f"line for each of {len(linears.names)} linears. Dots are the top 1% of channels."
    )
    figure, top = paper(finding, reading, 4.3)
    axes = figure.add_axes((0.07, 0.12 * top, 0.66, 0.84 * top))
    axes.set_yscale("log")
    curves = [_curve(linears.importance(index)) for index in range(len(linears.names))]
    axes.add_collection(
        LineCollection(
            [np.column_stack(_thinned(x, y)) for x, y in curves], colors=FAINT, linewidths=0.6, alpha=0.6, zorder=1
        )
    )
    lowest = [y[int(0.97 * len(y))] for _, y in curves]
    # The last few channels may be all but dead: they would stretch the axis without a word to say.
    axes.set_ylim(max(min(lowest) * 0.6, 1e-4), max(y[0] for _, y in curves) * 1.4)
    axes.set_xlim(-1, 101)
    shown = list(zip((most, typical, least), LINES, (0.93, 0.66, 0.39), strict=True))
    for index, role, height in shown if len(order) > 2 else shown[:1]:
        x, y = curves[index]
        colour = family_colour(str(linears.families[index]))
        (line,) = axes.plot(x, y, color=colour, lw=2.2, ls=LINES[role], zorder=3)
        count = salient_count(len(y))
        axes.plot(x[:count], y[:count], "o", color=colour, ms=6, mec="white", mew=0.8, zorder=4, clip_on=False)
        _label(figure, height * top + 0.03, role, _in_words(linears, index, share, enrichment), line)
    axes.axhline(1, color=RULE, lw=1, zorder=0)
    axes.annotate(
        "median channel", (100, 1), xytext=(0, 3), textcoords="offset points", ha="right", color=MUTED, size=8.5
    )
    axes.set_xlabel("channels, sorted by importance (% of the linear's channels)")
    axes.set_ylabel("importance / median importance")
    low, high = axes.get_ylim()
    # One, two and five in each decade; only one where there are many decades.
    steps = (1, 2, 5) if high / low < 300 else (1,)
    ticks = [step * 10.0**power for power in range(-5, 7) for step in steps if low <= step * 10.0**power <= high]
    axes.set_yticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.grid(axis="y")
    return finish(figure, finding, reading)


def _finding(linears: Linears, enrichment: Array, share: Array, most: int) -> str:
    judged = enrichment[np.isfinite(enrichment)]
    if not len(judged):
        return (
            f"The top channel of {linears.where(most)} holds {percent(share[most])} of its importance; "
            "widths under 64 are too narrow to speak of a top 1%"
        )
    return (
        f"The top 1% of channels hold {percent(share[most])} of the importance in {linears.where(most)}, "
        f"{times(enrichment[most])} their share; in a typical linear {times(float(np.median(judged)))}"
    )


def _curve(importance: Array) -> tuple[Array, Array]:
    """Rank in percent and importance over the median, largest first."""
    values = np.sort(importance)[::-1]
    median = np.median(values)
    values = values / (median if median > 0 else 1.0)
    x = 100 * (np.arange(len(values)) + 0.5) / len(values)
    return x, np.maximum(values, 1e-12)


def _thinned(x: Array, y: Array) -> tuple[Array, Array]:
    """Fewer points of a long curve, dense where it bends."""
    if len(x) <= POINTS:
        return x, y
    chosen = np.unique(np.geomspace(1, len(x), POINTS).astype(int) - 1)
    return x[chosen], y[chosen]


def _label(figure: Figure, y: float, role: str, text: str, line: Line2D) -> None:
    """One entry of the legend at the right: the line's look, its role, and what it measures."""
    figure.add_artist(
        Line2D(
            [0.755, 0.785],
            [y, y],
            color=line.get_color(),
            lw=2.2,
            ls=line.get_linestyle(),
            transform=figure.transFigure,
        )
    )
    figure.text(0.795, y, role, size=9.5, weight="bold", color=INK, va="center")
    figure.text(0.795, y - 0.03, text, size=9.5, color=MUTED, va="top", linespacing=1.35)


def _in_words(linears: Linears, index: int, share: Array, enrichment: Array) -> str:
    text = f"{linears.where(index)}\ntop 1% hold {percent(share[index])}"
    return text + (f"\n= {times(enrichment[index])} their share" if np.isfinite(enrichment[index]) else "")
