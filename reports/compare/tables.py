"""A comparison of runs, as Markdown and as a page of HTML: no script, nothing loaded, colour never alone."""

from __future__ import annotations

from reports.compare.changes import Change, Kind
from reports.compare.runs import Comparison, Row
from reports.html.environment import render
from reports.tables import Cell, Table
from reports.verdict_words import APPEARANCES, Claim, grouping, interval_text, number, threshold_text, verdict_of

DIGITS = 3
SYMBOLS = {Kind.DRIFT: "≈", Kind.OTHER_SIZES: "≈", Kind.DIFFERS: "≠", Kind.NEW: "+", Kind.REMOVED: "−"}
CHANGED = "▲"
READING = (
    "▲ + − mark what changed between runs of one model: the estimate moved beyond noise (Welch's test at 99%), "
    "the verdict flipped between supported and refuted, the threshold or the claim's "
    "version moved, the claim is new or gone, or it passed between judged and not judged. ≈ marks what is shown and "
    "not counted: above all a verdict that passed between inconclusive and decided with its estimate within noise. "
    "≠ marks verdicts that differ between models, which is no change. @4 and @3 are bits."
)


def title(comparison: Comparison) -> str:
    """What is compared."""
    names = list(dict.fromkeys(run.name for run in comparison.runs))
    runs = len(comparison.runs)
    return f"AWQ claims: {runs} run{'s' if runs > 1 else ''} of {' and '.join(names)}"


def legend(comparison: Comparison) -> str:
    """The verdicts' symbols, of those that appear."""
    present = {verdict_of(claim) for row in comparison.rows for claim in row.claims if claim is not None}
    return ", ".join(f"{look.symbol} {verdict}" for verdict, look in APPEARANCES.items() if verdict in present)


def sentences(comparison: Comparison) -> list[str]:
    """One for each run that is compared with another."""
    return [sentence for place in range(len(comparison.runs)) if (sentence := comparison.sentence(place))]


def runs_table(comparison: Comparison) -> Table:
    """The runs: what was measured, when, how."""
    rows = []
    for run in comparison.runs:
        model = run.model
        tokens = " ".join(str(model.get(key, "?"))[:8] for key in ("calibration_hash", "heldout_hash"))
        how = [model.get("effort"), model.get("dtype"), model.get("device_name"), grouping(model)]
        values = [
            run.name,
            str(model.get("weights_hash") or model.get("revision") or "")[:12],
            str(run.record.get("generated", "")),
            ", ".join(str(value) for value in how if value),
            str(model.get("seed", "")),
            tokens,
        ]
        rows.append([Cell(run.letter), *map(Cell, values)])
    headings = ("run", "model", "weights", "measured", "how", "seed", "tokens: calibration, held-out")
    return Table("The runs that are compared", headings, rows)


def changes_table(comparison: Comparison) -> Table:
    """What changed, claim by claim, in words; what drifts after it."""
    rows = []
    for wanted in (True, False):
        for row in comparison.rows:
            for run, found in zip(comparison.runs, row.changes, strict=True):
                notable = found is not None and found.kinds and Kind.DIFFERS not in found.kinds
                if found is not None and notable and found.flagged is wanted:
                    rows.append([Cell(row.name, code=True), Cell(run.letter), _mark(found), Cell(found.says)])
    return Table("What changed between runs of one model", ("claim", "run", "what", "particulars"), rows)


def claims_table(comparison: Comparison) -> Table:
    """Every claim: one row each, one column a run."""
    names = [f"{run.letter}: {run.name}" for run in comparison.runs]
    rows = [
        [
            Cell(row.name, code=True),
            Cell(_thresholds(comparison, row)),
            *(_cell(claim, found) for claim, found in zip(row.claims, row.changes, strict=True)),
        ]
        for row in comparison.rows
    ]
    groups = [row.first["group"] for row in comparison.rows]
    return Table("Verdict, estimate and 95% interval by run", ("claim", "supported if", *names), rows, groups)


def markdown(comparison: Comparison) -> str:
    """The whole comparison."""
    parts = [f"# {title(comparison)}", runs_table(comparison).markdown()]
    parts += [f"- {sentence}" for sentence in sentences(comparison)]
    if (changes := changes_table(comparison)).rows:
        parts += ["## What changed", changes.markdown()]
    parts += ["## Every claim", f"{legend(comparison)}. {READING}", claims_table(comparison).markdown()]
    return "\n\n".join(parts) + "\n"


def page(comparison: Comparison) -> bytes:
    """The whole comparison as HTML: what changed first, then every claim."""
    return render(
        "comparison.jinja2",
        title=title(comparison),
        subtitle="Run A is the reference.",
        sentences=sentences(comparison),
        changes=changes_table(comparison),
        runs=runs_table(comparison),
        claims=claims_table(comparison),
        reading=READING,
    )


def _thresholds(comparison: Comparison, row: Row) -> str:
    """The registered threshold; with each run's own where they differ."""
    texts = {
        run.letter: threshold_text(claim) or "reported"
        for run, claim in zip(comparison.runs, row.claims, strict=True)
        if claim is not None
    }
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{letter}: {text}" for letter, text in texts.items())


def _cell(claim: Claim | None, found: Change | None) -> Cell:
    mark = _mark(found) if found is not None and found.kinds else Cell("")
    if claim is None:
        return Cell("", mark=mark.mark, tone=mark.tone)
    verdict = verdict_of(claim)
    text = f"{number(claim['estimate'], DIGITS)} {interval_text(claim, DIGITS)}".strip()
    return Cell(text, verdict, mark.mark, mark.tone)


def _mark(found: Change) -> Cell:
    words = ", ".join(kind.value for kind in found.kinds)
    symbols = {SYMBOLS.get(kind, CHANGED) for kind in found.kinds}
    symbol = CHANGED if CHANGED in symbols else sorted(symbols)[0]
    tone = "changed" if found.flagged else "differs" if Kind.DIFFERS in found.kinds else "drift"
    return Cell("", mark=f"{symbol} {words}", tone=tone)
