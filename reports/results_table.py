"""The results tables of the README and of `docs/results.md`, written from evidence files.

    python -m reports.results_table reports/out/smollm2-135m-q4 reports/out/embedded-tiny reports/out/embedded-small

The README's part between its two markers, and the whole of `docs/results.md`, are replaced. `--check` writes
nothing and fails where they are not what the evidence says.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports.command import Parser
from reports.evidence_file import read_evidence
from reports.verdict_words import APPEARANCES, Claim, catalogue_order, grouping, number, tally, verdict_of

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ("reduction_by_family.png", "perplexity_by_strategy.png", "kurtosis_by_block.png")
"""Figures of the first model that README and documents show."""
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def group_table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: for each group and model, how many claims came out which way."""
    names = [record["model"]["name"] for record in records]
    lines = ["| group | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for group in _groups(records):
        cells = [
            tally(verdict_of(claim) for claim in record["claims"] if claim["group"] == group) for record in records
        ]
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    answers = [f"- {record['answer']}" for record in records]
    return "\n".join([*answers, "", *lines])


def full_table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: every claim's verdict, estimate and interval on every model, and the untrained twin's estimate."""
    names = [record["model"]["name"] for record in records]
    claims: dict[str, dict[str, Claim]] = {}
    for record in records:
        for claim in record["claims"]:
            claims.setdefault(claim["key"], {})[record["model"]["name"]] = claim
    ordered = sorted(claims.values(), key=lambda found: catalogue_order(next(iter(found.values()))))
    lines = ["| claim | supported if | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for found in ordered:
        first = next(iter(found.values()))
        threshold = first["threshold"]["text"] if first["threshold"] else "reported"
        cells = [_cell(found[name]) if name in found else "" for name in names]
        lines.append(f"| `{first['key']}` | {threshold} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def replaced(text: str, table: str) -> str:
    """A document with the part between its markers replaced.

    Raises:
        ValueError: if the markers are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document needs the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _groups(records: Sequence[dict[str, Any]]) -> list[str]:
    claims = sorted((claim for record in records for claim in record["claims"]), key=catalogue_order)
    return list(dict.fromkeys(claim["group"] for claim in claims))


def _cell(claim: Claim) -> str:
    verdict = verdict_of(claim)
    symbol = APPEARANCES[verdict].symbol
    if claim["estimate"] is None:
        return f"{symbol} {verdict}"
    text = f"{symbol} {number(claim['estimate'])}"
    if claim["interval"]:
        text += f" [{number(claim['interval']['lower'])}, {number(claim['interval']['upper'])}]"
    if claim["twin_estimate"] is not None:
        text += f"; untrained {number(claim['twin_estimate'])}"
    return text


def _document(records: Sequence[dict[str, Any]]) -> str:
    texts = "; ".join(
        f"{r['model']['name']}: effort {r['model']['effort']}, {r['model']['dtype']}, {r['model']['device']}, "
        f"{grouping(r['model'])}, "
        f"seed {r['model']['seed']}, {r['model']['calibration_text']} and {r['model']['heldout_text']}, "
        f"Python {r['model']['python']}"
        for r in records
    )
    legend = ", ".join(f"{look.symbol} {verdict}" for verdict, look in APPEARANCES.items())
    return (
        "# Results\n\n"
        "Written by `python -m reports.results_table` from the evidence of `make claims`, and of "
        "`make claims MODEL=embedded`. "
        f"{legend}. Estimates stand with their 95% intervals; `@4` and `@3` are bits.\n\n{texts}.\n\n"
        f"{full_table(records)}\n"
    )


def main() -> None:
    """Command line: output folders of models."""
    parser = Parser(
        prog="python -m reports.results_table",
        description="Write the results tables from evidence files, and copy the first model's figures to docs.",
    )
    parser.add_argument("outputs", nargs="+", type=Path, help="folders that hold evidence.json")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a table is out of date")
    arguments = parser.parse_args()
    try:
        records = [read_evidence(output / "evidence.json") for output in arguments.outputs]
    except ValueError as problem:
        parser.error(str(problem))
    readme = ROOT / "README.md"
    wanted = {
        readme: replaced(readme.read_text(encoding="utf-8"), group_table(records)),
        ROOT / "docs" / "results.md": _document(records),
    }
    for path, text in wanted.items():
        if arguments.check and path.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{path.name} is not what the evidence says; run python -m reports.results_table")
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
    figures = [arguments.outputs[0] / "figures" / name for name in FIGURES]
    if not arguments.check and all(path.is_file() for path in figures):
        for path in figures:
            shutil.copyfile(path, ROOT / "docs" / "images" / path.name)
    elif not arguments.check:
        print(f"{figures[0].parent} lacks figures: those of the documents stay as they are", file=sys.stderr)


if __name__ == "__main__":
    main()
