"""Round-to-nearest quantizers: the deployed group-wise one and the AWQ-Diag study's per-row one.

A quantizer is one class, registered under its `kind`: how it rounds a matrix, and what storing the result costs. A
group size is a value of the class and never part of a name that is written out: `Quantizer.name` alone builds names.

Roundings are dequantized weights: claims are about what the rounding does to a linear's output. `rounding_differences`
has the same roundings for many scales at once, laid out so that every step runs along output rows: a group's range is
then a maximum over neighbouring lines and not within one, several times as fast.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

SMALLEST_RANGE = 1e-5
"""llm-awq's floor under a group's range, so that a constant group does not divide by zero."""

SMALLEST_GROUP = 32
"""Where a group size does not divide a width, smaller ones are tried down to this."""

FP16_BYTES = 2

CHUNK_ELEMENTS = 250_000
"""Weights of one matrix that are rounded at once."""

KINDS: dict[str, type[Quantizer]] = {}
"""Every quantizer's class by its kind."""


@dataclass(frozen=True)
class Quantizer(ABC):
    """A way to round a matrix to nearest; every subclass is registered under its kind.

    Attributes:
        kind: name of the class, of which a field `group_size`, where it has one, is no part.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls) -> None:
        kind = vars(cls).get("kind")
        if kind is None:  # a base of others
            return
        if kind in KINDS:
            raise ValueError(f"two quantizers are of kind {kind!r}: {KINDS[kind].__name__} and {cls.__name__}")
        KINDS[kind] = cls

    @property
    def name(self) -> str:
        """The label in datasets: the kind, and the group size where there is one (`asym-g128`)."""
        size = getattr(self, "group_size", None)
        return self.kind if size is None else f"{self.kind}-g{size}"

    @abstractmethod
    def round(self, weight: Tensor, bits: int) -> Tensor:
        """Dequantized weights `(..., out, in)` of weights `(..., out, in)`.

        Raises:
            ValueError: if `bits` is out of range.
        """

    @abstractmethod
    def stored_bytes(self, out_features: int, in_features: int, bits: int) -> float:
        """Bytes of one linear: packed codes, FP16 steps, and whatever else turns codes back."""

    def differences(self, scaled: Tensor, bits: int) -> Tensor:
        """`Q(V) - V` of weights `(in, candidates, rows)`, which may be overwritten."""
        return self.round(scaled.movedim(0, -1), bits).movedim(-1, 0) - scaled


@dataclass(frozen=True)
class AsymmetricGroups(Quantizer):
    """Groups of neighbouring weights along the input, each with a step and a zero point, as deployed.

    Attributes:
        group_size: weights in a group; see `group_size_for` where it does not divide a width.

    Raises:
        ValueError: if the group size is no whole number from 2 on.
    """

    kind = "asym"
    group_size: int = 128

    def __post_init__(self) -> None:
        if type(self.group_size) is not int or self.group_size < 2:
            raise ValueError(f"group_size must be a whole number from 2 on, got {self.group_size!r}")

    def group_size_for(self, in_features: int) -> int:
        """The group size where it divides the width, else the width's largest divisor from 32 to it, else the row."""
        sizes = range(min(self.group_size, in_features), min(self.group_size, SMALLEST_GROUP) - 1, -1)
        return next((size for size in sizes if in_features % size == 0), in_features)

    def round(self, weight: Tensor, bits: int) -> Tensor:
        """See `quantize_groups`."""
        return quantize_groups(weight, bits, self.group_size_for(weight.shape[-1])).dequantize()

    def stored_bytes(self, out_features: int, in_features: int, bits: int) -> float:
        """Bytes in the AWQ layout: packed codes, an FP16 step and a packed zero point for every group."""
        groups = out_features * in_features / self.group_size_for(in_features)
        return out_features * in_features * bits / 8 + groups * (FP16_BYTES + bits / 8)

    def differences(self, scaled: Tensor, bits: int) -> Tensor:
        """`Q(V) - V` under `quantize_groups`; its input is overwritten."""
        top = 2**bits - 1
        groups = scaled.unflatten(0, (-1, self.group_size_for(len(scaled))))  # (groups, g, A, rows)
        low, high = groups.amin(dim=1, keepdim=True), groups.amax(dim=1, keepdim=True)
        steps = (high - low).clamp_(min=SMALLEST_RANGE).div_(top)  # (groups, 1, A, rows)
        zero_points = (low / steps).round_().neg_().clamp_(0, top)
        exact = groups / steps
        # Codes less the zero point lie between these: round-to-nearest clamps them after adding it.
        difference = torch.clamp(torch.round(exact, out=groups), -zero_points, top - zero_points, out=groups)
        return difference.sub_(exact).mul_(steps).flatten(0, 1)


