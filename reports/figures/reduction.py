"""Figures 7, 8 and 9: what AWQ gains, linear by linear, family by family, model by model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm

from awq_core.measured import Measured
from reports.figures.canvas import Drawing, block_ticks, finish, paper, percent, plain_numbers, times
from reports.figures.error import quantizer_words
from reports.figures.palette import GAIN_SHADES, INK, MUTED, family_colour, family_marker
from reports.linears import Array, Linears

BITS = 3
"""AWQ-Diag's reading; the claims are judged at 4 bits as well."""
WORTH_NAMING = 0.05
"""The catalogue's threshold for the benefit's place (`localization.benefit-mean`): less is not called more."""
READ_AS = (
    "Reduction of the squared output error, e(RTN) / e(AWQ), at 3 bits on held-out tokens, each linear's exponent "
    "chosen on calibration tokens."
)
GAINS = 1.01
"""The reduction from which `payoff.most-layers` counts a linear as gaining."""
NUMBERS_FIT = 14
"""Blocks up to which the map has room for the numbers themselves."""


def reduction_by_linear(measured: Measured) -> Drawing:
    """A map of families by blocks for both quantizers: which linears AWQ helps, and how much."""
    linears = Linears(measured)
    deployed = linears.reduction(linears.deployed, BITS)
    best = int(np.argmax(deployed))
    finding = (
        f"{percent(float((deployed > GAINS).mean()))} of linears gain more than 1% at 3 bits; most gains "
        f"{linears.where(best)}, {times(deployed[best])}"
    )
    if deployed.min() < 0.99:
        worst = int(np.argmin(deployed))
        finding += f", and {linears.where(worst)} loses ({times(deployed[worst])})"
    reading = READ_AS + " 1× is no change."
    families, blocks = linears.family_order, sorted(set(linears.blocks.tolist()))
    height = 1.1 + 0.33 * len(families)
    figure, top = paper(finding, reading, height)
    words = quantizer_words(measured)
    reductions = {quantizer: linears.reduction(quantizer, BITS) for quantizer in words}
    # One scale for both maps, in logarithms: halving the error is as far from 1 as doubling it. The 98th
    # percentile keeps one extreme linear from bleaching all others; it is drawn in the darkest shade.
    logs = np.log2(np.concatenate(list(reductions.values())))
    norm = TwoSlopeNorm(0.0, min(-0.15, float(logs.min())), max(0.3, float(np.percentile(logs, 98))))
    for place, (quantizer, values) in enumerate(reductions.items()):
        axes = figure.add_axes((0.07 + 0.475 * place, 0.55 / height * top, 0.44, 1 * top - 0.95 / height * top))
        _map(axes, linears, values, families, blocks, norm)
        axes.tick_params(labelleft=place == 0)
        axes.set_title(words[quantizer])
    return finish(figure, finding, reading)


def _map(
    axes: Axes, linears: Linears, values: Array, families: list[str], blocks: list[int], norm: TwoSlopeNorm
) -> None:
    grid = np.full((len(families), len(blocks)), np.nan)
    for value, family, block in zip(values, linears.families, linears.blocks, strict=True):
        grid[families.index(family), blocks.index(block)] = value
    shades = colormaps[GAIN_SHADES]
    x, y = np.arange(len(blocks) + 1) - 0.5, np.arange(len(families) + 1) - 0.5
    axes.pcolormesh(x, y, np.ma.masked_invalid(np.log2(grid)), cmap=shades, norm=norm, edgecolors="white", lw=1.2)
    axes.set_ylim(len(families) - 0.5, -0.5)
    axes.set_yticks(range(len(families)), families)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    block_ticks(axes, blocks, at=[float(place) for place in range(len(blocks))])
    if len(blocks) > NUMBERS_FIT:
        return
    for row, column in np.ndindex(grid.shape):
        if np.isfinite(grid[row, column]):
            red, green, blue, _ = shades(norm(np.log2(grid[row, column])))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = f"{grid[row, column]:.2f}" if grid[row, column] < 9.95 else f"{grid[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", size=8.5, color="white" if dark else INK)


def reduction_by_family(measured: Measured) -> Drawing:
    """Every linear's reduction by family, with mean and median: they can tell different stories."""
    linears = Linears(measured)
    deployed = linears.reduction(linears.deployed, BITS)
    finding = _mean_and_median(linears, deployed)
    reading = READ_AS + " Points: linears; bar: their mean; dashed: their median."
    figure, top = paper(finding, reading, 3.9)
    left: Axes | None = None
    words = quantizer_words(measured)
    for place, (quantizer, title) in enumerate(words.items()):
        axes = figure.add_axes((0.07 + 0.475 * place, 0.1 * top, 0.44, 0.8 * top), sharey=left)
        left = left or axes
        _families(axes, linears, linears.reduction(quantizer, BITS))
        _ratio_ticks(axes, np.concatenate([linears.reduction(name, BITS) for name in words]))
        axes.tick_params(labelleft=place == 0)
        axes.set_title(title)
    return finish(figure, finding, reading)


