"""Evidence files of invented runs, for comparing them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reports.evidence_file import SCHEMA_VERSION
from tests.synthetic_claim import synthetic_interval

PROVENANCE = {
    "weights_hash": "aa" * 32,
    "effort": "quick",
    "dtype": "float32",
    "device_name": "CPU",
    "seed": 0,
    "calibration_hash": "bb" * 32,
    "heldout_hash": "cc" * 32,
}


def around(value: float, half: float, n: int = 5) -> dict[str, Any]:
    """Estimate and interval of a claim: `value` plus and minus `half`."""
    return {"estimate": value, "interval": synthetic_interval(value - half, value + half, n)}


def write_run(
    folder: Path, claims: list[dict[str, Any]], *, name: str = "synthetic-small", complete: bool = True, **model: Any
) -> Path:
    """Write an output folder; `model` replaces parts of the provenance."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "generated": "2026-01-02T03:04:05+00:00",
        "complete": complete,
        "answer": "AWQ is worth it.",
        "model": {"name": name, **PROVENANCE, **model},
        "claims": claims,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evidence.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
