"""Runs held against each other: which claims stand in which row, which run is compared with which, and what it says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from awq_core.judging.verdicts import survives_holm
from reports.compare.changes import LEVEL, ROUNDING, Change, Kind, change, comparable, contrast
from reports.compare.inputs import Run
from reports.verdict_words import Claim, catalogue_order, verdict_of

CONDITIONS = {
    "effort": "effort",
    "dtype": "dtype",
    "group_size": "group size",
    "device_name": "device",
    "calibration_hash": "calibration tokens",
    "heldout_hash": "held-out tokens",
    "seed": "seed",
    "instrument": "instruments",
    "python": "Python",
    "versions": "libraries",
}
"""Provenance that two runs of a model may differ in, and its words."""
SAME_DATA = ("calibration_hash", "heldout_hash")
"""Where these agree, estimates are expected to repeat to rounding."""


@dataclass(frozen=True)
class Row:
    """One claim across the runs."""

    name: str
    claims: tuple[Claim | None, ...]
    """One for each run."""
    changes: tuple[Change | None, ...]
    """One for each run: against the run that it is compared with; None for a run compared with none."""

    @property
    def first(self) -> Claim:
        """The first run's claim, or that of the first run that has it."""
        return next(claim for claim in self.claims if claim is not None)

    @property
    def flagged(self) -> bool:
        """Whether any run changed."""
        return any(found is not None and found.flagged for found in self.changes)


@dataclass(frozen=True)
class Comparison:
    """All runs, and the claims in the catalogue's order."""

    runs: tuple[Run, ...]
    references: tuple[int | None, ...]
    """For each run the index of the run that it is compared with; None for the first."""
    rows: tuple[Row, ...]

    @property
    def flagged(self) -> bool:
        """Whether any claim changed between two runs of one model."""
        return any(row.flagged for row in self.rows)

    def same_model(self, place: int) -> bool:
        """Whether a run is compared with one of the same model."""
        reference = self.references[place]
        return reference is not None and self.runs[reference].identity == self.runs[place].identity

    def sentence(self, place: int) -> str:
        """What became of a run's claims against its reference, in words."""
        reference = self.references[place]
        if reference is None:
            return ""
        if self.same_model(place):
            return _same_model(self, place, self.runs[reference])
        return _other_model(self, place, reference)


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Hold runs against each other: each against the first of the same model, or the very first where it is the first.

    Args:
        runs: the reference first.
    """
    names = _row_names(runs)
    by_row = [{names[claim["key"], tuple(claim["models"])]: claim for claim in run.claims} for run in runs]
    references = tuple(_reference(runs, place) for place in range(len(runs)))
    rows = []
    for name in dict.fromkeys(name for claims in by_row for name in claims):
        claims = tuple(of_run.get(name) for of_run in by_row)
        changes: list[Change | None] = []
        for place, reference in enumerate(references):
            if reference is None:
                changes.append(None)
                continue
            same = runs[reference].identity == runs[place].identity
            changes.append((change if same else contrast)(claims[reference], claims[place]))
        rows.append(Row(name, claims, tuple(changes)))
    rows.sort(key=lambda row: (*catalogue_order(row.first), row.name))
    return Comparison(tuple(runs), references, tuple(rows))


def _row_names(runs: Sequence[Run]) -> dict[tuple[str, tuple[str, ...]], str]:
    """A row's name: the claim's key, and the two sizes where one run judged the claim on several pairs."""
    repeated = {
        key for run in runs for key, times in Counter(claim["key"] for claim in run.claims).items() if times > 1
    }
    return {
        (claim["key"], tuple(claim["models"])): claim["key"]
        if claim["key"] not in repeated
        else f"{claim['key']} ({', '.join(claim['models'])})"
        for run in runs
        for claim in run.claims
    }


def _reference(runs: Sequence[Run], place: int) -> int | None:
    same = [earlier for earlier in range(place) if runs[earlier].identity == runs[place].identity]
    return same[0] if same else 0 if place else None


def _same_model(comparison: Comparison, place: int, reference: Run) -> str:
    run = comparison.runs[place]
    changes = [row.changes[place] for row in comparison.rows]
    found = [one for one in changes if one is not None]
    flagged = [one for one in found if one.flagged]
    drifting = sum(Kind.DRIFT in one.kinds for one in found)
    differ = [one.difference for one in found if one.difference is not None]
    beyond = [stands for stands, one in zip(_holm(found), differ, strict=True) if one.beyond_noise]
    text = f"{run.letter} against {reference.letter}, the same model: "
    text += f"{_claims(len(flagged))} of {len(found)} changed" if flagged else f"none of {_claims(len(found))} changed"
    text += f", {drifting} drift within noise" if drifting else ""
    text += f". {_conditions(reference, run)}"
    if all(reference.model.get(key) == run.model.get(key) for key in SAME_DATA):
        pairs = [(row.claims[comparison.runs.index(reference)], row.claims[place]) for row in comparison.rows]
        at_all = sum(_moved_at_all(*pair) for pair in pairs)
        text += f" On the same tokens {at_all or 'no'} estimate{'s' if at_all != 1 else ''} moved at all."
    if not differ:
        return text
    return f"{text} {_by_chance(beyond, len(differ))}"


def _by_chance(beyond: Sequence[bool], compared: int) -> str:
    """How far the estimates that moved can be trusted; `beyond` has one entry for each: whether it survives Holm's."""
    if not beyond:
        return f"Of {compared} estimates compared none moved beyond noise."
    few = LEVEL * compared
    allowance = "up to one" if few < 1 else f"up to about {few:.0f}"
    return (
        f"Of {compared} estimates compared {len(beyond)} moved beyond noise; between independent runs of one truth "
        f"{allowance} would by chance; {sum(beyond)} of {len(beyond)} survive Holm's correction."
    )


def _moved_at_all(before: Claim | None, now: Claim | None) -> bool:
    """Whether two estimates differ by more than rounding: on the same tokens, a sign of changed instruments."""
    first, second = (claim["estimate"] if claim else None for claim in (before, now))
    return first is not None and second is not None and not math.isclose(first, second, rel_tol=ROUNDING)


def _holm(changes: Sequence[Change]) -> list[bool]:
    return survives_holm([one.difference.p_value for one in changes if one.difference is not None])


def _conditions(before: Run, now: Run) -> str:
    """What differs between two runs of a model besides their results."""
    unlike = [words for key, words in CONDITIONS.items() if before.model.get(key) != now.model.get(key)]
    if unlike:
        return f"The runs differ in {', '.join(unlike)}."
    return "Settings, instruments and versions are the same."


def _other_model(comparison: Comparison, place: int, reference: int) -> str:
    run, against = comparison.runs[place], comparison.runs[reference]
    pairs = [(row.claims[reference], row.claims[place]) for row in comparison.rows]
    both = [(first, second) for first, second in pairs if first and second and comparable(first, second)]
    agree = sum(verdict_of(first) is verdict_of(second) for first, second in both)
    why = "other weights under the same name" if run.name == against.name else "another model"
    text = f"{run.letter} against {against.letter}, {why}: "
    if not both:
        return f"{text}no claim is judged on both."
    return f"{text}the verdicts agree on {agree} of {_claims(len(both))} judged on both ({agree / len(both):.0%})."


def _claims(count: int) -> str:
    return "1 claim" if count == 1 else f"{count} claims"
