"""Everything that a session leaves in `<output>/<model>/`, evidence first: what comes later may fail."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from awq_core.measured import SPLITS, Measured
from reports.answer import answer
from reports.diagnostic_file import write_diagnostic
from reports.evidence_file import write_evidence
from reports.figures import Drawing, draw_all
from reports.html.report import Report
from reports.html.run import Repeat, phases
from reports.judged_claims import JudgedClaims
from reports.published import Published
from reports.writing import write_whole


def write_model(
    folder: Path,
    name: str,
    judged: JudgedClaims,
    tests: Iterable[pytest.TestReport],
    config: pytest.Config,
    all_measured: Sequence[Measured],
    *,
    session: Sequence[str],
    started: float,
    complete: bool,
    published: Sequence[Published] = (),
) -> None:
    """Write one model's evidence, diagnostic record, tokens, figures and report.

    Args:
        folder: where to; made if it is not there.
        name: the model's.
        judged: what was judged, on every model of the session.
        tests: the model's test reports.
        config: the session's, for the commands that repeat it.
        all_measured: every model's measurements, as far as they finished.
        session: the names of the session's models, in the order asked for.
        started: when the session started, in seconds since the epoch.
        complete: False where the run was interrupted before every claim was judged.
        published: published numbers beside ours.

    Raises:
        OSError: if the folder cannot be written.
    """
    measured = next((candidate for candidate in all_measured if candidate.name == name), None)
    claims = judged.of(name)
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
    report = Report(
        model=name,
        answer=the_answer,
        claims=claims,
        beside={other: judged.of(other) for other in judged.models if other != name},
        drawings=drawings,
        measured=measured,
        complete=complete,
        phases=phases(tests),
        repeat=Repeat(config, session, {} if measured is None else measured.provenance),
        seconds=time.time() - started,
        published=published,
    )
    write_whole(folder / "report.html", report.html())


def write_tokens(path: Path, measured: Measured) -> None:
    """Write the token ids that a model was measured on: arrays `calibration` and `heldout`, `[sequences, length]`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{split: measured.tokens[split] for split in SPLITS})  # type: ignore[arg-type]
    write_whole(path, buffer.getvalue())
