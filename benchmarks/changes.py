"""Comparison of two records of one model: `python -m benchmarks.changes before.json after.json`.

Durations of the two runs are compared after multiplication by the rate of matrix products in the same run, because a
machine that is slower in one run slows both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from reports.command import Parser

MUST_AGREE = ("effort", "dtype", "arithmetic", "clock", "calibration", "heldout")
"""Settings that must be equal in both records."""


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, float, float, float]]:
    """Compare every stage that both records have.

    Args:
        before: a record.
        after: another record of the same model under the same settings.

    Returns:
        `(stage, seconds before, seconds after, times as fast)` for each stage, the last relative to the machine's rate.

    Raises:
        ValueError: if the records differ in model, settings or number of threads.
    """
    for key in MUST_AGREE:
        if before["settings"][key] != after["settings"][key]:
            raise ValueError(f"the records differ in {key}: {before['settings'][key]} and {after['settings'][key]}")
    if before["model"] != after["model"]:
        raise ValueError("the records are of different models, or of different numbers of blocks")
    if before["machine"]["threads"] != after["machine"]["threads"]:
        raise ValueError("the records differ in threads")
    faster_machine = _rate(after) / _rate(before)
    earlier, later = _seconds(before), _seconds(after)
    return [
        (name, earlier[name], later[name], earlier[name] / later[name] / faster_machine)
        for name in earlier
        if name in later
    ]


def _rate(record: dict[str, Any]) -> float:
    found: float = mean(record["rates"][record["settings"]["arithmetic"]])
    return found


def _seconds(record: dict[str, Any]) -> dict[str, float]:
    found = {f"{row['run']}: {row['stage']}": row["seconds"] for row in record["stages"]}
    if record["search"] is not None:
        found["search: official replay"] = (
            record["search"]["official_gathering"] + record["search"]["official_searching"]
        )
        found["search: the suite's"] = record["search"]["gathering"] + record["search"]["searching"]
    if record["whole"]:
        found["whole"] = sum(record["whole"].values())
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison of two records; the exit status is 4 if they cannot be compared."""
    parser = Parser(
        prog="python -m benchmarks.changes", description="What became faster between two records of one model."
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    given = parser.parse_args(arguments)
    try:
        rows = changes(*(json.loads(path.read_text(encoding="utf-8")) for path in (given.before, given.after)))
    except OSError as problem:
        parser.error(f"{problem.filename} cannot be read ({problem.strerror})")
    except ValueError as problem:
        parser.error(str(problem))
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for column in ("seconds before", "after", "times as fast"):
        table.add_column(column, justify="right")
    for name, earlier, later, ratio in rows:
        table.add_row(name, f"{earlier:.2f}", f"{later:.2f}", f"{ratio:.2f}")
    Console(highlight=False, width=100 if not sys.stdout.isatty() else None).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
