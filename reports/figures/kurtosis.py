"""Figures 4 and 5: where heavy tails live, by block and by family, beside a network that has learned nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from awq_core.measured import Measured
from reports.figures.canvas import Drawing, block_ticks, finish, paper, plain_numbers, times
from reports.figures.palette import INK, MUTED, TWIN, family_colour, family_marker
from reports.linears import Array, Linears

KURTOSIS_FLOOR = 0.05
"""The floor that `localization.kurtosis` puts under both means before it takes their ratio."""
LINEAR_BELOW = 1.0
"""Kurtosis is drawn linearly up to here and by powers of ten beyond: it lies near 0 here and far above it there."""


def kurtosis_by_block(measured: Measured) -> Drawing:
    """Mean excess kurtosis of each input site, block by block; the untrained twins' dashed in the same colour."""
    linears = Linears(measured)
    finding = _ratio_sentence(measured, linears)
    reading = (
        "Mean over channels of the excess kurtosis (a Gaussian has 0), pooled over held-out tokens, of each input. "
    )
    if measured.twins:
        reading += "Dashed: the same network untrained, " + (
            "one draw." if len(measured.twins) == 1 else f"mean and range of {len(measured.twins)} draws."
        )
    figure, top = paper(finding, reading, 3.9)
    axes = figure.add_axes((0.07, 0.13 * top, 0.72, 0.83 * top))
    blocks = sorted(set(linears.blocks.tolist()))
    ends: list[tuple[float, str, str]] = []
    kurtosis = linears.kurtosis()
    for role in dict.fromkeys(linears.roles.tolist()):
        families = list(dict.fromkeys(linears.families[linears.roles == role].tolist()))
        colour, marker = family_colour(families[0]), family_marker(families[0])
        values = _by_block(linears, role, kurtosis, blocks)
        axes.plot(blocks, values, color=colour, marker=marker, ms=7, lw=2, mec="white", mew=0.8, zorder=3)
        ends.append((float(values[-1]), ", ".join(families), colour))
        if measured.twins:
            draws = np.array([_by_block(twin, role, twin.kurtosis(), blocks) for twin in map(Linears, measured.twins)])
            axes.plot(blocks, draws.mean(axis=0), color=colour, lw=1.3, ls=(0, (4, 2)), zorder=2)
            if len(draws) > 1:
                axes.fill_between(blocks, draws.min(axis=0), draws.max(axis=0), color=colour, alpha=0.13, lw=0)
    _kurtosis_axis(axes)
    block_ticks(axes, blocks)
    margin = 0.35 if len(blocks) == 1 else 0.03 * (blocks[-1] - blocks[0])
    axes.set_xlim(blocks[0] - margin, blocks[-1] + margin)
    _name_line_ends(axes, ends)
    return finish(figure, finding, reading)


def _ratio_sentence(measured: Measured, linears: Linears) -> str:
    """How many times the rest's kurtosis o and down carry, and an untrained twin's o and down."""
    behind, others = linears.behind, ~linears.behind
    if not behind.any() or not others.any():
        return f"Mean excess kurtosis is {linears.kurtosis().mean():.2g} over all inputs measured".replace("-", "−")
    ratio, mine, rest = _ratio(linears)
    floored = f", floored at {KURTOSIS_FLOOR}" if min(mine, rest) < KURTOSIS_FLOOR else ""
    finding = (
        f"{linears.behind_words} carry {times(ratio)} the kurtosis of the rest ({mine:.2g} against {rest:.2g}{floored})"
    )
    finding = finding.replace("-", "−")
    if measured.twins:
        finding += f"; in the untrained twin {times(float(np.mean([_ratio(Linears(t))[0] for t in measured.twins])))}"
    return finding


def _ratio(linears: Linears) -> tuple[float, float, float]:
    kurtosis = linears.kurtosis()
    mine, rest = float(kurtosis[linears.behind].mean()), float(kurtosis[~linears.behind].mean())
    return max(mine, KURTOSIS_FLOOR) / max(rest, KURTOSIS_FLOOR), mine, rest


def _by_block(linears: Linears, role: str, values: Array, blocks: Sequence[int]) -> Array:
    """The values of the linears that read one site, a mean per block; NaN where a block has no such site."""
    out = np.full(len(blocks), np.nan)
    for place, block in enumerate(blocks):
        here = (linears.roles == role) & (linears.blocks == block)
        if here.any():
            out[place] = values[here].mean()
    return out


def _kurtosis_axis(axes: Axes) -> None:
    axes.set_yscale("symlog", linthresh=LINEAR_BELOW, linscale=0.7)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.3), max(1.2 * high, 1.5))
    ticks = [-10, -3, -1, -0.5, 0, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100, 300, 1000, 3000]
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in ticks if low <= tick <= high], minor=False)
    axes.set_yticks([], minor=True)
    plain_numbers(axes.yaxis)
    axes.set_ylim(low, high)
    axes.grid(axis="y")
    axes.axhline(0, color=MUTED, lw=0.9, zorder=1)
    axes.set_ylabel("mean excess kurtosis")


