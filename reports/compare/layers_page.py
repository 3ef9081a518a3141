"""Two per-layer records side by side: as Markdown, and as a page with a scatter figure for each quantity."""

from __future__ import annotations

from reports.compare.layer_definitions import definitions
from reports.compare.layers import QUANTITIES, Correlation, LayerPair, Record, compare_layers, family_rows
from reports.figures.agreement import agreement
from reports.figures.canvas import style
from reports.html.environment import render
from reports.tables import Cell, Table
from reports.verdict_words import number

DIGITS = 3
compared = compare_layers


def title(pair: LayerPair) -> str:
    """What is compared."""
    return f"Layers of {pair.first['model']} and {pair.second['model']}"


def families_table(pair: LayerPair) -> Table:
    """By family, both records side by side."""
    rows_of = family_rows(pair.first), family_rows(pair.second)
    columns = list(next(iter(rows_of[0].values())))
    rows = []
    for family in dict.fromkeys([*rows_of[0], *rows_of[1]]):
        cells = [Cell(family, code=True)]
        for column in columns:
            values = [rows.get(family, {}).get(column) for rows in rows_of]
            cells.append(Cell(" / ".join(number(value, DIGITS) or "none" for value in values)))
        rows.append(cells)
    headings = ["family", *(f"{column}, A / B" for column in columns)]
    return Table("By family: A / B", headings, rows)


def correlations_table(pair: LayerPair) -> Table:
    """Rank correlations between the two records."""
    rows = [
        [Cell(QUANTITIES[found.quantity]), Cell(_rho(found)), Cell(_interval(found)), Cell(str(len(found.points)))]
        for found in pair.correlations
    ]
    over = "layers" if pair.by_name else "families x thirds"
    headings = ["quantity", "Spearman's rho", "95% interval over blocks", over]
    return Table("Rank correlation between A and B", headings, rows)


def markdown(pair: LayerPair) -> str:
    """The whole comparison."""
    parts = [
        f"# {title(pair)}",
        _subtitle(pair),
        "## Do the same layers stand out?",
        _matched(pair),
        correlations_table(pair).markdown(),
        "## By family",
        families_table(pair).markdown(),
        "## What is compared",
        "\n".join(f"- {sentence}" for sentence in definitions(pair.first, pair.second)),
    ]
    return "\n\n".join(parts) + "\n"


def layers_page(pair: LayerPair) -> bytes:
    """The page, with the figures embedded."""
    with style():
        drawings = [agreement(pair, found) for found in pair.correlations if found.points]
    return render(
        "layers.jinja2",
        title=title(pair),
        subtitle=_subtitle(pair),
        matched=_matched(pair),
        correlations=correlations_table(pair),
        families=families_table(pair),
        definitions=definitions(pair.first, pair.second),
        drawings=drawings,
    )


def _subtitle(pair: LayerPair) -> str:
    return f"A: {_who(pair.first)}. B: {_who(pair.second)}."


def _who(record: Record) -> str:
    info = record.get("model_info") or {}
    layers = f"{len(record['layers'])} linears"
    parameters = info.get("num_params")
    size = f", {parameters:,} parameters" if isinstance(parameters, int) else ""
    return f"{record['model']} ({layers}{size})"


def _matched(pair: LayerPair) -> str:
    shared = " Linears that read one input (q, k and v; gate and up) share its kurtosis, so it counts once for each."
    return f"{pair.matched}.{shared if pair.by_name else ''}"


def _rho(found: Correlation) -> str:
    return number(found.rho, DIGITS) if found.rho is not None else "none: too few points or no variation"


def _interval(found: Correlation) -> str:
    if found.lower is None or found.upper is None:
        return "none"
    return f"[{number(found.lower, DIGITS)}, {number(found.upper, DIGITS)}]"
