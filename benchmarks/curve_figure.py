"""Figures of the curves of `benchmarks.curves`: seconds of the searches on logarithmic axes."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from reports.figures.canvas import Drawing, finish, paper, plain_numbers, style, times
from reports.figures.palette import AWQ, AWQ_LIGHT, MUTED, RTN

LINES = {
    "official": ("official search, replayed", RTN, "o"),
    "suite": ("the suite's search", AWQ, "D"),
    "gathering": ("of that, forward pass and second moments", AWQ_LIGHT, "v"),
}
AXES = {
    "tokens": ("tokens", "calibration tokens"),
    "width": ("width", "channels of the residual stream"),
    "depth": ("blocks", "blocks"),
}


def draw(record: dict[str, Any]) -> dict[str, Drawing]:
    """Draw a figure for every curve of a record, by the curve's name."""
    return {name: _figure(name, points, record) for name, points in record["curves"].items()}


def _figure(name: str, points: list[dict[str, float]], record: dict[str, Any]) -> Drawing:
    key, label = AXES[name]
    first, last = points[0], points[-1]
    finding = (
        f"From {first[key]:,} to {last[key]:,} {label}, seconds grow {times(last['official'] / first['official'])} "
        f"for the official search and {times(last['suite'] / first['suite'])} for the suite's, which is there "
        f"{last['official'] / last['suite']:.2f} times as fast"
    )
    fixed = {"tokens": "tokens", "width": "width", "blocks": "blocks"}
    fixed.pop(key)
    held = ", ".join(f"{word} {first[k]:,}" for k, word in fixed.items())
    threads = record["machine"]["threads"]
    reading = (
        f"Random models in Qwen2.5-0.5B's proportions, {held}; one precision. "
        f"{record['clock'].capitalize()} seconds on {threads} thread{'s' if threads > 1 else ''}, load average "
        f"{' to '.join(map(str, record['load']))}. The dashed line is proportional."
    )
    with style():
        figure, top = paper(finding, reading, 3.6)
        axes = figure.add_axes((0.07, 0.15 * top, 0.9, 0.8 * top))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        for line, (words, colour, marker) in LINES.items():
            axes.plot(
                [point[key] for point in points],
                [point[line] for point in points],
                color=colour,
                marker=marker,
                label=words,
            )
        _proportional(axes, [point[key] for point in points], first["official"])
        axes.set_xticks([point[key] for point in points])
        axes.set_xlabel(label)
        axes.set_ylabel("seconds")
        plain_numbers(axes.xaxis)
        plain_numbers(axes.yaxis)
        axes.grid(axis="y")
        axes.legend(loc="upper left")
        return finish(figure, finding, reading)


def _proportional(axes: Axes, x: list[float], start: float) -> None:
    axes.plot(x, [start * value / x[0] for value in x], color=MUTED, linestyle="--", linewidth=0.9)
