"""The figures of `docs/understanding.md`: `python -m docs.figures_of_understanding` writes them to `docs/images`.

Everything is computed from the embedded model and the repository's own traffic passages, as in the document.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from awq_core.architectures.block_stream import BlockStream
from awq_core.architectures.model import architecture_of, linear, weight_of
from awq_core.measure.layers.importance import salient_count
from awq_core.measure.layers.instrument import LayerSettings, measure_layers
from awq_core.quantization.output_error import relative_output_error, summed_squared_output
from awq_core.quantization.quantizers import DEPLOYED, quantize_groups, round_to_nearest
from awq_core.quantization.scales import linear_scales, scaled_round_to_nearest
from fixtures.models.loading import load_model, load_tokenizer
from fixtures.models.resolve import resolve
from fixtures.texts.tokens import sequences, tokenize
from fixtures.texts.traffic import passages
from reports.figures.canvas import Drawing, finish, paper, percent, plain_numbers, style, times
from reports.figures.palette import (
    AWQ,
    AWQ_LIGHT,
    FAINT,
    GPTQ,
    KEPT,
    MUTED,
    RTN,
    RULE,
    family_colour,
    family_marker,
)

IMAGES = Path(__file__).parent / "images"
BITS = 4
EXAMPLE = "model.layers.0.self_attn.v_proj"
"""The document's running example: the linear that AWQ helps most."""
LARGER = (1, 2, 5, 10, 20, 30, 50, 100)
"""How many times larger the example's largest channel is made."""
FACTORS = (0.25, 0.35, 0.5, 0.7, 1, 1.4, 2, 2.8, 4, 5.6, 8)
"""What the salient weight of a random group is multiplied by."""
BUSY = 20.0
"""Activation of the salient channel there; the others' is 1."""
ALPHAS = torch.arange(21, dtype=torch.float64) / 20


@dataclass(frozen=True)
class Material:
    """What the figures are drawn from.

    Attributes:
        weight: `(out, in)`, the example's.
        magnitude: `(in,)`, of its calibration inputs.
        moments: `(in, in)`, `X^T X` of its inputs by split.
        channels: the layer-level instrument's first dataset, of all linears.
        errors: its second.
    """

    weight: Tensor
    magnitude: Tensor
    moments: dict[str, Tensor]
    channels: xr.Dataset
    errors: xr.Dataset


def measure() -> Material:
    """Load the embedded model, and measure it on the passages of code."""
    source = resolve("embedded-small", None)
    model, tokenizer = load_model(source, "cpu", torch.float32), load_tokenizer(source)
    architecture = architecture_of(model.config)
    tokens = {
        split: sequences(tokenize(tokenizer, passages("code", split), model.config.vocab_size), 256, 16)
        for split in ("calibration", "heldout")
    }
    stream = BlockStream(model, architecture, tokens, groups=1)
    stream.begin(0)
    inputs = {
        split: torch.cat([sites["attention_in"] for _, sites in stream.passes(0, split)]).double() for split in tokens
    }
    channels, errors = measure_layers(
        BlockStream(model, architecture, tokens), LayerSettings(quantizers=(DEPLOYED,), bits=(4, 3))
    )
    return Material(
        weight_of(linear(model, EXAMPLE)).double(),
        inputs["calibration"].abs().mean(dim=0),
        {split: x.T @ x for split, x in inputs.items()},
        channels,
        errors,
    )


