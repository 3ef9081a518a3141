"""One run in Markdown, for a pull request or a job's summary: the answer, the counts, and what wants to be read.

    python -m reports.summary reports/out/embedded-small >> "$GITHUB_STEP_SUMMARY"

The argument is an output folder or its evidence file. Listed are the verdicts that are not as registered, and the
refuted and inconclusive ones; under 200 lines whatever the run. A partial run is summed up too, and says so. Exit
status: 0; 4 where the file is missing or no evidence (one line says why).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from awq_core.judging.evidence import Verdict
from reports.command import Parser
from reports.compare.__main__ import write_out
from reports.compare.inputs import InputError, Run, read_run
from reports.false_verdicts import trust
from reports.tables import Cell, Table
from reports.verdict_words import (
    Claim,
    catalogue_order,
    grouping,
    interval_text,
    is_registered,
    number,
    tally,
    threshold_text,
    verdict_of,
)

MOST_ROWS = 70
"""Of each table: two of them and what stands around stay under 200 lines."""
DIGITS = 3
REPORTS = {"report.html": "the report", "evidence.json": "the evidence", "diagnostic.json": "layer by layer"}


def summary(run: Run) -> str:
    """The whole summary."""
    claims = sorted(run.claims, key=catalogue_order)
    changed = [claim for claim in claims if claim.get("registered") is not None and not is_registered(claim)]
    unsupported = (Verdict.REFUTED, Verdict.INCONCLUSIVE)
    against = [claim for claim in claims if claim not in changed and verdict_of(claim) in unsupported]
    parts = [f"# AWQ claims on {run.name}"]
    if not run.record.get("complete"):
        parts.append("**Partial: the run ended before every claim was judged.**")
    if answer := run.record.get("answer"):
        parts.append(str(answer))
    parts += [counts(claims), trust(claims).sentence, conditions(run)]
    if changed:
        parts += ["## Not as registered", _table(changed, "Verdicts that differ from the registered ones")]
    elif any(claim.get("registered") for claim in claims):
        parts.append("Every registered verdict came out as registered.")
    else:
        parts.append("No verdicts are registered for this model.")
    if against:
        besides = " besides" if changed else ""
        parts += [f"## Refuted and inconclusive{besides}", _table(against, "Refuted and inconclusive claims")]
    parts += ["## Reports", "\n".join(reports(run))]
    return "\n\n".join(filter(None, parts)) + "\n"


def counts(claims: Sequence[Claim]) -> str:
    """How many claims came out which way."""
    return f"**{tally(map(verdict_of, claims)) or 'No claim was judged.'}**"


def conditions(run: Run) -> str:
    """What was measured, and how."""
    model = run.model
    how = [*(model.get(key) for key in ("effort", "dtype", "device_name")), grouping(model)]
    texts = [model.get(key) for key in ("calibration_text", "heldout_text")]
    words = [*how, " and ".join(str(text) for text in texts if text), run.record.get("generated")]
    return f"Measured: {', '.join(str(word) for word in words if word)}."


def reports(run: Run) -> list[str]:
    """Where the run's files are."""
    folder = run.path.parent
    return [f"- {words}: `{folder / name}`" for name, words in REPORTS.items() if (folder / name).exists()]


def _table(claims: Sequence[Claim], caption: str) -> str:
    rows = [
        [
            Cell(claim["key"], code=True),
            Cell(claim["verdict"], verdict_of(claim)),
            Cell(f"{number(claim['estimate'], DIGITS)} {interval_text(claim, DIGITS)}".strip()),
            Cell(threshold_text(claim)),
            Cell(_registered(claim)),
            Cell(claim["words"]),
        ]
        for claim in claims[:MOST_ROWS]
    ]
    headings = ("claim", "verdict", "estimate [95% interval]", "supported if", "registered", "statement")
    table = Table(caption, headings, rows).markdown()
    more = len(claims) - MOST_ROWS
    return f"{table}\n\nand {more} more, in the report." if more > 0 else table


def _registered(claim: Claim) -> str:
    registered = claim.get("registered")
    if registered is None:
        return ""
    if is_registered(claim):
        return "as registered"
    other = "" if registered.get("conditions_met", True) else ", under other conditions"
    version = "" if registered.get("version") == claim["version"] else f" (version {registered.get('version')})"
    return f"{registered['verdict']}{version}{other}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = Parser(
        prog="python -m reports.summary", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="output folder or evidence file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write it there, not to the terminal")
    chosen = parser.parse_args(arguments)
    try:
        text = summary(read_run("A", chosen.run, partial=True))
        write_out({chosen.markdown: text.encode()})
    except InputError as error:
        parser.error(str(error))
    if chosen.markdown is None:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