@dataclass(frozen=True)
class SymmetricRows(Quantizer):
    """One step per output row, as in the AWQ-Diag study."""

    kind = "sym-channel"

    def round(self, weight: Tensor, bits: int) -> Tensor:
        """See `quantize_rows`."""
        return quantize_rows(weight, bits)

    def stored_bytes(self, out_features: int, in_features: int, bits: int) -> float:
        """Bytes of packed codes, and an FP16 step for every row."""
        return out_features * in_features * bits / 8 + out_features * FP16_BYTES

    def differences(self, scaled: Tensor, bits: int) -> Tensor:
        """`Q(V) - V` under `quantize_rows`; its input is overwritten."""
        half = 2 ** (bits - 1)
        steps = torch.maximum(scaled.amax(dim=0), scaled.amin(dim=0).neg_()).div_(half)  # (A, rows)
        steps = torch.where(steps > 0, steps, torch.ones_like(steps))
        exact = scaled / steps
        difference = torch.round(exact, out=scaled).clamp_(-half, half - 1)
        return difference.sub_(exact).mul_(steps)


DEPLOYED = AsymmetricGroups()
"""The quantizer of claims, at the group size that most checkpoints have; `--group-size` gives another."""

DIAGNOSTIC = SymmetricRows()
"""AWQ-Diag's quantizer, measured beside the deployed one."""

Quantizers = tuple[AsymmetricGroups, *tuple[Quantizer, ...]]
"""The deployed quantizer, then any that are measured beside it."""


def quantizer_named(name: str) -> Quantizer:
    """The quantizer whose `name` this is.

    Raises:
        ValueError: if no registered class makes it.
    """
    kind, size = re.fullmatch(r"(.*?)(?:-g(\d+))?", name, re.DOTALL).groups()  # type: ignore[union-attr]
    with suppress(KeyError, TypeError):
        made = KINDS[kind](*([int(size)] if size else []))
        if made.name == name:  # and not a group size of its own choosing
            return made
    raise ValueError(f"no quantizer is called {name!r}; known: {', '.join(sorted(KINDS))}")


class QuantizedGroups(NamedTuple):
    """Integer codes of a weight matrix with steps and zero points: `w = (code - zero_point) * step`."""

    codes: Tensor  # (..., out, in) integers in [0, 2^bits - 1], stored in the weights' dtype
    steps: Tensor  # (..., out, in / group_size)
    zero_points: Tensor  # (..., out, in / group_size) integers in [0, 2^bits - 1]

    def dequantize(self) -> Tensor:
        """Compute the weights `(..., out, in)`."""
        groups = self.steps.shape[-1]
        codes = self.codes.unflatten(-1, (groups, -1))  # (..., out, groups, g)
        weights = (codes - self.zero_points.unsqueeze(-1)) * self.steps.unsqueeze(-1)
        return weights.flatten(-2)


