"""What each direction does: salient weights scaled up, as AWQ does, and scaled down, as a widely read guide has it."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from awq_core.judging.metrics import error_at, error_ratio, factor_error, inverse_error
from awq_core.measured import JUDGED_BITS, Measured
from reports.figures.canvas import Drawing, finish, paper, plain_numbers, times
from reports.figures.palette import AWQ, AWQ_LIGHT, MUTED

COLOURS = {3: AWQ, 4: AWQ_LIGHT}
MARKERS = {3: "D", 4: "o"}
UP_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def error_by_direction(measured: Measured) -> Drawing:
    """Error over round-to-nearest's against the signed exponent, and against the factor on the top 1%."""
    down_alphas = [float(alpha) for alpha in measured.errors["inverse_alpha"].values]
    factors = [float(factor) for factor in measured.errors["factor"].values]
    curves = {bits: _direction(measured, bits, down_alphas) for bits in JUDGED_BITS}
    finding = _finding(curves[3])
    reading = (
        "Median over linears of the held-out output error over round-to-nearest's (1 = no change); band: the middle "
        "half. Left: every channel scaled by its magnitude to the power alpha, up (as AWQ) or down. Right: only the "
        "1% of channels with the largest magnitude, all by one factor."
    )
    figure, top = paper(finding, reading, 3.4)
    left = figure.add_axes((0.085, 0.16 * top, 0.47, 0.76 * top))
    right = figure.add_axes((0.65, 0.16 * top, 0.325, 0.76 * top))
    for bits in sorted(JUDGED_BITS):
        x = np.array(sorted(curves[bits]))
        _curve(left, x, np.stack([curves[bits][value] for value in x]), bits)
        rtn = factor_error(measured, bits, factors[0])
        by_factor = [error_ratio(factor_error(measured, bits, factor), rtn).values for factor in factors]
        _curve(right, np.array(factors), np.stack(by_factor), bits)
    for axes in (left, right):
        axes.axhline(1, color=MUTED, lw=0.9)
        plain_numbers(axes.yaxis)
        axes.grid(axis="y")
    left.axvline(0, color=MUTED, lw=0.9)
    left.set_title("salient weights scaled down  |  scaled up")
    left.set_xlabel("alpha, negative where the inverse scales are used")
    left.set_ylabel("error / RTN's error")
    left.legend(loc="upper right")
    right.set_title("the top 1% times one factor")
    right.set_xscale("log")
    right.set_xticks(factors, [f"{factor:g}" for factor in factors])
    right.minorticks_off()
    right.set_xlabel("factor")
    return finish(figure, finding, reading)


def _direction(measured: Measured, bits: int, down_alphas: list[float]) -> dict[float, np.ndarray]:
    """Error ratios `[linears]` by signed exponent."""
    rtn = error_at(measured, measured.deployed.name, bits, 0.0)
    up = {
        alpha: error_ratio(error_at(measured, measured.deployed.name, bits, alpha), rtn).values for alpha in UP_ALPHAS
    }
    down = {-alpha: error_ratio(inverse_error(measured, bits, alpha), rtn).values for alpha in down_alphas}
    return down | up


def _curve(axes: Axes, x: np.ndarray, values: np.ndarray, bits: int) -> None:
    low, middle, high = np.percentile(values, [25, 50, 75], axis=1)
    axes.fill_between(x, low, high, color=COLOURS[bits], alpha=0.18, lw=0)
    axes.plot(
        x, middle, marker=MARKERS[bits], color=COLOURS[bits], lw=1.6, ms=6, mec="white", mew=0.8, label=f"{bits} bits"
    )


def _finding(curve: dict[float, np.ndarray]) -> str:
    up, down = float(np.median(curve[0.5])), float(np.median(curve[-0.5]))
    said = f"the typical linear's 3-bit error is {times(down)} round-to-nearest's, and scaled up {times(up)}"
    return f"With salient weights scaled down at alpha 0.5, {said}"
