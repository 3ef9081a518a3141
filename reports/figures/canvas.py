"""The paper every figure is drawn on: sizes, type, a title that states the finding, and the way to a PNG.

Matplotlib's object interface throughout: no pyplot, so no figure outlives its function and no global state changes.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

from reports.figures.palette import INK, MUTED, RULE

DPI = 160
WIDTH = 9.6
"""Inches: the report's width, half as many pixels again as it has on the page, for sharp type on fine screens."""
COLOURS = 256
"""Of a PNG's palette: flat shapes and smoothed type need no more, and the file shrinks to a third."""
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
class Picture:
    """A PNG and its size in pixels."""

    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Drawing:
    """A finished figure.

    Attributes:
        finding: what it found, its title.
        reading: what is drawn, and in which units.
        png: the picture, both of these on top of it.
        head: how many of its rows of pixels these two take, for a page that sets them in its own type.
    """

    finding: str
    reading: str
    png: bytes
    head: int = 0

    @cached_property
    def below_title(self) -> Picture:
        """The picture without its title."""
        with Image.open(io.BytesIO(self.png)) as whole:
            picture = whole.crop((0, self.head, whole.width, whole.height))
        buffer = io.BytesIO()
        picture.save(buffer, format="png")
        return Picture(buffer.getvalue(), picture.width, picture.height)


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
    title, small = _lines(finding, reading)
    total = height + _head(finding, reading)
    figure = Figure(figsize=(WIDTH, total), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    y = 1 - 8 / 72 / total
    figure.text(left, y, "\n".join(title), size=TITLE_SIZE, weight="bold", va="top", linespacing=1.25, parse_math=False)
    y -= len(title) * TITLE_SIZE * 1.28 / 72 / total + 3 / 72 / total
    figure.text(left, y, "\n".join(small), size=READING_SIZE, color=MUTED, va="top", linespacing=1.3, parse_math=False)
    return figure, height / total


def finish(figure: Figure, finding: str, reading: str) -> Drawing:
    """Render the figure, as a PNG with a palette, and let it go."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    figure.clear()
    buffer = io.BytesIO()
    # Without dithering: flat colours stay flat.
    palette = pixels.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(buffer, format="png")  # Pillow's optimize saves 7% of the bytes for eight times the time
    return Drawing(finding, reading, buffer.getvalue(), round(_head(finding, reading) * DPI))


def _lines(finding: str, reading: str) -> tuple[list[str], list[str]]:
    """The title and the small type, broken into lines."""
    return textwrap.wrap(finding, 82), textwrap.wrap(reading, 122)


def _head(finding: str, reading: str) -> float:
    """Inches that the title and the small type take: points to inches, with room between the lines."""
    title, small = _lines(finding, reading)
    return (len(title) * TITLE_SIZE * 1.28 + len(small) * READING_SIZE * 1.35 + 14) / 72


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
