"""The paper every figure is drawn on: sizes, type, a title that states the finding, and the way to a PNG.

Matplotlib's object interface throughout: no pyplot, so no figure outlives its function and no global state changes.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from reports.figures.palette import INK, MUTED, RULE

DPI = 110
WIDTH = 9.6
"""Inches: 1056 pixels, the report's width."""
TITLE_SIZE = 13.0
READING_SIZE = 9.5
_STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.color": INK,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Drawing:
    """A finished figure: what it found, how to read it, and its picture."""

    finding: str
    reading: str
    png: bytes


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings for the project's figures, put back afterwards."""
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def paper(finding: str, reading: str, height: float, *, left: float = 0.07) -> tuple[Figure, float]:
    """An empty figure under its title.

    Args:
        finding: the sentence that the data support, the figure's title.
        reading: what is drawn and in which units, in small type below it.
        height: inches below the title.
        left: where the title starts, as a share of the width.

    Returns:
        The figure, and the share of its height that lies below the title: the axes' upper limit.
    """
    title = textwrap.wrap(finding, 82)
    small = textwrap.wrap(reading, 122)
    # Points to inches, with room between the lines.
    head = (len(title) * TITLE_SIZE * 1.28 + len(small) * READING_SIZE * 1.35 + 14) / 72
    total = height + head
    figure = Figure(figsize=(WIDTH, total), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    y = 1 - 8 / 72 / total
    figure.text(left, y, "\n".join(title), size=TITLE_SIZE, weight="bold", va="top", linespacing=1.25, parse_math=False)
    y -= len(title) * TITLE_SIZE * 1.28 / 72 / total + 3 / 72 / total
    figure.text(left, y, "\n".join(small), size=READING_SIZE, color=MUTED, va="top", linespacing=1.3, parse_math=False)
    return figure, height / total


def finish(figure: Figure, finding: str, reading: str) -> Drawing:
    """Render the figure and let it go."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    figure.clear()
    return Drawing(finding, reading, buffer.getvalue())


def plain_numbers(axis: Any) -> None:
    """Ticks as plain decimals (`0.5`, `20`) where a scale would write powers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def percent(value: float) -> str:
    """A share as percent with the digits it deserves: `12%`, `1.8%`, `0.04%`."""
    shown = 100 * value
    digits = 0 if abs(shown) >= 9.95 else 1 if abs(shown) >= 0.95 else 2
    return f"{shown:.{digits}f}%".replace("-", "−")


def times(value: float) -> str:
    """A ratio: `38×`, `2.3×`, `1.04×`."""
    digits = 0 if abs(value) >= 19.5 else 1 if abs(value) >= 1.95 else 2
    return f"{value:.{digits}f}×".replace("-", "−")


def block_ticks(axes: Axes, blocks: list[int], *, at: list[float] | None = None) -> None:
    """Whole block numbers on the x axis, at most a dozen of them."""
    positions = at if at is not None else [float(block) for block in blocks]
    step = max(1, -(-len(blocks) // 12))
    axes.set_xticks(positions[::step], [str(block) for block in blocks[::step]])
    axes.set_xlabel("block")
