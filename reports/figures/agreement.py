"""Whether two records agree on which layers stand out: one quantity, layer by layer, theirs against ours."""

from __future__ import annotations

import numpy as np

from reports.compare.layers import QUANTITIES, Correlation, LayerPair
from reports.figures.canvas import Drawing, finish, paper, plain_numbers
from reports.figures.palette import MUTED, family_colour, family_marker
from reports.verdict_words import number

NEAR_ZERO = 0.5
"""Where some values are not positive, axes are linear up to here."""
SYMLOG_WORDS = f"Axes are logarithmic beyond {NEAR_ZERO:g} and linear around 0."
STRETCHED = 8
"""The largest value over the median, beyond which axes are logarithmic."""


def agreement(pair: LayerPair, found: Correlation) -> Drawing:
    """A scatter of one quantity in both records, a colour and a marker for each family."""
    finding = _finding(found)
    what = "layer" if pair.by_name else "family in one third of the depth (median)"
    reading = f"{QUANTITIES[found.quantity]}; one point for each {what}. On the dashed line both records say the same."
    values = np.array([[point.first, point.second] for point in found.points])
    scale = _scale(values)
    reading += {"linear": "", "log": " Axes are logarithmic.", "symlog": f" {SYMLOG_WORDS}"}[scale]
    figure, top = paper(finding, reading, 4.6)
    axes = figure.add_axes((0.09, 0.13 * top, 0.66, 0.83 * top))
    for family in dict.fromkeys(point.family for point in found.points):
        mine = [point for point in found.points if point.family == family]
        short = family.removesuffix("_proj")
        x, y = [point.first for point in mine], [point.second for point in mine]
        label = f"{short} ({len(mine)})"
        axes.scatter(
            *(x, y), s=34, color=family_colour(short), marker=family_marker(short), alpha=0.85, lw=0, label=label
        )
    low, high = float(values.min()), float(values.max())
    axes.plot([low, high], [low, high], ls="--", lw=1, color=MUTED, zorder=0)
    options = {"linthresh": NEAR_ZERO} if scale == "symlog" else {}
    axes.set_xscale(scale, **options)
    axes.set_yscale(scale, **options)
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
    axes.grid()
    axes.set_xlabel(f"A: {pair.first['model']}", parse_math=False)
    axes.set_ylabel(f"B: {pair.second['model']}", parse_math=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), title="family", alignment="left")
    return finish(figure, finding, reading)


def _finding(found: Correlation) -> str:
    what = QUANTITIES[found.quantity].partition(",")[0]
    if found.rho is None:
        return f"Of {what} there are too few points, or no variation, to rank"
    return f"Spearman's rho {number(found.rho, 2)} between the two on which layers rank high in {what}"


def _scale(values: np.ndarray) -> str:
    """Logarithmic where a few values would squeeze all others into a corner of plain axes."""
    sizes = np.abs(values)
    if sizes.max() <= STRETCHED * np.median(sizes):
        return "linear"
    return "log" if values.min() > 0 else "symlog"