def rounding(material: Material) -> Drawing:
    """One group on its levels, and the error of every weight against its size."""
    row = material.weight[:1]  # (1, in): one group of 128
    quantized = quantize_groups(row, BITS, row.shape[1])
    step, zero_point = float(quantized.steps), float(quantized.zero_points)
    levels = (np.arange(2**BITS) - zero_point) * step
    all_groups = quantize_groups(material.weight, BITS, row.shape[1])
    size = (material.weight.abs() / all_groups.steps).flatten().numpy()
    error = ((all_groups.dequantize() - material.weight).abs() / all_groups.steps).flatten().numpy()
    halves = [error[size <= np.median(size)].mean(), error[size > np.median(size)].mean()]
    finding = (
        f"A small weight is not rounded better than a large one: the smaller half is {halves[0]:.2f} steps off "
        f"on average, the larger half {halves[1]:.2f}"
    )
    reading = (
        f"{BITS} bits. Left: the 128 weights of one group (dots, sorted) and the 16 levels that they may take (lines). "
        f"Right: all {error.size:,} weights of {_short(EXAMPLE)}, size and error both in steps of the weight's group; "
        "exactly on a level there is no error."
    )
    figure, top = paper(finding, reading, 3.5)
    left, right = _two(figure, top)
    left.hlines(levels, -2, 130, color=RULE, lw=0.9)
    ordered, order = row[0].sort()
    left.plot(np.arange(128), quantized.dequantize()[0][order], "_", color=AWQ, ms=5, mew=1.4, label="rounded")
    left.plot(np.arange(128), ordered, ".", color=KEPT, ms=5, label="weight")
    left.set(xlim=(-2, 130), xlabel="weight of the group, smallest to largest", ylabel="value")
    left.legend(loc="upper left", handletextpad=0.3)
    right.plot(size, error, ".", color=AWQ, ms=3, alpha=0.5, mew=0)
    right.axhline(0.5, color=KEPT, lw=1.4)
    right.annotate("half a step", (size.max(), 0.5), xytext=(0, 3), textcoords="offset points", ha="right", color=KEPT)
    right.set(xlabel="size of the weight, in steps", ylabel="error, in steps", ylim=(0, 0.58))
    for axes in (left, right):
        plain_numbers(axes.yaxis)
    return finish(figure, finding, reading)


def activations(material: Material) -> Drawing:
    """How far channels stand apart by activation, and by weight."""
    channels = material.channels
    families = [str(family) for family in channels["linear_family"].values]
    sizes, magnitudes = [], []
    for index, width in enumerate(channels["in_features"].values):
        site = channels["linear_site"].values[index]
        magnitude = channels["magnitude"].sel(split="calibration", site=site).values[:width]
        size = channels["weight_size"].values[index][:width]
        magnitudes.append(np.sort(magnitude / np.median(magnitude))[::-1])
        sizes.append(np.sort(size / np.median(size))[::-1])
    by_activation, by_weight = np.array([m[0] for m in magnitudes]), np.array([s[0] for s in sizes])
    apart = int((by_activation > by_weight).sum())
    widest = int(by_activation.argmax())
    finding = (
        f"In {apart} of {len(families)} linears the largest channel stands out more by its activation than by its "
        f"weights: up to {times(by_activation.max())} the median channel, against {times(by_weight.max())} at most"
    )
    name = _short(str(channels["linear"].values[widest]))
    reading = (
        f"Left: the channels of {name}, sorted by mean abs(x), and sorted by mean abs(weight), each over its median. "
        "Right: the largest channel over the median one in every linear; above the dashed line activations stand apart "
        "more."
    )
    figure, top = paper(finding, reading, 3.6)
    left, right = _two(figure, top)
    rank = np.arange(1, len(magnitudes[widest]) + 1)
    left.plot(rank, magnitudes[widest], color=AWQ, lw=1.8, marker=".", ms=5, label="mean abs(x)")
    left.plot(rank, sizes[widest], color=KEPT, lw=1.8, ls="--", label="mean abs(weight)")
    left.axhline(1, color=RULE, lw=0.9, zorder=0)
    left.set(xlabel="channel, largest first", ylabel="over the median channel")
    left.set_ylim(bottom=0)
    left.legend(loc="upper right")
    for family in dict.fromkeys(families):
        mine = [index for index, other in enumerate(families) if other == family]
        x, y, colour, marker = by_weight[mine], by_activation[mine], family_colour(family), family_marker(family)
        right.plot(x, y, ls="none", ms=7, mew=0, alpha=0.9, label=family, color=colour, marker=marker)
    right.plot([1, 6], [1, 6], ls="--", lw=1, color=MUTED, zorder=0)
    right.set(
        xlim=(1, 2.05), ylim=(0.9, 6.2), xlabel="largest weight size / median", ylabel="largest activation / median"
    )
    right.legend(loc="upper right", ncols=2, columnspacing=1.0, handletextpad=0.2)
    for axes in (left, right):
        plain_numbers(axes.yaxis)
    return finish(figure, finding, reading)


