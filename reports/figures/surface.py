"""Figures 2 and 3: the importance of every channel in every block, as a landscape in three dimensions."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection
from numpy.typing import NDArray

from awq_core.measure.layers.importance import salient_channels
from awq_core.measured import Measured
from reports.figures.canvas import Drawing, finish, paper, times
from reports.figures.palette import INK, RULE, family_colour
from reports.linears import Array, Linears

BINS = 256
"""Channels drawn per block; where there are more, neighbours share a place and the largest of them shows."""


def importance_surface(measured: Measured, family: str) -> Drawing | None:
    """One ridge per block, its height the channel's importance over the block's median; None without the family."""
    linears = Linears(measured)
    chosen = np.flatnonzero(linears.families == family)
    if not len(chosen):
        return None
    chosen = chosen[np.argsort(linears.blocks[chosen], kind="stable")]
    heights = [_over_median(linears.importance(int(index))) for index in chosen]
    tallest = int(np.argmax([height.max() for height in heights]))
    finding = _finding(linears, family, chosen, heights, tallest)
    reading = (
        f"Importance |W|·|x| of each input channel of {family} over the median of its block, on held-out tokens; "
        "one ridge per block, dots on the top 1% of channels. "
    )
    if len(heights[0]) > BINS:
        reading += f"{len(heights[0]):,} channels in {BINS} places: the largest of each place shows."
    figure, top = paper(finding, reading, 5.0)
    axes = figure.add_axes((-0.03, -0.07 * top, 1.06, 1.22 * top), projection="3d", computed_zorder=False)
    assert isinstance(axes, Axes3D)
    _ridges(axes, linears, family, chosen, heights)
    return finish(figure, finding, reading)


def _finding(linears: Linears, family: str, chosen: NDArray[np.intp], heights: list[Array], tallest: int) -> str:
    block = linears.blocks[chosen[tallest]]
    channel, height = int(np.argmax(heights[tallest])), float(heights[tallest].max())
    peaks = [int(np.argmax(values)) for values in heights]
    same = max(peaks.count(peak) for peak in set(peaks))
    finding = (
        f"{family}'s tallest tower, block {block}'s channel {channel}, stands {times(height)} over its block's median"
    )
    if len(heights) > 1:
        median = float(np.median([values.max() for values in heights]))
        finding += f"; the typical block's tallest {times(median)}"
        if same > 1:
            finding += f", and one channel is the tallest in {same} of {len(heights)} blocks"
        else:
            finding += ", on another channel in every block"
    return finding


def _over_median(values: Array) -> Array:
    median = float(np.median(values))
    return values / (median if median > 0 else 1.0)


def _binned(values: Array) -> tuple[Array, Array]:
    """Channel positions and heights, at most `BINS` of them: the largest of each run of neighbours."""
    if len(values) <= BINS:
        return np.arange(len(values), dtype=float), values
    edges = np.linspace(0, len(values), BINS + 1).astype(int)[:-1]
    return edges.astype(float), np.maximum.reduceat(values, edges)


def _ridges(axes: Axes3D, linears: Linears, family: str, chosen: NDArray[np.intp], heights: list[Array]) -> None:
    """Draw from the back to the front, so that a nearer ridge hides a farther one."""
    colour = np.array(to_rgb(family_colour(family)))
    count = len(chosen)
    ceiling = max(float(values.max()) for values in heights)
    for place, (index, values) in enumerate(zip(chosen[::-1], heights[::-1], strict=True)):
        y = float(linears.blocks[index])
        x, z = _binned(values)
        # Farther ridges are paler, as in air; black would swallow its own outline, so the fill is lightened.
        depth = place / max(count - 1, 1)
        face = colour + (1 - colour) * (0.78 - 0.34 * depth)
        outline = np.column_stack((x, np.full_like(x, y), z))
        ground = np.array([[x[-1], y, 0.0], [x[0], y, 0.0]])
        order = 3 * place + 2
        axes.add_collection3d(
            Poly3DCollection([np.vstack((outline, ground))], facecolors=[face], edgecolors="none", zorder=order),
            autolim=False,
        )
        axes.add_collection3d(
            Line3DCollection([outline], colors=[colour * 0.85], linewidths=0.8, zorder=order + 1), autolim=False
        )
        salient = salient_channels(values)[:40]
        axes.plot(
            salient, np.full(len(salient), y), values[salient], ".", color=colour, ms=6, mec="white", mew=0.4,
            zorder=order + 2,
        )  # fmt: skip
    _dress(axes, [int(linears.blocks[index]) for index in chosen], len(heights[0]), ceiling)


def _dress(axes: Axes3D, blocks: list[int], width: int, ceiling: float) -> None:
    axes.set_xlim(0, width)
    axes.set_ylim(min(blocks) - 0.5, max(blocks) + 0.5)
    axes.set_zlim(0, ceiling * 1.02)
    step = max(1, -(-len(blocks) // 10))
    axes.set_yticks(blocks[::step], [str(block) for block in blocks[::step]])
    axes.set_xlabel("input channel", labelpad=10)
    axes.set_ylabel("block", labelpad=8)
    axes.set_zlabel("importance / median", labelpad=4, color=INK)
    axes.zaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.set_box_aspect((2.3, 1.15, 1.0), zoom=1.18)
    axes.view_init(elev=24, azim=-68)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1.0, 1.0, 1.0, 0.0))
        axis.line.set_color(RULE)
        axis._axinfo["grid"].update(color=RULE, linewidth=0.5)
