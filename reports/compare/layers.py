"""Two per-layer records held against each other: families, and rank correlations over layers.

AWQ-Diag's field names mean in ours what they mean there (`reports.diagnostic_file`): calibration tokens, one symmetric
step per output row, 3 bits. Layers are matched by name where both models are equally deep. Where depths differ there is
no layer to match: then families are matched by thirds of the depth, by their medians there, and the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from awq_core.judging.intervals import FEWEST, jackknife_estimate

Record = dict[str, Any]
"""A per-layer record as read from its file."""

QUANTITIES = {
    "mean_kurtosis": "mean excess kurtosis",
    "top1pct_importance_share": "top-1% share of importance, %",
    "awq_reduction_3bit": "error reduction at 3 bits",
}
THIRDS = ("first", "middle", "last")
FEWEST_POINTS = 5
"""Fewer points have no rank correlation worth stating."""


@dataclass(frozen=True)
class Point:
    """One layer, or one family in one third of the depth, in both records."""

    name: str
    family: str
    block: int
    first: float
    second: float


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of one quantity.

    Attributes:
        quantity: the field.
        points: what it is over.
        rho: None where there are too few points or no variation.
        lower: of the 95% interval over blocks; None where points are no layers, or blocks too few.
        upper: its other end.
    """

    quantity: str
    points: list[Point]
    rho: float | None
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True)
class LayerPair:
    """Two records and how they compare."""

    first: Record
    second: Record
    by_name: bool
    """Layers are matched by name; otherwise families by thirds of the depth."""
    matched: str
    """What was matched, in words."""
    correlations: list[Correlation]


def compare_layers(first: Record, second: Record) -> LayerPair:
    """Match two records' layers and correlate their quantities."""
    depths = depth(first), depth(second)
    names = [name for name in first["layers"] if name in second["layers"]]
    by_name = depths[0] == depths[1] and bool(names)
    if by_name:
        matched = f"{len(names)} layers matched by name"
        if alone := len(first["layers"].keys() ^ second["layers"].keys()):
            matched += f"; {alone} are in one file only"
    elif depths[0] == depths[1]:
        matched = "No layer's name is in both files: families are matched by thirds of the depth, by their medians"
    else:
        matched = (
            f"The models are {depths[0]} and {depths[1]} blocks deep, so no layer has its counterpart: families are "
            "matched by thirds of the depth, by their medians there"
        )
    correlations = [
        correlation(field, _layer_points(first, second, names, field), over_blocks=True)
        if by_name
        else correlation(field, _third_points(first, second, field), over_blocks=False)
        for field in QUANTITIES
    ]
    return LayerPair(first, second, by_name, matched, correlations)


def depth(record: Record) -> int:
    """How many blocks a record covers."""
    return 1 + max(int(layer["layer_idx"]) for layer in record["layers"].values())


def correlation(field: str, points: list[Point], *, over_blocks: bool) -> Correlation:
    """Spearman's rho over points, with a jackknife interval over blocks where they are layers."""
    rho = _spearman(points)
    if rho is None or not over_blocks:
        return Correlation(field, points, rho)
    blocks = sorted({point.block for point in points})
    without = [_spearman([point for point in points if point.block != block]) for block in blocks]
    left_out = [value for value in without if value is not None]
    if len(left_out) < len(blocks) or len(blocks) < FEWEST["blocks"]:
        return Correlation(field, points, rho)
    interval = jackknife_estimate(rho, np.array(left_out), resampled="blocks").interval
    return Correlation(field, points, rho, max(interval.lower, -1.0), min(interval.upper, 1.0))


def family_rows(record: Record) -> dict[str, dict[str, float | None]]:
    """By family: how many layers, mean kurtosis, mean and median reduction, mean top-1% share, median best alpha."""
    families: dict[str, list[dict[str, Any]]] = {}
    for layer in record["layers"].values():
        families.setdefault(str(layer["module_type"]), []).append(layer)
    return {
        family: {
            "layers": float(len(layers)),
            "mean kurtosis": _mean(layer["mean_kurtosis"] for layer in layers),
            "mean reduction": _mean(layer["awq_reduction_3bit"] for layer in layers),
            "median reduction": _median(layer["awq_reduction_3bit"] for layer in layers),
            "mean top-1% share": _mean(layer["top1pct_importance_share"] for layer in layers),
            "median best alpha": _median((layer.get("awq_best_alpha") or {}).get("3") for layer in layers),
        }
        for family, layers in families.items()
    }


def _layer_points(first: Record, second: Record, names: list[str], field: str) -> list[Point]:
    points = []
    for name in names:
        one, other = first["layers"][name], second["layers"][name]
        if one[field] is not None and other[field] is not None:
            family, block = str(one["module_type"]), int(one["layer_idx"])
            points.append(Point(name, family, block, float(one[field]), float(other[field])))
    return points


def _third_points(first: Record, second: Record, field: str) -> list[Point]:
    mine, theirs = _by_third(first, field), _by_third(second, field)
    return [
        Point(f"{family}, {THIRDS[third]} third", family, third, mine[family, third], theirs[family, third])
        for family, third in mine
        if (family, third) in theirs
    ]


def _by_third(record: Record, field: str) -> dict[tuple[str, int], float]:
    deep = depth(record)
    values: dict[tuple[str, int], list[float]] = {}
    for layer in record["layers"].values():
        if layer[field] is not None:
            third = 3 * int(layer["layer_idx"]) // deep
            values.setdefault((str(layer["module_type"]), third), []).append(float(layer[field]))
    return {place: float(np.median(found)) for place, found in values.items()}


def _spearman(points: list[Point]) -> float | None:
    first, second = [point.first for point in points], [point.second for point in points]
    if len(points) < FEWEST_POINTS or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second)[0])


def _numbers(values: Iterable[Any]) -> list[float]:
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def _mean(values: Iterable[Any]) -> float | None:
    found = _numbers(values)
    return float(np.mean(found)) if found else None


def _median(values: Iterable[Any]) -> float | None:
    found = _numbers(values)
    return float(np.median(found)) if found else None
