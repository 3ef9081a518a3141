"""The files that a comparison reads: evidence of runs, or AWQ-Diag's per-layer records; refused in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from awq_core.judging.evidence import Scale, Verdict
from awq_core.quantization.quantizers import DEPLOYED
from reports.evidence_file import read_evidence
from reports.verdict_words import Claim

EVIDENCE, DIAGNOSTIC = "evidence.json", "diagnostic.json"
CLAIM_FIELDS = (
    *("key", "id", "bits", "version", "group", "models", "verdict", "reason", "estimate", "interval", "threshold"),
    *("linear", "deciding_part"),
)
"""What a comparison reads of every claim."""
NUMBERS = ("lower", "upper", "n", "standard_error", "degrees_of_freedom")
"""What it reads of an interval."""
LAYER_FIELDS = ("module_type", "layer_idx", "mean_kurtosis", "top1pct_importance_share", "awq_reduction_3bit")


class InputError(Exception):
    """A file that cannot be compared; its message is one line."""


@dataclass(frozen=True)
class Run:
    """One run's evidence.

    Attributes:
        letter: the run's name in tables: A is the reference.
        path: its evidence file.
        record: the file's content.
    """

    letter: str
    path: Path
    record: dict[str, Any]

    @property
    def model(self) -> dict[str, Any]:
        """The model and its provenance; files older than the option `--group-size` are of its default."""
        return {"group_size": DEPLOYED.group_size, **self.record["model"]}

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.record["model"]["name"])

    @property
    def claims(self) -> list[Claim]:
        """The claims in the order of the file."""
        return list(self.record["claims"])

    @property
    def identity(self) -> tuple[str, str | None]:
        """What two runs share that are of the same model."""
        return self.name, self.model.get("weights_hash")


def is_diagnostic(path: Path) -> bool:
    """Whether a path is a per-layer record: recognised by its schema, not its name; a folder is a run's output."""
    if path.is_dir():
        return False
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and isinstance(content.get("layers"), dict) and "schema_version" not in content


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The evidence of runs, lettered in order.

    Raises:
        InputError: for a missing file, one that is no evidence, one of another schema version, or a partial run.
    """
    if len(paths) > len(ascii_uppercase):
        raise InputError(f"{len(paths)} runs are too many for one table: at most {len(ascii_uppercase)}")
    return [read_run(letter, path) for letter, path in zip(ascii_uppercase, paths, strict=False)]


def read_run(letter: str, path: Path, *, partial: bool = False) -> Run:
    """One run's evidence.

    Args:
        letter: its name in tables.
        path: the file, or the folder that holds it.
        partial: also take a run that ended before every claim was judged.

    Raises:
        InputError: as `read_runs`.
    """
    file = _file(path, EVIDENCE)
    try:
        record = read_evidence(file)
    except ValueError as error:
        raise InputError(_one_line(str(error))) from None
    if problem := _problem(record):
        raise InputError(f"{file} is not an evidence file: {problem}")
    if not partial and not record.get("complete"):
        raise InputError(f"{file} is partial: the run ended before every claim was judged; run it to its end first")
    return Run(letter, file, record)


def read_diagnostic(path: Path) -> dict[str, Any]:
    """A per-layer record: a file with AWQ-Diag's schema, or a run's folder that holds one.

    Raises:
        InputError: if it is missing or something else.
    """
    file = _file(path, DIAGNOSTIC)
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(_one_line(f"{file} is not a diagnostic file: {error}")) from None
    layers = content.get("layers") if isinstance(content, dict) else None
    if not isinstance(layers, dict) or not layers or not isinstance(content.get("model"), str):
        raise InputError(f"{file} is not a diagnostic file: it needs a model and its layers by name")
    for name, layer in layers.items():
        missing = [field for field in LAYER_FIELDS if not isinstance(layer, dict) or field not in layer]
        if missing:
            raise InputError(f"{file} is not a diagnostic file: {name} has no {missing[0]}")
    return content


def _file(path: Path, name: str) -> Path:
    if path.is_dir():
        path = path / name
    if not path.exists():
        raise InputError(f"there is no {path}")
    return path


def _problem(record: dict[str, Any]) -> str:
    """What keeps a record from being read as evidence, or nothing."""
    model, claims = record.get("model"), record.get("claims")
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        return "it names no model"
    if not isinstance(claims, list) or not all(isinstance(claim, dict) for claim in claims):
        return "it has no list of claims"
    for claim in claims:
        missing = [field for field in CLAIM_FIELDS if field not in claim]
        if missing:
            return f"claim {claim.get('key', '?')} has no {missing[0]}"
        if claim["verdict"] not in set(Verdict):
            return f"claim {claim['key']} has the unknown verdict {claim['verdict']!r}"
        interval = claim["interval"] or dict.fromkeys(NUMBERS, 0.0)
        numbers = [claim["estimate"] or 0.0, *(interval.get(name) for name in NUMBERS)]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            return f"claim {claim['key']} has an estimate or an interval that is no number"
        if claim["interval"] and claim["interval"].get("scale") not in set(Scale):
            return f"claim {claim['key']} has an interval on no known scale"
    return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
