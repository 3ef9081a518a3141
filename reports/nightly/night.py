"""Tonight's evidence against the night before's, model by model, and the site that shows both.

    python -m reports.nightly.night before tonight site --changes changes.md

Evidence lies at `<torch>/<model>/evidence.json` below either folder; `before` may be missing, as in the first night.
The site gets each model's report and evidence, a page for each comparison, and an index. The summary goes to the
terminal, in Markdown. `--changes` is written only where a claim changed. Exit status: 0; 4 without evidence of tonight.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reports.command import Parser
from reports.compare import __main__ as compare
from reports.evidence_file import read_evidence
from reports.html.environment import render
from reports.verdict_words import tally
from reports.writing import write_whole

PUBLISHED = ("report.html", "evidence.json", "diagnostic.json")
REPORT, COMPARISON = "report.html", "comparison.html"
UNCHANGED, CHANGED = "no claim changed", "changed since the night before"
FIRST = "first night"
PARTIAL = "partial tonight: not compared"
MISSING = "no evidence tonight"
UNREADABLE = "cannot be compared: the log says why"
HEADINGS = ("Model", "torch", "Verdicts", "Since the night before", "Measured", "Read")


@dataclass(frozen=True)
class Key:
    """What makes two runs of two nights the same measurement."""

    torch: str
    model: str


@dataclass(frozen=True)
class Entry:
    """One model's night.

    Attributes:
        model: its name.
        torch: the torch it was measured under: a version, or pinned.
        status: what became of the comparison with the night before, in words.
        measured: when.
        verdicts: one for each claim.
        links: words to a path relative to the page.
    """

    model: str
    torch: str
    status: str
    measured: str = ""
    verdicts: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)


def evidence_below(folder: Path) -> dict[Key, Path]:
    """Every model's output folder, by torch and model; none where the folder is missing."""
    found = sorted(folder.glob("**/evidence.json"))
    return {Key(path.parent.parent.name, path.parent.name): path.parent for path in found}


def night(before: Path, tonight: Path, site: Path) -> tuple[list[Entry], str]:
    """Compare, and write the site.

    Args:
        before: the reference; it may be missing.
        tonight: what is compared with it.
        site: the folder that is published; made here.

    Returns:
        One entry for each model of either night, and the Markdown of those that changed: empty where none did.
    """
    earlier, later = evidence_below(before), evidence_below(tonight)
    entries, changes = [], []
    for key in sorted(earlier.keys() | later.keys(), key=lambda key: (key.model, key.torch)):
        if key not in later:
            entries.append(Entry(key.model, key.torch, MISSING))
            continue
        target = site / key.torch / key.model
        _publish(later[key], target)
        record = read_evidence(later[key] / "evidence.json")
        status, text = _compared(earlier.get(key), later[key], record, target)
        entries.append(_entry(key, record, status, target, site))
        changes += [f"## {key.model}, torch {key.torch}\n\n{text}"] if status == CHANGED else []
    write_whole(site / "index.html", index_page(entries))
    return entries, "\n\n".join(changes)


def summary(entries: Sequence[Entry]) -> str:
    """The table in Markdown, without links: artifacts are not reached from a job's summary."""
    rows = [(one.model, one.torch, tally(one.verdicts), one.status, one.measured) for one in entries]
    lines = [HEADINGS[:-1], tuple("---" for _ in HEADINGS[:-1]), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def index_page(entries: Sequence[Entry]) -> bytes:
    """The site's first page; it needs nothing but itself and the reports beside it."""
    explained = (
        "Each model's claims as measured in the last night, and what changed since the night before it. "
        "A refuted claim is a result; only a change opens an issue."
    )
    title = "AWQ claims, nightly"
    return render("nightly.jinja2", title=title, subtitle=explained, headings=HEADINGS, entries=entries)


def _publish(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in PUBLISHED:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def _compared(before: Path | None, tonight: Path, record: dict[str, Any], target: Path) -> tuple[str, str]:
    """The status of one model, and the comparison's Markdown where there is one."""
    if not record["complete"]:
        return PARTIAL, ""
    if before is None or not read_evidence(before / "evidence.json")["complete"]:
        return FIRST, ""
    markdown = target / "comparison.md"
    files = ["--markdown", str(markdown), "--html", str(target / COMPARISON)]
    try:
        changed = compare.main([str(before), str(tonight), *files, "--fail-on-change"])
    except SystemExit:
        return UNREADABLE, ""
    return (CHANGED if changed else UNCHANGED), markdown.read_text(encoding="utf-8")


def _entry(key: Key, record: dict[str, Any], status: str, target: Path, site: Path) -> Entry:
    links = {words: target / name for words, name in (("report", REPORT), ("comparison", COMPARISON))}
    return Entry(
        key.model,
        key.torch,
        status,
        measured=str(record.get("generated", "")),
        verdicts=tuple(claim["verdict"] for claim in record["claims"]),
        links={words: path.relative_to(site).as_posix() for words, path in links.items() if path.exists()},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = Parser(
        prog="python -m reports.nightly.night",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path, help="the reference's artifacts")
    parser.add_argument("tonight", type=Path, help="tonight's artifacts")
    parser.add_argument("site", type=Path, help="the folder to publish")
    parser.add_argument("--changes", type=Path, metavar="FILE", help="written only where a claim changed")
    chosen = parser.parse_args(arguments)
    if not evidence_below(chosen.tonight):
        parser.error(f"there is no evidence below {chosen.tonight}")
    entries, changes = night(chosen.before, chosen.tonight, chosen.site)
    if changes and chosen.changes:
        write_whole(chosen.changes, changes.encode())
    print(summary(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
