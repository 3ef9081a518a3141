"""Why claims are refuted, in words: `docs/findings.toml`, held against the evidence that it explains.

[[explanation]]
claim = "payoff.two-to-five@4"
model = "embedded-tiny"   # optional: for that model alone; two sizes as "embedded-tiny and embedded-small"
words = "One or two sentences. No measured numbers: those come from the evidence."

[[model]]                 # for a model that does not speak for itself
name = "stories260k"
words = "Where it comes from, in one sentence."
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BIT_WIDTHS = re.compile(r"\b\d+(?: and \d+)?[ -]bits?\b")
"""The only numbers that words may hold: `3 bits`, `4-bit`, `3 and 4 bits`."""
FIELDS = {"claim", "words"}


class FindingsError(ValueError):
    """Explanations and evidence that do not fit each other; the message is one line."""


@dataclass(frozen=True)
class Explanations:
    """Words by claim and model; the model is None where they hold for every model that refutes the claim."""

    words: Mapping[tuple[str, str | None], str]
    models: Mapping[str, str] = field(default_factory=dict)
    """What a model is, by its name, for those that need a word."""

    def general(self, claim: str) -> str:
        """What holds for every model that refutes the claim; empty where each has words of its own."""
        return self.words.get((claim, None), "")

    def of(self, claim: str, models: str) -> str:
        """What holds for one model, or for two sizes, alone; empty where the general words suffice."""
        return self.words.get((claim, models), "")

    def check(self, refuted: Mapping[str, Sequence[str]], names: Collection[str]) -> None:
        """Hold the explanations against the evidence.

        Args:
            refuted: by claim key, the models that refute it.
            names: what words may call by name although it holds digits: models and claims.

        Raises:
            FindingsError: for a refutation without an explanation, an explanation without a refutation, or words
                with numbers in them.
        """
        for (claim, model), words in self.words.items():
            if claim not in refuted:
                raise FindingsError(f"{claim!r} is explained and not refuted; remove the explanation")
            if model is not None and model not in refuted[claim]:
                raise FindingsError(f"{claim!r} is explained for {model} and not refuted there; remove it")
            if number := _number(words, names):
                raise FindingsError(f"the explanation of {claim!r} holds the number {number!r}; numbers are evidence's")
        for claim, models in refuted.items():
            if unexplained := [model for model in models if not self.general(claim) and not self.of(claim, model)]:
                raise FindingsError(f"{claim!r} is refuted by {unexplained[0]} and not explained; say why")


def read_explanations(path: Path) -> Explanations:
    """Read the file.

    Raises:
        FindingsError: for a file that is not valid, a missing or unknown field, or a double entry.
    """
    try:
        contents = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as problem:
        raise FindingsError(f"{path.name}: {problem}") from None
    words: dict[tuple[str, str | None], str] = {}
    for entry in contents.get("explanation", []):
        if missing := FIELDS - entry.keys():
            raise FindingsError(f"{path.name}: an entry lacks {min(missing)!r}: {entry}")
        if unknown := entry.keys() - FIELDS - {"model"}:
            raise FindingsError(f"{path.name}: {entry['claim']!r} has an unknown field {min(unknown)!r}")
        key = (entry["claim"], entry.get("model"))
        if key in words:
            raise FindingsError(f"{path.name}: {' on '.join(filter(None, key))} is explained twice")
        if not entry["words"].strip():
            raise FindingsError(f"{path.name}: {entry['claim']!r} is explained in no words")
        words[key] = " ".join(entry["words"].split())
    models: dict[str, str] = {}
    for entry in contents.get("model", []):
        if entry.keys() != {"name", "words"}:
            raise FindingsError(f"{path.name}: a model needs a name and words, nothing else: {entry}")
        models[entry["name"]] = " ".join(entry["words"].split())
    return Explanations(words, models)


def _number(words: str, names: Collection[str]) -> str:
    """The first number in the words that is neither a bit width nor part of a name; empty where there is none."""
    for name in sorted(names, key=len, reverse=True):
        words = words.replace(name, " ")
    found = re.search(r"\d[\d.,%]*", BIT_WIDTHS.sub(" ", words))
    return found.group() if found else ""
