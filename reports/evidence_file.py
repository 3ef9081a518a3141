"""`evidence.json`: every claim judged on a model, with what a reader needs to check it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from awq_core.measured import Measured
from reports.published import Published
from reports.verdict_words import Claim
from reports.writing import write_whole

SCHEMA_VERSION = 1
"""Raised whenever a field changes its name or its meaning."""


def plain(value: Any) -> Any:
    """The same value without numpy types, ready for JSON: arrays as lists, mappings and sequences all the way down."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def json_bytes(content: Any) -> bytes:
    """JSON as the project writes it: indented, UTF-8, and never a NaN or an infinity."""
    return (json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_evidence(
    path: Path,
    name: str,
    measured: Measured | None,
    claims: Sequence[Claim],
    *,
    answer: str,
    complete: bool,
    published: Sequence[Published] = (),
) -> None:
    """Write the model's evidence, whole or not at all.

    Args:
        path: the file, usually `<output>/<model>/evidence.json`.
        name: the model's name.
        measured: its measurements, for the provenance; None where measuring did not finish.
        claims: its claims, replication's included, in the order to be written.
        answer: the answer's sentence.
        complete: False where the run was interrupted before every claim was judged.
        published: what others have published of the model, ours beside it.
    """
    model: dict[str, Any] = {"name": name}
    if measured is not None:
        model |= {"family": measured.family, "parameters": measured.parameters, **measured.provenance}
    content = {
        "schema_version": SCHEMA_VERSION,
        "generated": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": complete,
        "answer": answer,
        "model": model,
        "claims": list(claims),
        "published": list(published),
    }
    write_whole(path, json_bytes(content))


def read_evidence(path: Path) -> dict[str, Any]:
    """Read an evidence file back.

    Raises:
        ValueError: if it cannot be read, is no evidence file, or one of another schema version.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not an evidence file: it is no text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not an evidence file: {error}") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version is None:
        raise ValueError(f"{path} is not an evidence file: it has no schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}; this version of the suite reads {SCHEMA_VERSION}: "
            "run the claims again"
        )
    return content
