"""The lock of the catalogue: what is registered of each claim, so that none of it changes unnoticed.

    python -m claims.lock

writes `claims/catalogue.lock` from the claims' decorators and code, and the columns of `docs/report.md` that repeat it.
A claim whose threshold, words or estimate have changed needs a raised version first. Where an estimate is the same and
only its code is written otherwise, `--rewritten ID` says so.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from claims.support.catalogue import the_suites_own
from claims.support.claim import Claim
from fixtures.cache.store import without_prose
from reports.command import Parser

FILE = Path(__file__).with_name("catalogue.lock")
TABLES = Path(__file__).parents[1] / "docs" / "report.md"
COMMAND = "python -m claims.lock"
HEAD = f"# What is registered of each claim. Written by `{COMMAND}`, which tests run: never edited by hand.\n"

ROW = re.compile(
    r"\| `(?P<id>[\w.-]+)`(?: \((?P<bits>[\d, ]+)\))?(?P<marks>(?: [†‡§])*) "
    r"\| (?P<estimand>.*) \| (?P<threshold>[^|]*) \| (?P<resampled>[^|]*)\|"
)
"""`| claim (4, 3) † | estimand | threshold | what is resampled |`: id, bits and threshold are the decorator's."""

FOLLOWED, NOT_FOLLOWED = "claims.support.", "claims.support.claim"
"""Modules whose functions count as part of an estimate's code, and the one that says what a claim is."""

Lock = dict[str, dict[str, Any]]
"""By claim, the registered values by name."""


def lock_of(catalogue: Mapping[str, Claim]) -> Lock:
    """The registered values of each claim as they are now, sorted by id."""
    return {identifier: _entry(catalogue[identifier]) for identifier in sorted(catalogue)}


def read_lock(path: Path = FILE) -> Lock:
    """The lock file's values; empty where there is no file."""
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def rendered(lock: Lock) -> str:
    """The lock file's text. JSON's numbers, strings and lists of numbers are TOML's too."""
    tables = [
        f'["{identifier}"]\n'
        + "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in entry.items())
        for identifier, entry in lock.items()
    ]
    return "\n".join([HEAD, *tables])


def changed_unversioned(now: Lock, locked: Lock, rewritten: Collection[str] = ()) -> list[str]:
    """One line for each claim that has changed while its version has not risen: what changed and what to do.

    Args:
        now: from `lock_of`.
        locked: from `read_lock`.
        rewritten: claims whose estimate is written otherwise and is the same.
    """
    lines = []
    for identifier in sorted(now.keys() & locked.keys()):
        new, old = now[identifier], locked[identifier]
        names = {name for name in {**old, **new} if old.get(name) != new.get(name)}
        if new["version"] > old["version"] or not names or (identifier in rewritten and names == {"estimate"}):
            continue
        said = ", ".join(f"{name} (was {old.get(name)}, now {new.get(name)})" for name in sorted(names))
        same = (
            f"; or, where the estimate is the same, {COMMAND} --rewritten {identifier}" if names == {"estimate"} else ""
        )
        lines.append(
            f"{identifier} has changed and is still version {new['version']}: {said}; "
            f"raise the version in its decorator, then run {COMMAND}{same}"
        )
    return lines


def with_tables(text: str, catalogue: Mapping[str, Claim]) -> str:
    """A document with its claims' rows as the decorators say.

    A claim without a row gets one at the end of its group's table, with its words as the estimand. Rows of claims that
    do not exist are left out. Marks, estimands and what is resampled stay as they are.

    Raises:
        ValueError: for a claim whose group has no table.
    """
    lines: list[str] = []
    last: dict[str, int] = {}
    missing = dict(catalogue)
    for line in text.splitlines():
        row = ROW.fullmatch(line)
        if row is None:
            lines.append(line)
        elif (claim := missing.pop(row["id"], None)) is not None:
            lines.append(_row(claim, row["marks"], row["estimand"], row["resampled"]))
            last[claim.group] = len(lines)
    for claim in reversed(missing.values()):
        if claim.group not in last:
            raise ValueError(
                f"docs/report.md has no table for {claim.id}; write one under a heading '### {claim.group}: '"
            )
        resampled = "windows " if claim.level == "model" else "blocks "
        lines.insert(last[claim.group], _row(claim, "", claim.words, resampled))
    return "\n".join(lines) + "\n"


