"""A record as it is printed."""

from __future__ import annotations

from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from fixtures.models.cost import bytes_in_words, time_in_words


def print_record(record: dict[str, Any], console: Console) -> None:
    """The conditions, the stages, the searches, the whole."""
    model, machine, settings = record["model"], record["machine"], record["settings"]
    console.print(
        f"{model['name']}: {model['blocks_measured']} of {model['blocks']} blocks, hidden {model['hidden']}, "
        f"{settings['dtype']}, arithmetic {settings['arithmetic']}, effort {settings['effort']}"
    )
    console.print(
        f"{machine['device']} ({machine['processor']}), {machine['threads']} of {machine['cores']} threads, "
        f"load {' to '.join(map(str, record['load']))}, {settings['clock']} seconds"
    )
    rates = ", ".join(f"{name} {mean(found) / 1e9:.0f}" for name, found in record["rates"]["products"].items())
    console.print(
        f"matrix products, 10^9 operations a second: {rates}; copy {mean(record['rates']['copy']) / 1e9:.1f} GB/s"
    )
    if record["stages"]:
        console.print(stages_table(record))
    if record["search"] is not None:
        console.print(search_sentence(record["search"], record["ratios"]))
    whole = record["whole"]
    if whole["estimated_seconds"] is not None:
        console.print(f"a whole measurement, from these stages: about {time_in_words(whole['estimated_seconds'])}")
    if whole["measured_seconds"] is not None:
        console.print(f"a whole measurement, measured: {time_in_words(whole['measured_seconds'])}")
    for place in record["missing"]:
        console.print(f"not told apart: {place} is not in the suite any more (benchmarks/stages.py)")


def stages_table(record: dict[str, Any]) -> Table:
    """One row a stage."""
    table = Table(box=None, pad_edge=False)
    table.add_column("run")
    table.add_column("stage")
    for column in ("seconds", "10^9 op", "of", "10^9 op/s", "share", "traffic", "memory", "in whole"):
        table.add_column(column, justify="right")
    whole = record["whole"]["estimated_seconds"]
    for row in record["stages"]:
        memory = row["peak_memory"].get("gpu", row["peak_memory"]["process"])
        table.add_row(
            row["run"],
            row["stage"],
            f"{row['seconds']:.2f}",
            *(
                "" if row[key] is None else f"{row[key] / 1e9:.1f}"
                for key in ("operations", "definition", "operations_per_second")
            ),
            *("" if row[key] is None else f"{100 * row[key]:.1f}%" for key in ("share", "traffic_share")),
            bytes_in_words(memory),
            f"{100 * row['seconds'] * row['times_in_whole'] / whole:.0f}%",
        )
    return table


def search_sentence(search: dict[str, Any], ratios: dict[str, float]) -> str:
    """What the comparison of the searches found."""
    official = search["official_gathering"] + search["official_searching"]
    own = search["gathering"] + search["searching"]
    return (
        f"block search, {search['blocks']} blocks, {search['tokens']} tokens, {search['bits']} bits: official replay "
        f"{official:.2f} s, the suite's {own:.2f} s ({ratios['search']:.2f} times as fast; without gathering "
        f"{ratios['search-alone']:.2f}); the same exponent in {search['same_exponents']} of {search['groups']} groups, "
        f"block output error {search['official_error']:.6f} and {search['error']:.6f}"
    )