def direction(material: Material) -> Drawing:
    """The salient weight of random groups times a factor, and real linears scaled up and down."""
    rows = [_random_groups(factor) for factor in FACTORS]
    salient, others = (np.array(values) for values in zip(*rows, strict=True))
    total = salient + others
    at = dict(zip(FACTORS, total / total[FACTORS.index(1)], strict=True))
    finding = (
        f"Doubling a busy channel's weight before rounding leaves {percent(at[2])} of the output error; halving "
        f"it, as a widely read guide has it, makes the error {at[0.5]:.1f} times as large"
    )
    reading = (
        f"{BITS} bits. Left: 2,000 random groups of 128 weights, one channel's activation {BUSY:g} and the others' 1; "
        "error over that without scaling. Right: the model's 35 linears, all channels scaled by magnitude to the power "
        "alpha (left of 0: divided by magnitude to the power |alpha|); median, and the middle half, of held-out error "
        "over round-to-nearest's."
    )
    figure, top = paper(finding, reading, 3.7)
    left, right = _two(figure, top)
    base = total[FACTORS.index(1)]
    left.axvspan(FACTORS[0], 1, color=FAINT, alpha=0.22, lw=0)
    left.plot(FACTORS, total / base, color=AWQ, lw=2.4, marker="o", ms=5, label="whole output", zorder=4)
    left.plot(FACTORS, salient / base, color=KEPT, lw=1.6, ls="--", label="from the busy channel")
    left.plot(FACTORS, others / base, color=GPTQ, lw=1.6, ls=":", label="from the other 127")
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["¼", "½", "1", "2", "4", "8"])
    left.minorticks_off()
    left.set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
    left.set(xlabel="factor on the busy channel's weight", ylabel="error / unscaled error", xlim=(0.25, 8))
    left.set_title("scaled down  |  scaled up", loc="center")
    left.legend(loc="upper right")
    x, values = _signed_alphas(material.errors)
    low, middle, high = np.percentile(values, [25, 50, 75], axis=1)
    right.axvspan(-1, 0, color=FAINT, alpha=0.22, lw=0)
    right.fill_between(x, low, high, color=AWQ_LIGHT, alpha=0.35, lw=0)
    right.plot(x, middle, color=AWQ, lw=2, marker="o", ms=4)
    right.set(
        xlabel="alpha; left of 0: divided by magnitude to the power |alpha|",
        ylabel="error / round-to-nearest's",
        xlim=(-1, 1),
    )
    right.set_title("scaled down  |  scaled up", loc="center")
    plain_numbers(right.yaxis)
    plain_numbers(right.xaxis)
    for axes in (left, right):
        axes.axhline(1, color=MUTED, lw=0.9)
    return finish(figure, finding, reading)


