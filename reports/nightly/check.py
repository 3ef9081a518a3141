"""Tell verdicts from faults after a run that ended with exit status 0 or 1.

    python -m reports.nightly.check reports/out/pinned

pytest exits 1 for a verdict that is not as registered, which is a night's result, and for a test that broke down,
which is a fault. The folder is what `--output` and `--junitxml` wrote. Exit status: 0; 1 for a fault, one line each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from reports.command import Parser
from reports.evidence_file import read_evidence


def broken_tests(junit: Path) -> list[str]:
    """The tests that ended in an error, or failed without having judged a claim."""
    return [
        f"{case.get('classname')}::{case.get('name')}"
        for case in ElementTree.parse(junit).iter("testcase")
        if case.find("error") is not None or (case.find("failure") is not None and not _judged(case))
    ]


def _judged(case: ElementTree.Element) -> bool:
    return any(one.get("name") == "claim" for one in case.iter("property"))


def faults(output: Path) -> list[str]:
    """What is wrong with a run's output, beyond its verdicts."""
    reports = sorted(output.glob("**/junit.xml"))
    evidence = sorted(output.glob("*/evidence.json"))
    found = [f"{output}: no {what}" for what, files in (("junit.xml", reports), ("evidence", evidence)) if not files]
    found += [f"broke down: {test}" for report in reports for test in broken_tests(report)]
    return found + [f"partial: {path}" for path in evidence if not read_evidence(path)["complete"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = Parser(
        prog="python -m reports.nightly.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", type=Path, help="the folder that --output named")
    try:
        found = faults(parser.parse_args(arguments).output)
    except ValueError as problem:
        parser.error(str(problem))
    for fault in found:
        print(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
