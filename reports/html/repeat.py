"""How to repeat a run, or one claim of it: the shell command, with every option that the numbers depend on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from awq_core.quantization.quantizers import DEPLOYED

PLAIN = re.compile(r"[\w@%+=:,./~-]+")
APART = ("--output", "reports/repeated")
"""A single claim's report goes elsewhere: it would replace that of the whole run."""
TEXTS = ("--calibration-text", "--heldout-text")


class Repeat:
    """Commands that repeat a session.

    Effort, device and dtype stand in every command, also where the session took its machine's defaults: another
    machine has others.
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
        values += [(option, config.getoption(option, default=None)) for option in TEXTS]
        self._options = [word for option, value in values if value is not None for word in (option, str(value))]

    def run(self, models: Sequence[str]) -> str:
        """The command that judges every claim on these models."""
        return self._command("claims", models)

    def claim(self, node: str, models: Sequence[str]) -> str:
        """The command that judges one claim, by its test's id."""
        return self._command(node, models, *APART)

    def _command(self, what: str, models: Sequence[str], *more: str) -> str:
        in_order = sorted(models, key=lambda name: self._order.get(name, len(self._order)))
        chosen = [word for name in in_order for word in ("--model", self._asked.get(name, name))]
        return " ".join(quoted(word) for word in ["pytest", what, *chosen, *self._options, *more])


def quoted(word: str) -> str:
    """One word of a shell command; in double quotes where that suffices, which every shell understands."""
    if PLAIN.fullmatch(word):
        return word
    return shlex.quote(word) if re.search(r'["$`\\!]', word) else f'"{word}"'