def _row(claim: Claim, marks: str, estimand: str, resampled: str) -> str:
    bits = f" ({', '.join(map(str, claim.bits))})" if claim.bits else ""
    return f"| `{claim.id}`{bits}{marks} | {estimand} | {claim.threshold or 'reported'} | {resampled}|"


def _entry(claim: Claim) -> dict[str, Any]:
    threshold = claim.threshold
    entry = {
        "version": claim.version,
        "above": threshold.lower if threshold else None,
        "below": threshold.upper if threshold else None,
        "unit": claim.unit,
        "kind": claim.kind,
        "level": claim.level,
        "bits": list(claim.bits),
        "words": _hash(claim.words),
        "estimate": _hash(_code(claim)),
    }
    return {name: value for name, value in entry.items() if value is not None}


def _code(claim: Claim) -> str:
    """The estimate's code with the functions and constants that it uses, without decorators and prose.

    Names of the claim's own file and of `claims/support/` are followed, but for what a claim is (`claim.py`). Metrics
    and intervals (`awq_core/judging/`) are not: they have tests of their own.
    """
    found: dict[tuple[str, str], str] = {}
    asked = [(claim.file, claim.estimate.__name__)]
    while asked:
        path, name = asked.pop()
        defined, imported = _names_of(path)
        if name in imported:
            asked.append(imported[name])
        elif name in defined and (path.name, name) not in found:
            source, node = defined[name]
            found[path.name, name] = without_prose(source)
            inside = node.body if isinstance(node, ast.FunctionDef | ast.ClassDef) else [node]
            names = [part for statement in inside for part in ast.walk(statement) if isinstance(part, ast.Name)]
            asked += [(path, part.id) for part in names]
    return "\n".join(found[key] for key in sorted(found))


@functools.cache
def _names_of(path: Path) -> tuple[dict[str, tuple[str, ast.stmt]], dict[str, tuple[Path, str]]]:
    """What a file's names stand for: the source and statement that define one, or the file that it comes from."""
    text = path.read_text(encoding="utf-8")
    defined: dict[str, tuple[str, ast.stmt]] = {}
    imported: dict[str, tuple[Path, str]] = {}
    for node in ast.parse(text).body:
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith(FOLLOWED)
            and node.module != NOT_FOLLOWED
        ):
            file = Path(__file__).parents[1].joinpath(*str(node.module).split(".")).with_suffix(".py")
            imported |= {alias.asname or alias.name: (file, alias.name) for alias in node.names}
        names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
        names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else names
        defined |= {name: (ast.get_source_segment(text, node) or "", node) for name in names}
    return defined, imported


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main() -> None:
    """Command line: writes the lock and the documents' columns, unless a claim has changed under its old version."""
    parser = Parser(prog=COMMAND, description="Write claims/catalogue.lock and the claims' columns of docs/report.md.")
    parser.add_argument(
        "--rewritten",
        action="append",
        default=[],
        metavar="ID",
        help="a claim whose estimate is the same, written otherwise",
    )
    chosen = parser.parse_args()
    catalogue = the_suites_own()
    now = lock_of(catalogue)
    if lines := changed_unversioned(now, read_lock(FILE), chosen.rewritten):
        parser.error("; ".join(lines))
    try:
        tables = with_tables(TABLES.read_text(encoding="utf-8"), catalogue)
    except ValueError as problem:
        parser.error(str(problem))
    FILE.write_text(rendered(now), encoding="utf-8")
    TABLES.write_text(tables, encoding="utf-8")
    print(f"wrote {FILE} and {TABLES}")


if __name__ == "__main__":
    main()