def quantize_groups(weight: Tensor, bits: int, group_size: int) -> QuantizedGroups:
    """Quantize groups of weights along the input dimension asymmetrically, as llm-awq's `pseudo_quantize_tensor`.

    `step = max((max - min), 1e-5) / (2^b - 1)`, `zero_point = clamp(-round(min / step), 0, 2^b - 1)`,
    `code = clamp(round(w / step) + zero_point, 0, 2^b - 1)`. The range need not include zero, so a group whose weights
    all have the same sign can saturate: its error is not bounded by half a step.

    Args:
        weight: `(..., out, in)`.
        bits: 1 to 16.
        group_size: weights per group; must divide `in`.

    Raises:
        ValueError: if `group_size` does not divide the width, or `bits` is out of range.
    """
    _check_bits(bits)
    if group_size < 1 or weight.shape[-1] % group_size:
        raise ValueError(f"group_size must divide the input width {weight.shape[-1]}, got {group_size}")
    groups = weight.unflatten(-1, (-1, group_size))  # (..., out, groups, g)
    steps, zero_points = steps_and_zero_points(groups, bits)
    codes = (torch.round(groups / steps.unsqueeze(-1)) + zero_points.unsqueeze(-1)).clamp(0, 2**bits - 1)
    return QuantizedGroups(codes.flatten(-2), steps, zero_points)


def steps_and_zero_points(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Compute the asymmetric quantizer's step and zero point of each group.

    Args:
        groups: `(..., g)` weights.
        bits: precision.

    Returns:
        `(steps, zero_points)`, both `(...)`.
    """
    top = 2**bits - 1
    low, high = groups.aminmax(dim=-1)  # (...)
    steps = (high - low).clamp(min=SMALLEST_RANGE) / top
    return steps, (-torch.round(low / steps)).clamp(0, top)


def quantize_rows(weight: Tensor, bits: int) -> Tensor:
    """Quantize output rows symmetrically, with one step per row, as in AWQ-Diag: `step = max|w| / 2^(b-1)`.

    Codes are from `-2^(b-1)` to `2^(b-1) - 1`, so a largest weight that is positive is clipped by one step.

    Args:
        weight: `(..., out, in)`.
        bits: 2 to 16.

    Returns:
        Dequantized weights `(..., out, in)`; a row of zeros stays zero.

    Raises:
        ValueError: if `bits` is out of range.
    """
    _check_bits(bits, least=2)
    half = 2 ** (bits - 1)
    steps = weight.abs().amax(dim=-1, keepdim=True) / half  # (..., out, 1)
    steps = torch.where(steps > 0, steps, torch.ones_like(steps))
    return torch.round(weight / steps).clamp(-half, half - 1) * steps


def round_to_nearest(weight: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
    """Dequantized weights `(..., out, in)` under a quantizer.

    Weights of half precision are rounded in single: which code is nearest is not for their format to blur.
    """

    def rounded(rows: Tensor) -> Tensor:
        return quantizer.round(rows.to(torch.promote_types(rows.dtype, torch.float32)), bits)

    per_part = max(1, CHUNK_ELEMENTS // weight.shape[-1])
    if weight.ndim != 2 or len(weight) <= per_part:
        return rounded(weight).to(weight.dtype)
    # Rows are rounded apart from one another: a few at a time, every step works in the processor's cache.
    result = torch.empty_like(weight)
    for part, target in zip(weight.split(per_part), result.split(per_part), strict=True):
        target.copy_(rounded(part))
    return result


def _check_bits(bits: int, least: int = 1) -> None:
    if not least <= bits <= 16:
        raise ValueError(f"bits must be from {least} to 16, got {bits}")


def rounding_differences(weight: Tensor, scales: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
    """`Q(W s) / s - W` for every scale.

    Args:
        weight: `(in, rows)`: some output rows of a linear, transposed.
        scales: `(in, candidates)`, positive.
        quantizer: which rounding.
        bits: precision, 2 to 16.

    Returns:
        `(in, candidates, rows)`.
    """
    scaled = weight.unsqueeze(1) * scales.unsqueeze(2)  # (in, A, rows)
    return quantizer.differences(scaled, bits).div_(scales.unsqueeze(2))
