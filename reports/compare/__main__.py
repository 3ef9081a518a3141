"""Hold runs against each other: models, nights, efforts, seeds; or per-layer records, ours against AWQ-Diag's.

    python -m reports.compare reports/out/embedded-small nightly/embedded-small
    python -m reports.compare --fail-on-change --html compared.html yesterday/ today/
    python -m reports.compare reports/out/qwen0.5b diagnostic_Qwen2.5-0.5B.json

Each argument is an output folder (`<output>/<model>`) or a file in it. Evidence gives one table of verdicts and
estimates, a row for each claim and a column for each run. The first run is the reference; every other run is compared
with the first one of the same model (name and weights' hash), or, where it is the first of its model, with run A.

What counts as a change, between runs of the same model only:

- the estimate moved beyond noise: Welch's test of the difference at 99%, with the standard errors and degrees of
  freedom in the evidence (in the logarithm where both estimates were made there; exact estimates, beyond rounding);
- the verdict flipped between supported and refuted;
- the threshold, or the claim's version, moved;
- the claim is new, gone, or passed between judged and not judged.

A verdict that passes between inconclusive and decided with its estimate within noise is shown as "drift, within
noise" and not counted. Between different models nothing is a change: verdicts differ, and the share that agree is
stated.

Where an argument is a per-layer record (`diagnostic.json`, AWQ-Diag's `diagnostic_*.json`; recognised by what it
holds), exactly two are held against each other: families, rank correlations over layers, scatter figures on the page.

Exit status: 0; with --fail-on-change 1 when anything changed; 4 when a file cannot be compared (one line says why,
and nothing is written).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from reports.command import Parser
from reports.compare.inputs import InputError, is_diagnostic, read_diagnostic, read_runs
from reports.compare.runs import compare_runs
from reports.compare.tables import markdown, page
from reports.writing import write_whole

CHANGED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = Parser(
        prog="python -m reports.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder, evidence or diagnostic file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the Markdown there, not to the terminal")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page that opens offline")
    parser.add_argument("--fail-on-change", action="store_true", help="exit status 1 when anything changed")
    chosen = parser.parse_args(arguments)
    try:
        compare = _layers if any(is_diagnostic(path) for path in chosen.runs) else _claims
        text, draw, changed = compare(chosen.runs, chosen.fail_on_change)
        # Everything is made before anything is written.
        drawn = draw() if chosen.html else b""
        write_out({chosen.markdown: text.encode(), chosen.html: drawn})
    except InputError as error:
        parser.error(str(error))
    if chosen.markdown is None:
        print(text, end="")
    return CHANGED if changed and chosen.fail_on_change else 0


def write_out(files: dict[Path | None, bytes]) -> None:
    """Write the files that were asked for, each whole.

    Raises:
        InputError: if one cannot be written.
    """
    for path, content in files.items():
        if path is None:
            continue
        try:
            write_whole(path, content)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None


Compared = tuple[str, Callable[[], bytes], bool]
"""Markdown, what draws the page, and whether anything changed."""


def _claims(paths: Sequence[Path], _: bool) -> Compared:
    if len(paths) < 2:
        raise InputError("a comparison needs at least two runs; python -m reports.summary sums up one")
    comparison = compare_runs(read_runs(paths))
    return markdown(comparison), lambda: page(comparison), comparison.flagged


def _layers(paths: Sequence[Path], fail_on_change: bool) -> Compared:
    from reports.compare import layers_page  # the figures, which a comparison of claims does not need

    if len(paths) != 2:
        raise InputError(f"per-layer records are held against each other two at a time, got {len(paths)}")
    if fail_on_change:
        raise InputError("--fail-on-change is about claims: between per-layer records nothing counts as a change")
    pair = layers_page.compared(*map(read_diagnostic, paths))
    return layers_page.markdown(pair), lambda: layers_page.layers_page(pair), False


if __name__ == "__main__":
    sys.exit(main())
