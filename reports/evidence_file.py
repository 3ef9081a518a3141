"""`evidence.json`: every claim judged on a model, with what a reader needs to check it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from awq_core.judging.evidence import WITH_CLIPPING, Ranking, Scale, Verdict
from awq_core.measured import Measured
from reports.published import Published
from reports.verdict_words import Claim
from reports.writing import write_whole

SCHEMA_VERSION = 2
"""Raised whenever a field changes its name or its meaning; `read_evidence` still reads schema 1."""

SYMMETRIC = 1e-6
"""How well an interval's two halves must agree, relative to its width, to count as symmetric (schema 1)."""


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
    """Read an evidence file back, one of schema 1 in the form of schema 2.

    Raises:
        ValueError: if it cannot be read, is no evidence file, or one of an unknown schema version.
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
    if version == 1:
        try:
            return _upgraded(content)
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            raise ValueError(f"{path} is not an evidence file: its claims are not of schema 1 ({problem!r})") from None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}; this version of the suite reads 1 and {SCHEMA_VERSION}: "
            "run the claims again"
        )
    return content


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """A record of schema 1 in the form of schema 2.

    Schema 1 had no standard errors: they are rebuilt from the intervals, with `n - 1` degrees of freedom and on the
    scale on which an interval is symmetric. Parts and variants stood there as words with four digits.
    """
    claims = [_upgraded_claim(claim) for claim in content["claims"]]
    return {**content, "schema_version": SCHEMA_VERSION, "claims": claims}


def _upgraded_claim(claim: dict[str, Any]) -> dict[str, Any]:
    readings = dict(claim["details"])
    interval = claim["interval"] and _with_spread(claim["estimate"], claim["interval"])
    if "look" in readings:  # "2 of 3, 32 windows"
        interval["look"] = int(readings.pop("look").split()[0])
    variants = {}
    if WITH_CLIPPING in readings:
        variants[WITH_CLIPPING] = _judgement(readings.pop(WITH_CLIPPING), claim["interval"])
    if (diagnostic := "sym-channel at 3 bits") in readings:
        found = readings.pop(diagnostic)
        lacking = isinstance(found, str)
        variants[diagnostic] = {
            "verdict": Verdict.NOT_APPLICABLE.value if lacking else Verdict.REPORTED.value,
            "estimate": None if lacking else found,
            "interval": None,
            "reason": found if lacking else "",
        }
    parts = [name for name in readings if name.startswith("part ")]
    fields = {
        "interval": interval,
        "p_value": readings.pop("p_value", None),
        "linear": readings.pop("linear", None),
        "parts": {name.removeprefix("part "): _judgement(readings.pop(name), None) for name in parts},
        "deciding_part": readings.pop("weakest part", None),
        "variants": variants,
        "ranking": (Ranking.HELPED_LEAST if readings.pop("the linears named", None) else Ranking.AGAINST).value,
    }
    return {name: value for name, value in claim.items() if name != "details"} | fields | {"readings": readings}


def _judgement(words: str, like: dict[str, Any] | None) -> dict[str, Any]:
    """A part (`1.029, supported`) or a variant (`0.0412 [0.038, 0.0445], supported`), made like another interval."""
    found = re.fullmatch(r"(\S+?)(?: \[(\S+), (\S+)\])?, (.+)", words)
    if found is None:
        raise ValueError(f"{words!r} is no estimate with a verdict")
    value, lower, upper = (None if text is None else float(text) for text in found.groups()[:3])
    interval = None if like is None else _with_spread(value, {**like, "lower": lower, "upper": upper})
    return {"verdict": found[4], "estimate": value, "interval": interval, "reason": ""}


def _with_spread(value: Any, interval: dict[str, Any]) -> dict[str, Any]:
    """An interval of schema 1 with standard error, degrees of freedom and scale rebuilt from its ends."""
    low, high = interval["lower"], interval["upper"]
    exact = interval["method"].startswith("exact")
    degrees = max(interval["n"] - 1, 1)
    quantile = float(stats.t.ppf(0.5 + interval.get("level", 0.95) / 2, degrees))
    logarithmic = _symmetric_in_the_logarithm(value, low, high)
    # Of an interval cut off at a bound (a share cannot exceed 1) the longer half counts.
    half = max(math.log(high / value), math.log(value / low)) if logarithmic else max(high - value, value - low)
    return {
        **interval,
        "look": 1,
        "standard_error": half / quantile,
        "degrees_of_freedom": 0 if exact else degrees,
        "scale": (Scale.LOGARITHM if logarithmic else Scale.LINEAR).value,
        "exact": exact,
    }


def _symmetric_in_the_logarithm(value: float, low: float, high: float) -> bool:
    """Whether an interval is symmetric about its estimate in the logarithm, and not as it stands."""
    if min(value, low) <= 0 or low == high:
        return False
    plain = abs((high - value) - (value - low)) / (high - low)
    inside = abs(math.log(high / value) - math.log(value / low)) / math.log(high / low)
    return inside < min(plain, SYMMETRIC)