def alpha(material: Material) -> Drawing:
    """Error against alpha for the linears of the first block, and where each of the 35 has its least."""
    errors = material.errors["output_error"].sel(quantizer=DEPLOYED.name, bits=BITS)
    found = errors["alpha"].values[errors.sel(split="calibration").values.argmin(axis=1)]
    errors = errors.sel(split="heldout")
    finding = (
        f"No one alpha suits all: calibration picks from {found.min():g} to {found.max():g}, median "
        f"{np.median(found):g}, and alpha 1 is worse than no scaling in {_worse_at_one(errors)} of {len(found)} linears"
    )
    reading = (
        f"{BITS} bits. Left: held-out error over round-to-nearest's for the seven linears of block 0 (o's curve leaves "
        "the picture); the marker is the alpha that calibration tokens choose. Right: that choice in all 35 linears."
    )
    figure, top = paper(finding, reading, 3.7)
    left = figure.add_axes((0.085, 0.15 * top, 0.5, 0.79 * top))
    right = figure.add_axes((0.68, 0.15 * top, 0.295, 0.79 * top))
    families = [str(family) for family in errors["linear_family"].values]
    for index in np.flatnonzero(errors["linear_block"].values == 0):
        ratio = errors.values[index] / errors.values[index][0]
        colour, marker = family_colour(families[index]), family_marker(families[index])
        left.plot(errors["alpha"], ratio, color=colour, lw=1.7)
        chosen = int(np.flatnonzero(errors["alpha"].values == found[index])[0])
        left.plot(
            found[index],
            ratio[chosen],
            marker=marker,
            color=colour,
            ms=9,
            mec="white",
            ls="none",
            label=families[index],
            zorder=4,
        )
    left.axhline(1, color=MUTED, lw=0.9)
    left.set(xlim=(-0.02, 1.02), ylim=(0.75, 1.5), xlabel="alpha", ylabel="error / round-to-nearest's")
    left.legend(loc="upper left", ncols=4, columnspacing=1.0, handletextpad=0.2)
    plain_numbers(left.yaxis)
    roles = list(dict.fromkeys(families))
    for place, family in enumerate(roles):
        mine = found[[index for index, other in enumerate(families) if other == family]]
        spread = place + np.linspace(-0.22, 0.22, len(mine))
        right.plot(mine, spread, ls="none", marker=family_marker(family), color=family_colour(family), ms=7, mew=0)
    right.set_yticks(range(len(roles)), roles)
    right.invert_yaxis()
    right.set(xlim=(-0.04, 1.04), xlabel="chosen alpha")
    right.grid(axis="x")
    return finish(figure, finding, reading)


def one_percent(material: Material) -> Drawing:
    """What keeping channels in full precision removes, as the model is and with a channel made larger."""
    width = material.weight.shape[1]
    error = round_to_nearest(material.weight, DEPLOYED, BITS) - material.weight
    size = material.weight.abs().mean(dim=0)
    orders = {
        "by activation": material.magnitude.argsort(descending=True),
        "by weight size": size.argsort(descending=True),
        "at random": torch.randperm(width, generator=torch.Generator().manual_seed(0)),
    }
    counts = np.unique(np.geomspace(1, width, 40).astype(int))
    lefts = {
        name: [_left(error, material.moments["heldout"], order[:count]) for count in counts]
        for name, order in orders.items()
    }
    kept, scaled, spread = zip(*(_enlarged(material, error, factor) for factor in LARGER), strict=True)
    at = dict(zip(LARGER, kept, strict=True))
    finding = (
        f"Kept in full precision, one channel of {width} removes {percent(1 - at[1])} of this linear's error; "
        f"were that channel 30 times larger, it would remove {percent(1 - at[30])}"
    )
    reading = (
        f"{_short(EXAMPLE).capitalize()}, {BITS} bits, held-out tokens: the share of round-to-nearest's error left. "
        "Left: the first channels of an order are kept. Right: the largest channel's activations are multiplied; then "
        "that one channel is kept, or every channel is scaled as AWQ does."
    )
    figure, top = paper(finding, reading, 3.6)
    left, right = _two(figure, top)
    for (name, values), look in zip(lefts.items(), ((AWQ, "-"), (KEPT, "--"), (RTN, ":")), strict=True):
        left.plot(100 * counts / width, values, color=look[0], ls=look[1], lw=2, label=name)
    top_percent = 100 * salient_count(width) / width
    left.axvline(top_percent, color=RULE, lw=1.2, zorder=0)
    left.annotate(
        f"the top 1%: {salient_count(width)} of {width}",
        (top_percent, 0.6),
        xytext=(3, 0),
        textcoords="offset points",
        rotation=90,
        va="center",
        color=MUTED,
        fontsize=9,
    )
    left.set_xscale("log")
    left.set_xticks([1, 3, 10, 30, 100], ["1%", "3%", "10%", "30%", "100%"])
    left.minorticks_off()
    left.set(xlabel="channels kept", ylabel="error left", ylim=(0, 1.05))
    left.legend(loc="lower left")
    right.plot(spread, kept, color=KEPT, lw=2, marker="s", ms=6, label="that channel kept")
    right.plot(spread, scaled, color=AWQ, lw=2, marker="o", ms=6, label="AWQ, all rounded")
    right.set_xscale("log")
    right.set_xticks([2, 5, 10, 20, 50, 100, 200], ["2×", "5×", "10×", "20×", "50×", "100×", "200×"])
    right.minorticks_off()
    right.set(xlabel="largest channel / median channel", ylabel="error left", ylim=(0, 1.05))
    right.legend(loc="upper right")
    for axes in (left, right):
        axes.grid(axis="y")
        plain_numbers(axes.yaxis)
    return finish(figure, finding, reading)


