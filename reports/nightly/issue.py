"""Say on GitHub that claims changed: one open issue at a time, commented on as long as it is open.

    python -m reports.nightly.issue changes.md --run https://.../actions/runs/1

Works through the `gh` command, with GH_TOKEN and GH_REPO set. Exit status: gh's where it fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from reports.command import Parser

TITLE = "Claims changed between two nights"
LABEL = "nightly-change"
LONGEST = 60_000
"""Characters of a body; GitHub refuses more than 65,536."""

Gh = Callable[[Sequence[str], str], str]
"""Runs `gh` with arguments and a text on its standard input; returns what it prints."""


def run_gh(arguments: Sequence[str], text: str = "") -> str:
    """The command itself."""
    return subprocess.run(["gh", *arguments], input=text, capture_output=True, check=True, encoding="utf-8").stdout


def body(changes: str, run: str) -> str:
    """The issue's or comment's text: the comparison, cut where it is too long, and where the whole of it is."""
    shown = changes if len(changes) <= LONGEST else changes[:LONGEST] + "\n\nCut here."
    return f"The whole comparison and the reports: {run}\n\n{shown}\n"


def report(text: str, gh: Gh = run_gh) -> str:
    """Comment on the open issue, or open it.

    Args:
        text: the body.
        gh: the command; another in tests.

    Returns:
        What was done, in a line.
    """
    listed = gh(["issue", "list", "--state", "open", "--label", LABEL, "--limit", "100", "--json", "number,title"], "")
    known = [issue["number"] for issue in json.loads(listed or "[]") if issue["title"] == TITLE]
    if known:
        number = str(min(known))
        gh(["issue", "comment", number, "--body-file", "-"], text)
        return f"commented on issue {number}"
    about = ["--description", "A nightly run's claims differ from the night before's", "--color", "D93F0B"]
    gh(["label", "create", LABEL, "--force", *about], "")
    return f"opened {gh(['issue', 'create', '--title', TITLE, '--label', LABEL, '--body-file', '-'], text).strip()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = Parser(
        prog="python -m reports.nightly.issue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("changes", type=Path, help="Markdown that reports.nightly.night wrote")
    parser.add_argument("--run", required=True, metavar="URL", help="the run that found them")
    chosen = parser.parse_args(arguments)
    try:
        print(report(body(chosen.changes.read_text(encoding="utf-8"), chosen.run)))
    except subprocess.CalledProcessError as problem:
        print(problem.stderr, file=sys.stderr, end="")
        return int(problem.returncode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
