"""Tables that print a record."""

from __future__ import annotations

from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from fixtures.cost import bytes_in_words, time_in_words


def print_record(record: dict[str, Any], console: Console) -> None:
    """Print a record: conditions, stages, searches, and the whole measurement."""
    model, machine, settings = record["model"], record["machine"], record["settings"]
    console.print(
        f"{model['name']}: {model['blocks_measured']} of {model['blocks']} blocks, hidden {model['hidden']}, "
        f"{settings['dtype']}, arithmetic {settings['arithmetic']}, effort {settings['effort']}"
    )
    console.print(
        f"{machine['device']} ({machine['processor']}), {machine['threads']} of {machine['cores']} threads, "
        f"load {' to '.join(map(str, record['load']))}, {settings['clock']} seconds"
    )
    rates = ", ".join(f"{name} {mean(found) / 1e9:.0f}" for name, found in record["rates"].items())
    console.print(f"matrix products, 10^9 operations a second: {rates}")
    if record["stages"]:
        console.print(stages_table(record))
    if record["search"] is not None:
        console.print(choices_table(record["search"]))
        console.print(search_sentence(record["search"], record["ratios"]))
    if record["whole"]:
        console.print(f"a whole measurement: {time_in_words(sum(record['whole'].values()))}")
    for place in record["missing"]:
        console.print(f"not told apart: {place} is not in the suite any more (benchmarks/stages.py)")


def stages_table(record: dict[str, Any]) -> Table:
    """Make the table of stages."""
    table = _table("run", "stage", right=("seconds", "10^9 op", "10^9 op/s", "share", "memory"))
    for row in record["stages"]:
        products = row["operations"] / 1e9
        table.add_row(
            row["run"],
            row["stage"],
            f"{row['seconds']:.2f}",
            *((f"{products:.1f}", f"{products / row['seconds']:.1f}") if products else ("", "")),
            "" if row["share"] is None else f"{100 * row['share']:.1f}%",
            bytes_in_words(row["peak_memory"].get("gpu", row["peak_memory"]["process"])),
        )
    return table


def choices_table(search: dict[str, Any]) -> Table:
    """Make the table of both searches' choices, one row for each group and precision."""
    table = _table("block", "group", right=("bits", "official", "suite", "regret", "tried"))
    for choice in search["choices"]:
        table.add_row(
            str(choice["block"]),
            choice["group"],
            str(choice["bits"]),
            f"{choice['official']:.2f}",
            f"{choice['suite']:.2f}",
            f"{choice['regret']:.2e}",
            f"{100 * choice['tried']:.1f}%",
        )
    return table


def search_sentence(search: dict[str, Any], ratios: dict[str, float]) -> str:
    """Summarise the comparison of the searches in a sentence."""
    official = search["official_gathering"] + search["official_searching"]
    own = search["gathering"] + search["searching"]
    same = sum(choice["official"] == choice["suite"] for choice in search["choices"])
    return (
        f"block search, {search['blocks']} blocks, {search['tokens']} tokens: official replay {official:.2f} s, the "
        f"suite's {own:.2f} s ({ratios['search']:.2f} times as fast; without gathering {ratios['search-alone']:.2f}); "
        f"the same exponent in {same} of {len(search['choices'])} cases, regret {ratios['regret']:.2e} on average, "
        f"{ratios['regret-worst']:.2e} at worst"
    )


def _table(*left: str, right: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in left:
        table.add_column(column)
    for column in right:
        table.add_column(column, justify="right")
    return table
