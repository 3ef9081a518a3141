"""Registered deviations: the verdicts known for a model, each with a reason.

`claims/deviations/<model>.toml` lists every claim whose verdict on the model is known to be other than
supported, under stated conditions. Under the same conditions any change fails; under others it warns.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from awq_core.judging.evidence import Evidence, Verdict
from awq_core.quantization.quantizers import DEPLOYED

FOLDER = Path(__file__).parent.parent / "deviations"
CONDITIONS = (
    "effort",
    "dtype",
    "group_size",
    "seed",
    "calibration_hash",
    "heldout_hash",
    "traffic_hash",
    "weights_hash",
)
"""Keys of a model's provenance that must be the same for a changed verdict to fail rather than warn."""

UNSAID = {"group_size": DEPLOYED.group_size}
"""Conditions of files that were written before a run could have others."""


class DeviationsError(ValueError):
    """A deviations file that cannot be used; the message is one line."""


@dataclass(frozen=True)
class Registered:
    """One entry: a claim's known verdict and why."""

    claim: str
    bits: int | None
    version: int
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Deviations:
    """A model's file.

    Attributes:
        conditions: what was measured under; empty where the model has no file.
        entries: by the claim's key.
    """

    conditions: dict[str, Any]
    entries: dict[str, Registered]

    def conditions_met(self, provenance: dict[str, Any]) -> bool:
        """Whether this run is like the registered one. Without a file there is nothing to be like."""
        return bool(self.conditions) and not self.unmet(provenance)

    def unmet(self, provenance: dict[str, Any]) -> list[str]:
        """Names of the conditions that differ."""
        conditions = {**UNSAID, **self.conditions} if self.conditions else {}
        found = {**UNSAID, **provenance}
        return [key for key, value in conditions.items() if found.get(key) != value]

    def registration(self, evidence: Evidence, provenance: dict[str, Any]) -> dict[str, Any] | None:
        """What the file says about a claim, for the evidence; None where the model has no file.

        A claim that the file does not list is registered as supported.
        """
        if not self.conditions:
            return None
        entry = self.entries.get(evidence.key)
        if entry is None:
            entry = Registered(evidence.id, evidence.bits, evidence.version, Verdict.SUPPORTED, "")
        matches = entry.verdict is evidence.verdict and entry.version == evidence.version
        return {
            **asdict(entry),
            "verdict": entry.verdict.value,
            "matches": matches,
            "conditions_met": self.conditions_met(provenance),
        }


def read_deviations(model: str, folder: Path | None = None, known: Collection[str] | None = None) -> Deviations:
    """A model's deviations; empty where it has no file.

    Args:
        model: whose they are.
        folder: of the files; the suite's own by default.
        known: the keys of the claims that entries may name; None for any.

    Raises:
        DeviationsError: for a file that is not valid, or an entry that matches no known claim.
    """
    path = (folder or FOLDER) / f"{model}.toml"
    if not path.exists():
        return Deviations({}, {})
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        conditions = dict(data["conditions"])
        entries = [
            Registered(entry["claim"], entry.get("bits"), entry["version"], Verdict(entry["verdict"]), entry["reason"])
            for entry in data.get("verdict", [])
        ]
    except KeyError as problem:
        raise DeviationsError(f"{path}: {problem} is missing") from None
    except (ValueError, TypeError) as problem:  # a TOMLDecodeError is a ValueError
        raise DeviationsError(f"{path}: {problem}") from None
    by_key: dict[str, Registered] = {}
    for entry in entries:
        key = entry.claim if entry.bits is None else f"{entry.claim}@{entry.bits}"
        if known is not None and key not in known:
            raise DeviationsError(f"{path}: no claim is called {key!r}; correct the entry or remove it")
        if key in by_key:
            raise DeviationsError(f"{path}: {key!r} is listed twice")
        if not entry.reason.strip():
            raise DeviationsError(f"{path}: {key!r} has no reason")
        by_key[key] = entry
    unknown = set(conditions) - set(CONDITIONS)
    if unknown or not conditions:
        raise DeviationsError(f"{path}: conditions must be some of {', '.join(CONDITIONS)}")
    return Deviations(conditions, by_key)


def write_deviations(
    path: Path,
    model: str,
    evidence: Iterable[Evidence],
    provenance: dict[str, Any],
    reasons: dict[str, str],
    others: Iterable[Registered] = (),
) -> None:
    """Write a model's file from the evidence of a run.

    Args:
        path: the file.
        model: whose it is.
        evidence: of every claim judged on the model.
        provenance: of the run.
        reasons: by the claim's key, where one is already known; otherwise the measured numbers stand.
        others: entries of claims that the run did not judge, which stay.
    """
    lines = [f"# Verdicts known for {model} that are not `supported`. Written by `python -m claims.register`.", ""]
    lines += ["[conditions]"]
    lines += [f"{key} = {_toml(provenance[key])}" for key in CONDITIONS if provenance.get(key) is not None]
    entries = [
        Registered(item.id, item.bits, item.version, item.verdict, reasons.get(item.key) or _measured_reason(item))
        for item in evidence
        if item.verdict not in (Verdict.SUPPORTED, Verdict.REPORTED)
    ]
    for entry in [*entries, *others]:
        lines += ["", "[[verdict]]", f"claim = {_toml(entry.claim)}"]
        lines += [f"bits = {entry.bits}"] if entry.bits is not None else []
        lines += [f"version = {entry.version}", f"verdict = {_toml(entry.verdict.value)}"]
        lines += [f"reason = {_toml(entry.reason)}"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _measured_reason(item: Evidence) -> str:
    if item.interval is None or item.estimate is None:
        return item.reason
    return (
        f"measured {item.estimate:.4g} [{item.interval.lower:.4g}, {item.interval.upper:.4g}], "
        f"and the claim needs {item.threshold}"
    )


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)  # TOML's basic strings escape as JSON's do
