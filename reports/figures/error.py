"""Figure 6: what each bit costs, and what AWQ takes off the bill."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from awq_core.measured import Measured
from awq_core.quantization.quantizers import DIAGNOSTIC
from reports.figures.canvas import Drawing, finish, paper, percent, plain_numbers
from reports.figures.palette import AWQ, MUTED, RTN
from reports.linears import Array, Linears

OFFSET = 0.13
"""Bits by which the two methods' marks stand apart, so that neither hides the other.

No line joins them: on so steep a slope a line moved to the right looks like one moved up."""


def quantizer_words(measured: Measured) -> dict[str, str]:
    """Titles by the names of the measured quantizers that figures show, the deployed one first."""
    deployed, diagnostic = measured.deployed.name, DIAGNOSTIC.name
    titles = {deployed: f"{deployed}, as deployed", diagnostic: f"{diagnostic}, one step per row as in AWQ-Diag"}
    return {name: title for name, title in titles.items() if name in measured.errors["quantizer"].values}


def error_by_bits(measured: Measured) -> Drawing:
    """Held-out output error against bits, round-to-nearest and AWQ, and below it how much of it AWQ removes."""
    linears = Linears(measured)
    bits = sorted(int(b) for b in measured.errors["bits"].values)
    words = quantizer_words(measured)
    finding = _finding(linears, bits)
    reading = (
        "Squared relative output error on held-out tokens, AWQ's exponents chosen on calibration tokens. "
        f"Marks: median over {len(linears.names)} linears; bars: the middle half."
    )
    figure, top = paper(finding, reading, 4.9)
    lanes = [0.085 + 0.49 * place for place in range(len(words))]
    upper: Axes | None = None
    lower: Axes | None = None
    for lane, quantizer in zip(lanes, words, strict=True):
        upper = figure.add_axes((lane, 0.42 * top, 0.41, 0.51 * top), sharey=upper)
        lower = figure.add_axes((lane, 0.1 * top, 0.41, 0.26 * top), sharex=upper, sharey=lower)
        _errors(upper, linears, quantizer, bits)
        _removed(lower, linears, quantizer, bits)
        upper.set_title(words[quantizer])
        if lane == lanes[0]:
            upper.set_ylabel("output error")
            lower.set_ylabel("removed by AWQ")
            upper.legend(loc="upper right")
    return finish(figure, finding, reading)


def _errors(axes: Axes, linears: Linears, quantizer: str, bits: list[int]) -> None:
    axes.set_yscale("log")
    for reading, colour, marker, shift, label in (
        (linears.error, RTN, "o", -OFFSET, "rounded to nearest (RTN)"),
        (linears.awq_error, AWQ, "D", OFFSET, "AWQ"),
    ):
        values = [_finite(reading(quantizer, b)) for b in bits]
        _marks(axes, np.array(bits) + shift, values, colour, marker, label, joined=False)
    axes.set_xticks(bits)
    axes.tick_params(labelbottom=False)
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.grid(axis="y")


def _removed(axes: Axes, linears: Linears, quantizer: str, bits: list[int]) -> None:
    values = [_finite(100 * (1 - 1 / linears.reduction(quantizer, b))) for b in bits]
    _marks(axes, np.array(bits, dtype=float), values, AWQ, "D", None, joined=True)
    axes.axhline(0, color=MUTED, lw=0.9)
    axes.set_xticks(bits)
    axes.set_xlabel("bits")
    plain_numbers(axes.yaxis)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%".replace("-", "−"))
    axes.grid(axis="y")


def _marks(
    axes: Axes, x: Array, values: list[Array], colour: str, marker: str, label: str | None, *, joined: bool
) -> None:
    """Median and middle half of each column; columns that were not measured stay empty."""
    kept = [place for place, column in enumerate(values) if len(column)]
    if not kept:
        return
    quartiles = np.array([np.percentile(values[place], [25, 50, 75]) for place in kept])
    axes.vlines(x[kept], quartiles[:, 0], quartiles[:, 2], color=colour, lw=5, alpha=0.35)
    axes.plot(
        x[kept],
        quartiles[:, 1],
        marker=marker,
        color=colour,
        lw=1.6 if joined else 0,
        ms=6.5,
        mec="white",
        mew=0.8,
        label=label,
    )


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]


def _finding(linears: Linears, bits: list[int]) -> str:
    def removed(precision: int) -> float:
        values = _finite(linears.reduction(linears.deployed, precision))
        return float(np.median(1 - 1 / values)) if len(values) else float("nan")

    told = [b for b in (3, 4) if b in bits and np.isfinite(removed(b))]
    rtn = {b: float(np.median(linears.error(linears.deployed, b))) for b in bits}
    finding = "Each bit removed costs "
    if 8 in rtn and 3 in rtn:
        finding += f"{(rtn[3] / rtn[8]) ** (1 / 5):.1f}× the error"
    else:
        finding = "Error grows as bits are removed"
    if told:
        parts = [f"{percent(removed(b))} of it at {b} bits" for b in told]
        finding += "; in the median linear AWQ removes " + " and ".join(parts)
    return finding
