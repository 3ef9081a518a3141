"""Everything that a session leaves in `<output>/<model>/`, evidence first: what comes later may fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from awq_core.measured import Measured
from reports.answer import answer
from reports.diagnostic_file import write_diagnostic
from reports.evidence_file import write_evidence
from reports.figures import Drawing, draw_all
from reports.gathered import Gathered
from reports.html.report import ModelReport
from reports.published import Published, section
from reports.tokens_file import write_tokens
from reports.writing import write_whole


def write_model(
    folder: Path,
    name: str,
    report: ModelReport,
    gathered: Gathered,
    all_measured: Sequence[Measured],
    *,
    complete: bool,
    published: Sequence[Published] = (),
) -> None:
    """Write one model's evidence, diagnostic record, tokens, figures and report.

    Raises:
        OSError: if the folder cannot be written.
    """
    measured = next((candidate for candidate in all_measured if candidate.name == name), None)
    claims = gathered.of(name)
    the_answer = answer(name, measured, claims)
    write_evidence(
        folder / "evidence.json",
        name,
        measured,
        claims,
        answer=the_answer.sentence,
        complete=complete,
        published=published,
    )
    drawings: dict[str, Drawing] = {}
    if measured is not None:
        write_diagnostic(folder / "diagnostic.json", measured)
        write_tokens(folder / "tokens.npz", measured)
        drawings = draw_all(measured, all_measured)
        for figure, drawing in drawings.items():
            write_whole(folder / "figures" / f"{figure}.png", drawing.png)
    report.finish(
        answer=the_answer,
        claims=claims,
        beside={other: gathered.of(other) for other in gathered.models if other != name},
        drawings=drawings,
        measured=measured,
        complete=complete,
        published=section(name, published),
    )
