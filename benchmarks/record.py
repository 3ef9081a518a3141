"""Record of a benchmark run, as JSON by `benchmarks/schema.json`: conditions, stages, rates, and both searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import mean
from typing import Any

import torch

from benchmarks.comparison import SearchComparison
from benchmarks.stages import Stage
from fixtures.models.device import dtype_name

SCHEMA_VERSION = 2
"""Version of the record's schema, raised whenever a field changes its name or its meaning."""

Rates = dict[torch.dtype, list[float]]
"""Rates of matrix products by dtype, in operations per second, measured before and after the stages."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of a run, as the plain values that are written.

    Attributes:
        machine: description of the machine.
        model: name and sizes of the model.
        settings: settings of the measurement.
        load: load averages before and after the run.
    """

    machine: dict[str, Any]
    model: dict[str, Any]
    settings: dict[str, Any]
    load: list[float | None]


def record(
    conditions: Conditions,
    stages: Sequence[Stage],
    rates: Rates,
    search: SearchComparison | None,
    whole: dict[str, float],
    missing: Sequence[str],
) -> dict[str, Any]:
    """Make the record of one run, in plain values.

    Args:
        conditions: conditions of the run.
        stages: measured stages.
        rates: rates of matrix products.
        search: comparison with the official search, or None.
        whole: seconds of a whole measurement by stage of `fixtures.measuring.model`; empty if there was none.
        missing: places of `benchmarks.stages.PLACES` that no longer exist in the suite.
    """
    rows = [_row(stage, rates) for stage in stages]
    ratios = dict(search.ratios()) if search is not None else {}
    ratios |= {f"share:{row['run']}:{row['stage']}": row["share"] for row in rows if row["share"] is not None}
    return {
        "schema": SCHEMA_VERSION,
        "generated": datetime.now(UTC).isoformat(timespec="seconds"),
        **asdict(conditions),
        "rates": {dtype_name(dtype): found for dtype, found in rates.items()},
        "stages": rows,
        "whole": whole,
        "search": None if search is None else search.as_dict(),
        "ratios": ratios,
        "missing": list(missing),
    }


def _row(stage: Stage, rates: Rates) -> dict[str, Any]:
    return {
        "run": stage.run,
        "stage": stage.name,
        "seconds": stage.seconds,
        "operations": stage.operations,
        "share": share(stage, rates),
        "peak_memory": stage.peak,
    }


def share(stage: Stage, rates: Rates) -> float | None:
    """Share of a stage's seconds that its products would take at the measured rates; None if it has no products."""
    if not stage.operations:
        return None
    return sum(count / mean(rates[dtype]) for dtype, count in stage.products.items()) / stage.seconds


def judge_limits(found: dict[str, float], limits: Sequence[str]) -> list[dict[str, Any]]:
    """Compare ratios with limits: a regret may be at most its limit, any other ratio must be at least its limit.

    Args:
        found: ratios by name.
        limits: limits as `NAME=VALUE`.

    Raises:
        ValueError: if a limit has another form, or names no ratio.
    """
    judged = []
    for limit in limits:
        name, separator, given = limit.rpartition("=")
        if not separator or name not in found:
            raise ValueError(f"--limit {limit!r}: no such ratio; there are {', '.join(found)} (give NAME=VALUE)")
        value, most = float(given), name.startswith("regret")
        reached = found[name] <= value if most else found[name] >= value
        bound = "at most" if most else "at least"
        judged.append({"ratio": name, "bound": bound, "limit": value, "found": found[name], "reached": reached})
    return judged