def _random_groups(factor: float) -> tuple[float, float]:
    """Mean squared output error of the busy channel and of the others; the same groups for every factor."""
    weights = torch.randn(2000, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scales = torch.ones(128, dtype=torch.float64)
    scales[0] = factor
    error = (scaled_round_to_nearest(weights, scales, DEPLOYED, BITS) - weights).square()
    return float(error[:, 0].mean()) * BUSY**2, float(error[:, 1:].sum(dim=1).mean())


def _signed_alphas(errors: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Signed exponents and error ratios `[exponents, linears]`."""
    up = errors["output_error"].sel(quantizer=DEPLOYED.name, bits=BITS, split="heldout").values  # [linears, alphas]
    down = errors["inverse_error"].sel(judged_bits=BITS, split="heldout").values
    x = np.concatenate((-errors["inverse_alpha"].values[::-1], errors["alpha"].values))
    return x, (np.concatenate((down[:, ::-1], up), axis=1) / up[:, :1]).T


def _worse_at_one(errors: xr.DataArray) -> int:
    return int((errors.sel(alpha=1.0) > errors.sel(alpha=0.0)).sum())


def _left(error: Tensor, moment: Tensor, kept: Tensor) -> float:
    """Share of an error that is left when some columns are kept in full precision."""
    rest = error.clone()
    rest[:, kept] = 0
    return float(summed_squared_output(rest, moment) / summed_squared_output(error, moment))


def _enlarged(material: Material, error: Tensor, factor: float) -> tuple[float, float, float]:
    """With the largest channel's activations multiplied: error left by keeping it, by AWQ, and its new size."""
    largest = material.magnitude.argmax()
    gain = torch.ones_like(material.magnitude)
    gain[largest] = factor
    moments = {split: moment * gain * gain.unsqueeze(1) for split, moment in material.moments.items()}
    scales = linear_scales(material.magnitude * gain, ALPHAS)  # (alphas, in)
    candidates = scaled_round_to_nearest(material.weight, scales, DEPLOYED, BITS)  # (alphas, out, in)
    chosen = relative_output_error(material.weight, candidates, moments["calibration"]).argmin()
    heldout = relative_output_error(material.weight, candidates, moments["heldout"])
    kept = _left(error, moments["heldout"], largest)
    grown = material.magnitude * gain
    return kept, float(heldout[chosen] / heldout[0]), float(grown.max() / grown.median())


def _two(figure: Figure, top: float) -> tuple[Axes, Axes]:
    add = figure.add_axes
    return add((0.085, 0.15 * top, 0.4, 0.77 * top)), add((0.575, 0.15 * top, 0.4, 0.77 * top))


def _short(name: str) -> str:
    _, _, block, _, module = name.split(".")
    return f"block {block}'s {module}"


FIGURES = {
    "rounding": rounding,
    "activations": activations,
    "direction": direction,
    "alpha": alpha,
    "one-percent": one_percent,
}


def main() -> None:
    """Write every figure."""
    material = measure()
    with style():
        for name, draw in FIGURES.items():
            path = IMAGES / f"understanding-{name}.png"
            drawing = draw(material)
            path.write_bytes(drawing.png)
            print(f"{path.relative_to(IMAGES.parent.parent)}: {drawing.finding}")


if __name__ == "__main__":
    main()
