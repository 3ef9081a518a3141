"""`benchmark.json`: stages, rates, the comparison of the searches, and what they ran on (`benchmarks/schema.json`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import mean
from typing import Any

import torch

from benchmarks.comparison import SearchComparison
from benchmarks.operations import Work
from benchmarks.stages import Stage, times_in_whole
from fixtures.models.device import dtype_name

SCHEMA_VERSION = 1
"""Raised whenever a field changes its name or its meaning."""

Rates = dict[torch.dtype, list[float]]
"""Operations a second by dtype, measured before the stages and after them."""


@dataclass(frozen=True)
class Conditions:
    """What a run was made under: plain values, each as it is written."""

    machine: dict[str, Any]
    model: dict[str, Any]
    settings: dict[str, Any]
    load: list[float | None]


def record(
    conditions: Conditions,
    stages: Sequence[Stage],
    rates: Rates,
    copies: Sequence[float],
    search: SearchComparison | None,
    whole: dict[str, float],
    missing: Sequence[str],
) -> dict[str, Any]:
    """The record of one run, in plain values.

    Args:
        conditions: of the run.
        stages: as measured.
        rates: of matrix products.
        copies: bytes a second, before and after.
        search: the comparison with the official search, or None.
        whole: seconds of a whole measurement by stage of `fixtures.measuring`; empty where none was made.
        missing: parts that could not be told apart.
    """
    blocks, measured = conditions.model["blocks"], conditions.model["blocks_measured"]
    rows = [_row(stage, rates, copies, times_in_whole(stage, blocks, measured)) for stage in stages]
    ratios = dict(search.ratios()) if search is not None else {}
    ratios |= {f"share:{row['run']}:{row['stage']}": row["share"] for row in rows if row["share"] is not None}
    return {
        "schema": SCHEMA_VERSION,
        "generated": datetime.now(UTC).isoformat(timespec="seconds"),
        **asdict(conditions),
        "rates": {
            "products": {dtype_name(dtype): found for dtype, found in rates.items()},
            "copy": list(copies),
        },
        "stages": rows,
        "whole": {
            "estimated_seconds": sum(row["seconds"] * row["times_in_whole"] for row in rows) if rows else None,
            "measured_seconds": sum(whole.values()) if whole else None,
            "measured_stages": whole,
        },
        "search": None if search is None else search.as_dict(),
        "ratios": ratios,
        "missing": list(missing),
    }


def _row(stage: Stage, rates: Rates, copies: Sequence[float], times: float) -> dict[str, Any]:
    work = stage.work
    return {
        "run": stage.run,
        "stage": stage.name,
        "seconds": stage.seconds,
        "operations": None if work is None else work.operations,
        "definition": stage.definition,
        "bytes": None if work is None else work.traffic,
        "operations_per_second": None if work is None else work.operations / stage.seconds,
        "share": share(work, stage.seconds, rates),
        "traffic_share": None if work is None else work.traffic / mean(copies) / stage.seconds,
        "times_in_whole": times,
        "peak_memory": stage.peak,
    }


def share(work: Work | None, seconds: float, rates: Rates) -> float | None:
    """Seconds that the work's products take at the measured rates, over the seconds that the stage took."""
    if work is None or not work.operations:
        return None
    return sum(count / mean(rates[dtype]) for dtype, count in work.products.items()) / seconds


def judge_limits(found: dict[str, float], limits: Sequence[str]) -> list[dict[str, Any]]:
    """Every `NAME=VALUE` against the ratio of that name, which must be at least the value.

    Args:
        found: ratios by name.
        limits: as given.

    Raises:
        ValueError: for a limit that is not of that form, or names no ratio.
    """
    judged = []
    for limit in limits:
        name, separator, value = limit.rpartition("=")
        if not separator or name not in found:
            raise ValueError(f"--limit {limit!r}: no such ratio; there are {', '.join(found)} (give NAME=VALUE)")
        judged.append({"ratio": name, "at_least": float(value), "found": found[name]})
    return judged
