"""Operations and bytes that each stage needs, by formula, from shapes and token counts alone.

Notation: a linear is `(out, in)`; T tokens in sequences of length L; b bytes of a number; A = 21 exponents, Q = 2
quantizers, B = 5 precisions, J = 2 judged precisions, S = 2 splits; g weights in a group.

Operations are those of matrix products, a multiplication and an addition each. Rounding, powers of activations,
softmax and norms are left out: they cost time, and that they do is what a low share of the product rate says.
Formulas count what a stage's definition asks for; a program that finds the same with less shows a higher share.

Bytes are what has to pass between memory and processor if every step is one loop that reads its inputs once and
writes its result once. The steps of a candidate, for one second moment:

    round     E = Q(W s) / s - W    reads W, writes E         2 out in
    product   E G                   reads E and G, writes     2 out in + in in
    sum       (E G) * E             reads both                2 out in
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from awq_core.block_search import OFFICIAL_ALPHAS

from awq_core.clipping import SHRINKS, UNCLIPPED_FAMILIES
from awq_core.measured import ALPHAS, BITS, JUDGED_BITS, QUANTIZERS, SPLITS, TRAFFIC_KINDS
from awq_core.mechanism import FACTORS, INVERSE_ALPHAS
from awq_core.quantizer import deployed_group_size
from benchmarks.model_shape import ModelShape, SearchedGroup

REPLAYED = 6
"""Candidates replayed for each group of held-out windows: RTN and the best exponent, for asym-g128 at both judged
precisions and for sym-channel at 3 bits. The weight itself is a seventh."""


@dataclass(frozen=True)
class Work:
    """What a stage needs.

    Attributes:
        products: operations of matrix products by dtype.
        traffic: bytes between memory and processor.
    """

    products: Counter[torch.dtype] = field(default_factory=Counter)
    traffic: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.products + other.products, self.traffic + other.traffic)

    def times(self, count: int) -> Work:
        """The same work so many times."""
        return Work(Counter({dtype: n * count for dtype, n in self.products.items()}), self.traffic * count)

    @property
    def operations(self) -> int:
        """Of all dtypes."""
        return sum(self.products.values())


def total(parts: Iterable[Work]) -> Work:
    """The sum."""
    return sum(parts, Work())


def product(rows: int, inner: int, columns: int, dtype: torch.dtype) -> Work:
    """`(rows, inner) @ (inner, columns)`: 2 rows inner columns operations."""
    moved = (rows * inner + inner * columns + rows * columns) * dtype.itemsize
    return Work(Counter({dtype: 2 * rows * inner * columns}), moved)


def candidates(out: int, width: int, rounded: int, moments: int, dtype: torch.dtype) -> Work:
    """So many roundings of one linear, the error of each under so many second moments."""
    per_moment = product(out, width, width, dtype) + Work(traffic=2 * out * width * dtype.itemsize)
    return Work(traffic=rounded * 2 * out * width * dtype.itemsize) + per_moment.times(rounded * moments)


def powers(out: int, width: int, moments: int, dtype: torch.dtype) -> Work:
    """`tr(W G W^T)`, the denominator, under so many second moments."""
    return (product(out, width, width, dtype) + Work(traffic=2 * out * width * dtype.itemsize)).times(moments)


def block_forward(shape: ModelShape, tokens: int, length: int) -> Work:
    """All blocks over the tokens: every linear, and attention's two products with all L positions (no causal half)."""
    linears = total(product(tokens, linear.width, linear.out, shape.dtype) for linear in shape.linears)
    scores = product(length, shape.head_size, length, shape.dtype) + product(
        length, length, shape.head_size, shape.dtype
    )
    return (linears + scores.times(shape.heads * (tokens // length))).times(shape.blocks)


def gathering(shape: ModelShape, tokens: int) -> Work:
    """Moments and `G = X^T X` of every site: 2 T in in; the moments read the tokens once more, in float64."""
    found = Work()
    for width, _ in shape.sites:
        found += product(width, tokens, width, shape.arithmetic) + Work(traffic=tokens * width * 8)
    return found.times(shape.blocks)


def layer_grid(shape: ModelShape, bits: int = len(BITS)) -> Work:
    """Q B A candidates of every linear under S second moments, and the denominators."""
    count = len(QUANTIZERS) * bits * len(ALPHAS)
    return total(
        candidates(linear.out, linear.width, count, len(SPLITS), shape.arithmetic)
        + powers(linear.out, linear.width, len(SPLITS), shape.arithmetic)
        for linear in shape.linears
    ).times(shape.blocks)


def mechanism(shape: ModelShape) -> Work:
    """Four inverse exponents and five factors at J precisions under S second moments, and the denominators."""
    count = len(JUDGED_BITS) * (len(INVERSE_ALPHAS) + len(FACTORS))
    return total(
        candidates(linear.out, linear.width, count, len(SPLITS), shape.arithmetic)
        + powers(linear.out, linear.width, len(SPLITS), shape.arithmetic)
        for linear in shape.linears
    ).times(shape.blocks)


def group_replay(shape: ModelShape, heldout: int) -> Work:
    """Seven matrices of every linear over the held-out tokens, in float32."""
    return total(
        product(heldout, linear.width, (1 + REPLAYED) * linear.out, torch.float32) for linear in shape.linears
    ).times(shape.blocks)


def traffic_errors(shape: ModelShape) -> Work:
    """Usual and random tokens choose among A exponents at J precisions, judged on held-out tokens; each kind's own
    calibration the same, judged on the kind's tokens beside RTN and the usual choice. Each judging has its power."""
    tuned = len(JUDGED_BITS) * len(ALPHAS)
    of_usual_or_random = tuned + len(JUDGED_BITS)
    of_kind = tuned + 3 * len(JUDGED_BITS)
    count = 2 * of_usual_or_random + len(TRAFFIC_KINDS) * of_kind
    return total(
        candidates(linear.out, linear.width, count, 1, shape.arithmetic)
        + powers(linear.out, linear.width, 2 + len(TRAFFIC_KINDS), shape.arithmetic)
        for linear in shape.linears
    ).times(shape.blocks)


def block_search(shape: ModelShape, groups: Iterable[SearchedGroup], tokens: int, length: int, bits: int = 1) -> Work:
    """The 20 exponents of each group: `tr(E G E^T)` where the linear itself is inspected; else the module replayed."""
    return total(
        candidates(group.rounded[0].out, group.rounded[0].width, 1, 1, shape.arithmetic)
        if group.is_linear
        else _replayed(shape, group, tokens, length)
        for group in groups
    ).times(len(OFFICIAL_ALPHAS) * bits * shape.blocks)


def official_search(shape: ModelShape, groups: Iterable[SearchedGroup], tokens: int, length: int) -> Work:
    """The 20 exponents of each group, the inspected module replayed on all tokens, the linear itself included."""
    replayed = total(_replayed(shape, group, tokens, length) for group in groups)
    return replayed.times(len(OFFICIAL_ALPHAS) * shape.blocks)


def _replayed(shape: ModelShape, group: SearchedGroup, tokens: int, length: int) -> Work:
    """One exponent of one group: its linears rounded, all of the inspected module's linears on every token."""
    found = Work(traffic=sum(2 * linear.out * linear.width for linear in group.rounded) * shape.dtype.itemsize)
    found += total(product(tokens, linear.width, linear.out, shape.dtype) for linear in group.replayed)
    if group.with_attention:
        scores = product(length, shape.head_size, length, shape.dtype) + product(
            length, length, shape.head_size, shape.dtype
        )
        found += scores.times(shape.heads * (tokens // length))
    return found


def clip_search(shape: ModelShape, bits: int) -> Work:
    """Ten shrinks of every group of each linear but q and k: the group's `(out, g) @ (g, g)`."""
    found = Work()
    for linear in shape.linears:
        if linear.family not in UNCLIPPED_FAMILIES:
            size = deployed_group_size(linear.width)
            part = product(linear.out, size, size, shape.arithmetic).times(linear.width // size)
            rest = Work(traffic=4 * linear.out * linear.width * shape.arithmetic.itemsize)
            found += (part + rest).times(len(SHRINKS))
    return found.times(bits * shape.blocks)


def gptq(shape: ModelShape, bits: int) -> Work:
    """Each site: a Cholesky factor (in^3 / 3) and its inverse by halves (2 in^3 / 3), which all precisions share;
    at each, every column's error carried to all columns after it (out in in, for the site's stacked rows)."""
    found = Work()
    for width, rows in shape.sites:
        operations = width**3 + bits * rows * width**2
        moved = (6 * width**2 + bits * 3 * rows * width) * shape.arithmetic.itemsize
        found += Work(Counter({shape.arithmetic: operations}), moved)
    return found.times(shape.blocks)


def head(shape: ModelShape, tokens: int) -> Work:
    """The head of one strategy over the held-out tokens; logits are read by the loss and by the divergence, which reads
    full precision's too."""
    return product(tokens, shape.hidden, shape.vocabulary, shape.dtype) + Work(
        traffic=3 * tokens * shape.vocabulary * 4
    )


def rounding(shape: ModelShape) -> Work:
    """One strategy's weights: every linear read and written; no product."""
    weights = sum(linear.out * linear.width for linear in shape.linears)
    return Work(traffic=2 * weights * shape.dtype.itemsize * shape.blocks)