def _families(axes: Axes, linears: Linears, values: Array) -> None:
    """One column per family on a logarithmic scale of ratios; bars grow from 1, no change."""
    axes.set_yscale("log")
    for place, family in enumerate(linears.family_order):
        mine = values[linears.families == family]
        colour = family_colour(family)
        axes.bar(place, mine.mean() - 1, bottom=1, width=0.66, color=colour, alpha=0.38, lw=0, zorder=1.5)
        axes.plot([place - 0.33, place + 0.33], [mine.mean()] * 2, color=colour, lw=2.6, zorder=3)
        axes.plot([place - 0.33, place + 0.33], [np.median(mine)] * 2, color="white", lw=4.2, zorder=3.2)
        axes.plot([place - 0.33, place + 0.33], [np.median(mine)] * 2, color=INK, lw=1.4, ls=(0, (2, 1)), zorder=3.3)
        spread = np.linspace(-0.24, 0.24, len(mine)) if len(mine) > 1 else np.zeros(1)
        size = 5 if len(mine) < 15 else 3.5
        axes.plot(place + spread, mine, family_marker(family), color=colour, ms=size, mec="white", mew=0.5, zorder=4)
    axes.axhline(1, color=MUTED, lw=0.9, zorder=1)
    axes.set_xticks(range(len(linears.family_order)), linears.family_order)
    axes.tick_params(axis="x", length=0, labelsize=10.5, labelcolor=INK)


def _ratio_ticks(axes: Axes, values: Array) -> None:
    low, high = min(0.97, float(values.min()) * 0.97), max(1.1, float(values.max()) * 1.06)
    ticks = [0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.75, 2, 2.5, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100]
    shown = [tick for tick in ticks if low <= tick <= high]
    while len(shown) > 9:
        # 1 stays: it is where nothing changes.
        shown = [tick for place, tick in enumerate(shown) if tick == 1 or (place - shown.index(1)) % 2 == 0]
    plain_numbers(axes.yaxis)
    axes.set_yticks(shown, [f"{tick:g}×" for tick in shown])
    axes.set_yticks([], minor=True)
    axes.set_ylim(low, high)
    axes.grid(axis="y")


def _mean_and_median(linears: Linears, values: Array) -> str:
    def highest(statistic: str) -> tuple[str, float]:
        by_family = {f: float(getattr(np, statistic)(values[linears.families == f])) for f in linears.family_order}
        family = max(by_family, key=lambda name: by_family[name])
        return family, by_family[family]

    (mean_family, mean), (median_family, median) = highest("mean"), highest("median")
    if mean_family == median_family:
        return f"{mean_family} gains most, by mean ({times(mean)}) and by median ({times(median)})"
    return (
        f"Mean and median tell different stories: by mean {mean_family} gains most ({times(mean)}), by median "
        f"{median_family} ({times(median)})"
    )


def reduction_across_models(all_measured: Sequence[Measured]) -> Drawing:
    """The benefit by family, one panel per model, on one scale."""
    tables = [Linears(measured) for measured in all_measured]
    finding = _across(tables)
    quantizers = " and ".join(dict.fromkeys(table.deployed for table in tables))
    reading = f"{READ_AS} {quantizers}. Points: linears; bar: their mean; dashed: their median."
    columns = min(4, len(tables))
    rows = -(-len(tables) // columns)
    figure, top = paper(finding, reading, 3.4 * rows)
    width, height = 0.93 / columns, top / rows
    first: Axes | None = None
    everything = np.concatenate([table.reduction(table.deployed, BITS) for table in tables])
    for place, table in enumerate(tables):
        row, column = divmod(place, columns)
        axes = figure.add_axes(
            (0.06 + column * width, top - (row + 1) * height + 0.11 * height, width - 0.03, 0.77 * height), sharey=first
        )
        first = first or axes
        _families(axes, table, table.reduction(table.deployed, BITS))
        _ratio_ticks(axes, everything)
        axes.tick_params(labelleft=column == 0)
        axes.set_title(f"{table.measured.name} ({_millions(table.measured.parameters)})")
        if columns > 2:
            axes.tick_params(axis="x", labelsize=8.5)
    return finish(figure, finding, reading)


def _millions(parameters: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if parameters >= 0.95 * size:
            return f"{parameters / size:.2g}{unit} parameters"
    return f"{parameters / 1e3:.0f}k parameters"


def _across(tables: Sequence[Linears]) -> str:
    gains = []
    for table in tables:
        values = table.reduction(table.deployed, BITS)
        if table.behind.any() and not table.behind.all():
            gains.append((float(values[table.behind].mean()), float(values[~table.behind].mean())))
    words = tables[0].behind_words
    if not gains:
        return "AWQ's benefit by family across models"
    if len(tables) == 1:
        (mine, rest), name = gains[0], tables[0].measured.name
        return (
            f"On {name}, the only model measured, {words} gain {times(mine)} on average and the rest {times(rest)}: "
            "measure another size to compare"
        )
    holds = sum(mine - rest > WORTH_NAMING for mine, rest in gains)
    parts = ", ".join(f"{times(mine)} against {times(rest)}" for mine, rest in gains[:4])
    return f"{words} gain over {WORTH_NAMING} more than the rest in {holds} of {len(gains)} models (mean {parts})"
