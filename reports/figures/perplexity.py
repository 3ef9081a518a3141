"""Figure 10: what the whole model loses, strategy by strategy, at the two judged precisions."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from awq_core.judging import metrics as readings
from awq_core.measure.methods.looks import count_of
from awq_core.measured import JUDGED_BITS, Measured
from reports.answer import half_width, perplexity_text
from reports.figures.canvas import Drawing, finish, paper, percent
from reports.figures.palette import AWQ, AWQ_LIGHT, GPTQ, INK, KEPT, MUTED, RTN
from reports.linears import Array

METHODS = {
    "rtn": ("rounded to nearest (RTN)", RTN, "o"),
    "rtn-clip": ("RTN, clipped", RTN, "X"),
    "awq-block": ("AWQ, block search", AWQ, "D"),
    "awq-block-clip": ("AWQ, block search, clipped", AWQ, "X"),
    "awq-grouped": ("AWQ, with o's scale averaged", AWQ, "d"),
    "awq-duo": ("AWQ, AutoAWQ's scales", AWQ, "P"),
    "awq-linear": ("AWQ, each linear its own", AWQ_LIGHT, "s"),
    "awq-site": ("AWQ, each input its own", AWQ_LIGHT, "p"),
    "awq-constant": ("AWQ, one exponent, folded", AWQ_LIGHT, "^"),
    "awq-constant-everywhere": ("AWQ, one exponent for all", AWQ_LIGHT, ">"),
    "awq-half": ("AWQ, exponent 0.5", AWQ_LIGHT, "v"),
    "gptq": ("GPTQ", GPTQ, "o"),
    "gptq-order": ("GPTQ, activation order", GPTQ, "s"),
    "keep-activation": ("1% kept, by activation", KEPT, "D"),
    "keep-weight": ("1% kept, by weight", KEPT, "s"),
    "keep-random": ("1% kept, at random", KEPT, "o"),
    "awq-block-few": ("AWQ, an eighth of the text", AWQ, "<"),
    "awq-block-foreign": ("AWQ, foreign text", AWQ, ">"),
    "gptq-foreign": ("GPTQ, foreign text", GPTQ, ">"),
}
"""The order from top to bottom; strategies not listed follow under their own names."""

BELOW, ABOVE = 0.55, 0.35
"""Inches below and above the panels, for their axis and their title."""

RANDOM = "keep-random"
"""Its several draws are one row: their mean."""
UNSEEN = "-matched"
"""What foreign text is counted from: the usual strategy again, on as much of the usual text."""


def perplexity_by_strategy(measured: Measured) -> Drawing | None:
    """Perplexity with intervals, 4 bits beside 3; None where losses were not measured."""
    if measured.losses is None:
        return None
    strategies = [str(name) for name in measured.losses["strategy"].values]
    panels = {bits: _methods_at(strategies, bits) for bits in JUDGED_BITS}
    panels = {bits: methods for bits, methods in panels.items() if methods}
    if "full" not in strategies or not panels:
        return None
    full = readings.mean_loss(measured, "full")
    windows = len(readings.window_differences(measured, "full"))
    looks = count_of(measured.losses)
    finding = _finding(measured, panels)
    reading = (
        f"Perplexity on {'up to ' if looks > 1 else ''}{windows} held-out windows; dashed: full precision "
        f"({perplexity_text(full)}). Bars: 95% intervals of the loss beyond full precision"
        f"{f' over {looks} looks' if looks > 1 else ''}, paired by window, so the text's own difficulty drops out. "
        "Hollow marks need something at run time that an ordinary checkpoint does not have."
        f"{' Upright strokes: RTN on the same windows, where a method was scored on fewer.' if looks > 1 else ''}"
    )
    rows = max(len(methods) for methods in panels.values())
    height = BELOW + ABOVE + 0.3 * rows
    figure, top = paper(finding, reading, height)
    for place, (bits, methods) in enumerate(panels.items()):
        axes = figure.add_axes(
            (0.235 + 0.385 * place, top * BELOW / height, 0.315, top * (height - BELOW - ABOVE) / height)
        )
        _panel(axes, measured, full, methods, bits, named=place == 0)
    return finish(figure, finding, reading)


def _methods_at(strategies: list[str], bits: int) -> list[str]:
    here = [name.removesuffix(f"-{bits}") for name in strategies if name.endswith(f"-{bits}")]
    here = [RANDOM if method.startswith(RANDOM) else method for method in here if not method.endswith(UNSEEN)]
    here = list(dict.fromkeys(here))
    return [m for m in METHODS if m in here] + [m for m in here if m not in METHODS]


def _panel(axes: Axes, measured: Measured, full: float, methods: list[str], bits: int, *, named: bool) -> None:
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    for row, method in enumerate(methods):
        _, colour, marker = METHODS.get(method, (method, MUTED, "h"))
        names = _strategies_of(measured, method, bits)
        gaps = _gaps(measured, names)
        middle, half = float(gaps.mean()), half_width(gaps, count_of(measured.losses))
        low, value, high = np.exp([full + middle - half, full + middle, full + middle + half])
        axes.plot([low, high], [row, row], color=colour, lw=3, alpha=0.55, solid_capstyle="butt")
        hollow = _needs_something(measured, names[0])
        edge, face = (colour, "white") if hollow else ("white", colour)
        axes.plot(value, row, marker, color=face, ms=7 if hollow else 8, mec=edge, mew=1.4 if hollow else 0.9)
        axes.text(1.01, row, perplexity_text(full + middle), transform=beside, va="center", size=9, color=INK)
        if "rtn" in methods and len(gaps) < len(readings.window_differences(measured, f"rtn-{bits}")):
            on_the_same = np.exp(full + _gaps(measured, [f"rtn-{bits}"], on_windows_of=names).mean())
            axes.plot(on_the_same, row, "|", color=RTN, ms=13, mew=1.6)
    axes.axvline(np.exp(full), color=INK, lw=1.2, ls=(0, (4, 2)))
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_yticks(range(len(methods)), [METHODS.get(m, (m,))[0] for m in methods] if named else [""] * len(methods))
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.get_major_formatter().set_useOffset(False)  # type: ignore[attr-defined]
    axes.grid(axis="x")
    axes.set_xlabel("perplexity")
    axes.set_title(f"{bits} bits")


def _gaps(measured: Measured, names: list[str], on_windows_of: list[str] | None = None) -> Array:
    """Mean over strategies of the losses beyond full precision, `[windows]`, on the windows that all were scored on."""
    losses = readings.window_values(measured, ["full", *names, *(on_windows_of or [])])
    gaps: Array = np.mean(losses[1 : 1 + len(names)], axis=0) - losses[0]
    return gaps


def _beside_rtn(measured: Measured, strategy: str, bits: int) -> tuple[float, float]:
    """Mean loss beyond full precision of RTN and of a strategy, nats per token, on the windows of both."""
    rtn = f"rtn-{bits}"
    return (
        float(_gaps(measured, [rtn], on_windows_of=[strategy]).mean()),
        float(_gaps(measured, [strategy], on_windows_of=[rtn]).mean()),
    )


def _strategies_of(measured: Measured, method: str, bits: int) -> list[str]:
    names = [str(name) for name in readings.losses_of(measured)["strategy"].values]
    if method == RANDOM:
        return [name for name in names if name.startswith(RANDOM) and name.endswith(f"-{bits}")]
    return [f"{method}-{bits}"]


def _needs_something(measured: Measured, strategy: str) -> bool:
    losses = readings.losses_of(measured)
    return "strategy_needs" in losses.coords and bool(str(losses["strategy_needs"].sel(strategy=strategy).values))


def _finding(measured: Measured, panels: dict[int, list[str]]) -> str:
    parts = []
    for bits, methods in panels.items():
        if "rtn" not in methods:
            continue
        rtn = float(readings.window_differences(measured, f"rtn-{bits}").mean())
        if "awq-block" not in methods:
            cost = f"{rtn:.2g} nats" if rtn > 0 else "nothing"
            parts.append(f"at {bits} bits RTN costs {cost}, and AWQ was not scored")
            continue
        rtn, awq = _beside_rtn(measured, f"awq-block-{bits}", bits)
        if rtn <= 0:
            parts.append(f"at {bits} bits RTN costs nothing")
            continue
        if awq <= rtn:
            part = f"at {bits} bits AWQ wins back {percent((rtn - awq) / rtn)} of the {rtn:.2g} nats RTN loses"
        else:
            part = f"at {bits} bits AWQ loses {percent((awq - rtn) / rtn)} more than RTN's {rtn:.2g} nats"
        if "awq-block-clip" in methods:
            rtn, clipped = _beside_rtn(measured, f"awq-block-clip-{bits}", bits)
            part += f" ({percent((rtn - clipped) / rtn)} won back with clipping)".replace("-", "−")
        parts.append(part)
    text = "; ".join(parts) or "Perplexity by strategy"
    return text[0].upper() + text[1:]
