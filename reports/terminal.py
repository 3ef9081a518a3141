"""The end of a session on the terminal: the answer first, then the table of verdicts, then where the reports are."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from awq_core.judging.evidence import Verdict
from reports.false_verdicts import trust
from reports.judged_claims import JudgedClaims
from reports.verdict_words import (
    APPEARANCES,
    Claim,
    catalogue_order,
    counted,
    interval_text,
    is_changed,
    is_registered,
    number,
    threshold_text,
    verdict_of,
    words,
)

NARROWEST = 120
"""Columns assumed where the output is no terminal, as in a log."""
DIGITS = 3
"""Significant digits in the table; the files have them all."""


def write_summary(
    reporter: pytest.TerminalReporter,
    judged: JudgedClaims,
    models: Sequence[str],
    answers: Sequence[str],
    folders: Sequence[Path],
    *,
    complete: bool,
    blamed: bool,
    published: Sequence[str] = (),
) -> None:
    """Write the whole summary.

    Args:
        reporter: pytest's terminal.
        judged: what was judged.
        models: the models in the order to show them.
        answers: one sentence for each.
        folders: one output folder for each.
        complete: False after Ctrl-C or another early end.
        blamed: whether unsettled verdicts alone are why the exit status is 1.
        published: sentences on how ours compare with published numbers; empty ones are left out.
    """
    reporter.section("the answer", sep="=", bold=True)
    for sentence in answers:
        reporter.write_line(sentence)
    reporter.section("verdicts", sep="=", bold=True)
    if not complete:
        reporter.write_line("PARTIAL: the run ended before every claim was judged.", yellow=True, bold=True)
    width = reporter._tw.fullwidth if reporter.isatty else max(reporter._tw.fullwidth, NARROWEST)
    reporter.write_line(_legend(judged.all()))
    reporter.write_line("")
    for columns in _tables(judged, models):
        reporter._tw.write(_drawn(_table(judged, columns), width, reporter.hasmarkup))
    for name in models:
        if claims := judged.of(name):
            counts = ", ".join(f"{count} {verdict}" for verdict, count in counted(map(verdict_of, claims)).items())
            reporter.write_line(f"{name}: {counts}. {trust(claims).sentence}")
        if failed := judged.broke_down(name):
            are = "1 claim" if failed == 1 else f"{failed} claims"
            reporter.write_line(f"{name}: {are} ended in an error and got no verdict.", red=True)
    for line in filter(None, published):
        reporter.write_line(line)
    for name, folder in zip(models, folders, strict=True):
        reporter.write_line(f"report on {name}: {folder / 'report.html'}")
    if blamed:
        keys = [f"{claim['key']} ({', '.join(claim['models'])}): {words(claim)}" for claim in judged.unsettled()]
        reporter.write_line(
            f"Exit status 1: {len(keys)} verdict{'s' if len(keys) > 1 else ''} "
            "neither supported nor registered for the model: "
            + "; ".join(keys[:8])
            + (f"; and {len(keys) - 8} more" if len(keys) > 8 else ""),
            red=True,
        )


def _tables(judged: JudgedClaims, models: Sequence[str]) -> list[list[tuple[str, ...]]]:
    """Which columns go together: up to three single models side by side, then every pair on its own."""
    keys = list(dict.fromkeys(owners for owners, _ in judged.claims))
    single: list[tuple[str, ...]] = [(name,) for name in models if (name,) in keys]
    pairs = [owners for owners in sorted(keys) if len(owners) > 1]
    return [single[start : start + 3] for start in range(0, len(single), 3)] + [[pair] for pair in pairs]


def _table(judged: JudgedClaims, columns: Sequence[tuple[str, ...]]) -> Table:
    """Claims down, models across."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("claim", no_wrap=True)
    table.add_column("supported if", no_wrap=True)
    for owners in columns:
        table.add_column(" and ".join(owners), overflow="fold")
    shown = {key: claim for (owners, key), claim in judged.claims.items() if owners in columns}
    for key, claim in sorted(shown.items(), key=lambda item: catalogue_order(item[1])):
        cells = [_cell(judged.claims.get((owners, key))) for owners in columns]
        table.add_row(key, threshold_text(claim), *cells)
    return table


def _cell(claim: Claim | None) -> Text:
    """The verdict's symbol before the numbers, or its word where there are none; marked where one is registered."""
    if claim is None:
        return Text("")
    verdict = verdict_of(claim)
    appearance = APPEARANCES[verdict]
    text = Text(appearance.symbol, style=appearance.terminal)
    if is_registered(claim) and verdict is not Verdict.SUPPORTED:
        text.append("*")
    elif is_changed(claim):
        text.append("!")
    if claim["estimate"] is None:
        return text.append(f" {verdict.value}")
    text.append(f" {number(claim['estimate'], DIGITS)}", style="bold")
    return text.append(f" {interval_text(claim, DIGITS)}", style="not bold")


def _legend(claims: Sequence[Claim]) -> str:
    """What the symbols stand for, of those that appear."""
    present = {verdict_of(claim) for claim in claims}
    parts = [f"{APPEARANCES[verdict].symbol} {verdict.value}" for verdict in Verdict if verdict in present]
    if any(is_registered(claim) and verdict_of(claim) is not Verdict.SUPPORTED for claim in claims):
        parts.append("* registered for the model")
    if any(map(is_changed, claims)):
        parts.append("! another verdict is registered")
    return "   ".join(parts)


def _drawn(table: Table, width: int, colour: bool) -> str:
    """The table as text; rich draws it, pytest's terminal writes it, so capturing and colour settings hold."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        no_color=not colour,
        color_system="standard" if colour else None,
    )
    console.print(table)
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n\n"