def _name_line_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write each line's name at its right end, pushed apart where lines end together."""
    transform = axes.transData
    low, high = (float(transform.transform((0, y))[1]) for y in axes.get_ylim())
    gap = 25.0 / (high - low)
    places = []
    previous = -np.inf
    known = [(value if np.isfinite(value) else 0.0, name, colour) for value, name, colour in ends]
    for value, name, colour in sorted(known):
        y = (float(transform.transform((0, value))[1]) - low) / (high - low)
        previous = max(y, previous + gap)
        places.append((previous, name, colour))
    for y, name, colour in places:
        axes.annotate(
            name, (1.0, y), xycoords="axes fraction", xytext=(8, 0), textcoords="offset points",
            color=INK, va="center", size=10, weight="bold", annotation_clip=False,
            bbox={"boxstyle": "square,pad=0.12", "fc": "white", "ec": colour, "lw": 1.6},
        )  # fmt: skip


def kurtosis_and_importance_by_family(measured: Measured) -> Drawing:
    """Kurtosis and enrichment of each family, every block a point, beside the untrained twin's mean."""
    linears = Linears(measured)
    finding = _family_sentence(linears)
    reading = "One point for each block, the bar their mean; held-out tokens. "
    if measured.twins:
        reading += "Hollow diamonds: the untrained twin's mean. "
    reading += "Enrichment: the share of importance that the top 1% of channels hold over the share of channels they "
    reading += "are (1×: all alike)."
    figure, top = paper(finding, reading, 3.9)
    left = figure.add_axes((0.07, 0.13 * top, 0.42, 0.77 * top))
    right = figure.add_axes((0.56, 0.13 * top, 0.42, 0.77 * top))
    _family_panel(left, linears, Linears.kurtosis, "Heavy tails: mean excess kurtosis")
    _kurtosis_axis(left)
    left.set_ylabel("")
    enrichment = linears.enrichment()
    if np.isfinite(enrichment).any():
        _family_panel(right, linears, Linears.enrichment, "Concentration: enrichment of the top 1%")
        right.set_ylim(0, None)
        right.axhline(1, color=MUTED, lw=0.9, zorder=1)
        right.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        right.grid(axis="y")
    else:
        right.set_axis_off()
        right.text(
            0.5,
            0.5,
            "Widths under 64: a top 1% is one channel of few\nand its share says nothing",
            ha="center",
            color=MUTED,
        )
    return finish(figure, finding, reading)


def _family_panel(axes: Axes, linears: Linears, reading: Callable[[Linears], Array], title: str) -> None:
    values = reading(linears)
    # The twin's values by family: its linears come in the same order.
    twins = [reading(Linears(twin)) for twin in linears.measured.twins]
    for place, family in enumerate(linears.family_order):
        here = linears.families == family
        shown = values[here][np.isfinite(values[here])]
        if not len(shown):
            continue
        colour = family_colour(family)
        spread = np.linspace(-0.2, 0.2, len(shown)) if len(shown) > 1 else np.zeros(1)
        axes.bar(place, shown.mean(), width=0.62, color=colour, alpha=0.32, lw=0, zorder=1.5)
        axes.plot([place - 0.31, place + 0.31], [shown.mean()] * 2, color=colour, lw=2.4, zorder=3)
        axes.plot(place + spread, shown, family_marker(family), color=colour, ms=5, mec="white", mew=0.6, zorder=4)
        untrained = [draw[here].mean() for draw in twins if np.isfinite(draw[here]).all()]
        if untrained:
            axes.plot(place + 0.4, np.mean(untrained), "D", mfc="white", mec=TWIN, mew=1.6, ms=6.5, zorder=5)
    axes.set_xticks(range(len(linears.family_order)), linears.family_order)
    axes.tick_params(axis="x", length=0, labelsize=10.5, labelcolor=INK)
    axes.set_title(title)


def _family_sentence(linears: Linears) -> str:
    kurtosis, enrichment = linears.kurtosis(), linears.enrichment()
    by_family = {f: float(kurtosis[linears.families == f].mean()) for f in linears.family_order}
    heavy = sorted(by_family, key=lambda family: -by_family[family])[:2]
    finding = "Tails are heaviest at " + " and ".join(f"{f} ({by_family[f]:.2g})" for f in heavy).replace("-", "−")
    concentration = {f: enrichment[linears.families == f] for f in linears.family_order}
    means = {f: float(values.mean()) for f, values in concentration.items() if np.isfinite(values).all()}
    if not means:
        return finding
    top = max(means, key=lambda family: means[family])
    least = min(means.values())
    return f"{finding}; the top 1% of channels hold {times(least)} to {times(means[top])} their share, most in {top}"
