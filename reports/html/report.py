"""`report.html`: all that its template shows of one model, as data."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import prod
from typing import Any

from awq_core.measured import Measured
from reports.answer import Answer
from reports.false_verdicts import trust
from reports.figures import Drawing
from reports.html.environment import render
from reports.html.pictures import Figure, figure_of, figures
from reports.html.run import Phase, Repeat
from reports.published import Published
from reports.verdict_words import Claim, catalogue_order, grouping


@dataclass(frozen=True)
class Entry:
    """One claim with everything that the page shows beside it.

    Attributes:
        claim: its evidence.
        anchor: where it stands; unique on the page.
        command: what repeats it; empty where its test is not known.
        account: pytest's own words on a failure.
        figure: what draws what it is judged by.
    """

    claim: Claim
    anchor: str
    command: str = ""
    account: str = ""
    figure: Figure | None = None


@dataclass(frozen=True)
class GridGroup:
    """A group's claims side by side, a line for each model: the same claim stands in the same column.

    Attributes:
        name: the group's.
        linked: whether the page has the group.
        lines: by model, its claims with their anchors; no claim where it was not judged, no anchor where it has none
            on this page.
    """

    name: str
    linked: bool
    lines: Mapping[str, Sequence[tuple[Claim | None, str]]]


@dataclass(frozen=True)
class Report:
    """One model's report.

    Attributes:
        model: its name.
        answer: the page's opening.
        claims: the model's, in the order to be shown.
        beside: the claims of the session's other models, for the grid.
        drawings: the figures by name.
        measured: the measurements; None where they did not finish.
        complete: False where the run was interrupted before every claim was judged.
        phases: the model's tests, as pytest saw them.
        repeat: the commands.
        seconds: how long the session took.
        published: published numbers beside ours.
    """

    model: str
    answer: Answer
    claims: Sequence[Claim]
    beside: Mapping[str, Sequence[Claim]]
    drawings: Mapping[str, Drawing]
    measured: Measured | None
    complete: bool
    phases: Sequence[Phase]
    repeat: Repeat
    seconds: float = 0.0
    published: Sequence[Published] = ()

    def html(self) -> bytes:
        """The page."""
        title, now = f"AWQ claims on {self.model}", time.strftime("%d-%b-%Y at %H:%M:%S")
        return render("report.jinja2", title=title, subtitle=f"Report generated on {now}.", report=self)

    @cached_property
    def figures(self) -> list[Figure]:
        """The page's figures, in its order."""
        return figures(self.drawings, list(dict.fromkeys(claim["group"] for claim in self.claims)))

    @cached_property
    def entries(self) -> list[Entry]:
        """The claims with what is shown beside them."""
        tests: dict[tuple[tuple[str, ...], str], Phase] = {}
        for phase in self.phases:
            if phase.claim is not None:
                tests.setdefault((tuple(phase.claim["models"]), phase.claim["key"]), phase)
        made = []
        for anchor, claim in _anchored(self.claims).items():
            entry = Entry(claim, anchor, figure=figure_of(claim, self.figures))
            if test := tests.get((tuple(claim["models"]), claim["key"])):
                command = self.repeat.claim(test, claim["models"])
                entry = replace(entry, command=command, account=test.account)
            made.append(entry)
        return made

    @property
    def groups(self) -> list[tuple[str, list[Entry]]]:
        """The claims by group."""
        return [(name, list(members)) for name, members in groupby(self.entries, key=lambda e: e.claim["group"])]

    @property
    def trust(self) -> str:
        """How far the verdicts can be trusted, in a sentence."""
        return trust(self.claims).sentence

    @property
    def grid(self) -> list[GridGroup]:
        """The claims of every model of the session."""
        rows = {self.model: _anchored(self.claims)}
        rows |= {name: _anchored(claims) for name, claims in self.beside.items() if claims}
        every = {anchor: claim for row in reversed(rows.values()) for anchor, claim in row.items()}
        columns = sorted(every, key=lambda anchor: catalogue_order(every[anchor]))
        mine = rows[self.model]
        groups = []
        for group, members in groupby(columns, key=lambda anchor: every[anchor]["group"]):
            anchors = list(members)
            lines = {name: [(row.get(a), a if row is mine else "") for a in anchors] for name, row in rows.items()}
            groups.append(GridGroup(group, any(anchor in mine for anchor in anchors), lines))
        return groups

    @property
    def tests(self) -> list[Phase]:
        """The tests in the order of their claims: they report in any order."""
        order = {claim["key"]: place for place, claim in enumerate(self.claims)}
        keys = {phase.node: phase.claim["key"] for phase in self.phases if phase.claim is not None}
        return sorted(self.phases, key=lambda phase: order.get(keys.get(phase.node, ""), len(order)))

    @property
    def command(self) -> str:
        """What repeats the run: on the model, and on those without which its claims about two sizes are not judged."""
        return self.repeat.run(list(dict.fromkeys([self.model, *(n for c in self.claims for n in c["models"])])))

    @property
    def model_facts(self) -> dict[str, str]:
        """The model and how it was measured, for the page's opening; empty texts where there is nothing to say."""
        if self.measured is None:
            return {}
        known = self.measured.provenance
        identity, revision = str(known.get("id") or self.measured.name), str(known.get("revision") or "")
        shape = [f"{self.measured.parameters:,} parameters"]
        if known.get("blocks") and known.get("hidden_size"):
            shape.append(f"{known['blocks']} blocks of width {known['hidden_size']:,}")
        if known.get("model_type"):
            shape.append(str(known["model_type"]))
        twins = len(self.measured.twins)
        return {
            "model": identity if revision in ("", "local") else f"{identity}, revision {revision}",
            "shape": ", ".join(shape),
            "calibration text": _text(known, "calibration"),
            "held-out text": _text(known, "heldout"),
            "looked at": str(known.get("looked_at") or ""),
            "effort": ", ".join(
                [*(str(known[key]) for key in ("effort", "dtype", "device_name") if known.get(key)), grouping(known)]
            ),
            "held against": f"{twins} untrained twins" if twins > 1 else "",
        }

    @property
    def provenance(self) -> dict[str, str]:
        """Everything that the measurements say of themselves."""
        if self.measured is None:
            return {}
        facts = {"parameters": f"{self.measured.parameters:,}", "family": self.measured.family or ""}
        facts |= _flat(self.measured.provenance)
        return {
            name: ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
            for name, value in facts.items()
            if value not in ("", None)
        }


def _anchored(claims: Sequence[Claim]) -> dict[str, Claim]:
    """Claims by an anchor of their own: the key, counted where one is judged on several pairs of sizes."""
    seen: Counter[str] = Counter()
    found = {}
    for claim in claims:
        key = claim["key"]
        seen[key] += 1
        found[key if seen[key] == 1 else f"{key}-{seen[key]}"] = claim
    return found


def _text(known: Mapping[str, Any], split: str) -> str:
    text, shape = str(known.get(f"{split}_text") or ""), known.get(f"{split}_shape")
    return f"{text}, {prod(shape):,} tokens" if text and shape else text


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, their names joined: `tokens: heldout`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        flat |= _flat(value, f"{label}: ") if isinstance(value, Mapping) else {label: value}
    return flat
