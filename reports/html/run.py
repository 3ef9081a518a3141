"""The run that a page is about: its tests as pytest saw them, and the commands that repeat it, or one claim of it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from awq_core.quantization.quantizers import DEPLOYED
from reports.judged_claims import claim_of
from reports.verdict_words import Claim

PLAIN = re.compile(r"[\w@%+=:,./~-]+")
APART = ("--output", "reports/repeated")
"""A single claim's report goes elsewhere: it would replace that of the whole run."""
PROJECT = Path(__file__).resolve().parents[2]
SETTINGS = ("-c", "pyproject.toml")
TEXTS = ("--calibration-text", "--heldout-text")


@dataclass(frozen=True)
class Phase:
    """A phase of a test that says something: its call, or a set-up or teardown that did not pass.

    Attributes:
        node: the test's id.
        file: the file of a claim's test, seen from the project; else empty.
        name: the same, with the phase where it is not the call.
        outcome: in pytest's words, such as `passed`, `xfailed` or `error`.
        seconds: its duration, for a call that of the whole test.
        claim: the evidence, where it left some.
        account: pytest's own words on a failure; empty where there was none.
        output: what the test printed and logged.
    """

    node: str
    file: str
    name: str
    outcome: str
    seconds: float
    claim: Claim | None
    account: str
    output: str

    @property
    def without_verdict(self) -> bool:
        """Whether it failed without evidence, or outside the test itself."""
        return bool(self.account) and (self.claim is None or self.outcome == "error")


def phases(reports: Iterable[pytest.TestReport]) -> list[Phase]:
    """What is to be shown of the tests' reports, test by test in the order in which they first reported."""
    by_test: dict[str, list[pytest.TestReport]] = {}
    for report in reports:
        by_test.setdefault(report.nodeid, []).append(report)
    return [
        Phase(
            node=node,
            file=next((str(value) for name, value in report.user_properties if name == "claims_file"), ""),
            name=node if report.when == "call" else f"{node}::{report.when}",
            outcome=_outcome(report),
            seconds=sum(each.duration for each in test) if report.when == "call" else report.duration,
            claim=claim_of(report),
            account=report.longreprtext if report.failed else "",
            # The last report has the output of every phase.
            output="\n".join(f"{name}\n{content}".rstrip() for name, content in test[-1].sections),
        )
        for node, test in by_test.items()
        for report in test
        if report.when == "call" or not report.passed
    ]


def _outcome(report: pytest.TestReport) -> str:
    if report.failed and report.when != "call":
        return "error"
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    return report.outcome


class Repeat:
    """Commands that repeat a session.

    Effort, device and dtype stand in every command, also where the session took its machine's defaults: another
    machine has others. Claims from outside the project are named by their files.
    """

    def __init__(self, config: pytest.Config, names: Sequence[str], provenance: Mapping[str, Any]) -> None:
        """Read what the session was asked for.

        Args:
            config: the session's.
            names: the models of the session, in the order asked for.
            provenance: of the model that the report is about.
        """
        asked = list(config.getoption("--model", default=[]) or [])
        # A folder is asked for by its path and called by its name.
        self._asked = dict(zip(names, asked, strict=True)) if len(asked) == len(names) else {}
        self._order = {name: place for place, name in enumerate(names)}
        values: list[tuple[str, Any]] = []
        if provenance.get("kind") != "control":
            values += [(f"--{name}", provenance.get(name)) for name in ("effort", "device", "dtype")]
        if (given := config.getoption("--group-size", default=None)) != str(DEPLOYED.group_size):
            values.append(("--group-size", given))
        values.append(("--seed", config.getoption("--seed", default=None)))
        values += [(option, config.getoption(option, default=None)) for option in (*TEXTS, "--claims-deviations")]
        asked_for = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
        seen = (os.path.relpath(path, PROJECT) for path in asked_for)
        self._elsewhere = [path for path in seen if _is_outside(path)]
        self._options = [word for option, value in values if value is not None for word in (option, str(value))]

    def run(self, models: Sequence[str]) -> str:
        """The command that judges every claim on these models."""
        return self._command(["claims", *self._elsewhere], models)

    def claim(self, test: Phase, models: Sequence[str]) -> str:
        """The command that judges one claim, by its test."""
        node = "::".join([test.file or test.node.partition("::")[0], *test.node.split("::")[1:]])
        # Alone, a file from outside the project leads pytest to no settings.
        return self._command([*(SETTINGS if _is_outside(test.file) else ()), node], models, *APART)

    def _command(self, what: Sequence[str], models: Sequence[str], *more: str) -> str:
        in_order = sorted(models, key=lambda name: self._order.get(name, len(self._order)))
        chosen = [word for name in in_order for word in ("--model", self._asked.get(name, name))]
        return " ".join(quoted(word) for word in ["pytest", *what, *chosen, *self._options, *more])


def _is_outside(path: str) -> bool:
    """Whether a path, seen from the project, leads out of it."""
    return Path(path).parts[:1] == ("..",)


def quoted(word: str) -> str:
    """One word of a shell command; in double quotes where that suffices, which every shell understands."""
    if PLAIN.fullmatch(word):
        return word
    return shlex.quote(word) if re.search(r'["$`\\!]', word) else f'"{word}"'
