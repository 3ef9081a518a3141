"""Evidence files of schema 1: what earlier versions of the suite wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reports.evidence_file import read_evidence

ADDED = ("p_value", "linear", "parts", "deciding_part", "variants", "ranking", "readings")
ADDED_TO_INTERVALS = ("look", "standard_error", "degrees_of_freedom", "scale", "exact")
"""Fields of schema 2 that schema 1 had not."""


def interval(lower: float, upper: float, resampled: str, n: int, method: str, **further: Any) -> dict[str, Any]:
    """An interval as schema 1 had it."""
    return {
        "lower": lower, "upper": upper, "method": method, "resampled": resampled, "n": n, "seed": 7, "looks": 1,
        "level": 0.95, **further,
    }  # fmt: skip


def claim(id: str, bits: int | None, verdict: str, estimate: float, **fields: Any) -> dict[str, Any]:
    """A claim as schema 1 had it."""
    return {
        "id": id, "bits": bits, "version": 1, "group": id.partition(".")[0], "words": "some words", "source": "a paper",
        "kind": "structural", "models": ["embedded-tiny"], "verdict": verdict, "reason": "", "estimate": estimate,
        "interval": None, "threshold": {"lower": 1.0, "upper": None, "text": "above 1"}, "unit": "times",
        "twin_estimate": None, "contrary": [], "registered": None, "survives_holm": None, "details": {},
        "key": id if bits is None else f"{id}@{bits}", **fields,
    }  # fmt: skip


BOOTSTRAP = "bootstrap standard error over {}, Student's t"
CLAIMS = [
    claim(
        "payoff.perplexity", 4, "inconclusive", 0.002487322745691571,
        interval=interval(
            -0.0036146978156035986, 0.00858934330698674, "windows", 128, BOOTSTRAP.format("windows"), looks=4,
            level=0.9875,
        ),
        contrary=[{"name": "model.layers.2.self_attn.q_proj", "value": 0.9997063262365398}],
        details={
            "with clipping": "0.01255 [0.004166, 0.02093], inconclusive", "gap of RTN": 0.0748700159207334,
            "p_value": 1.0, "the linears named": "those that AWQ helps least", "look": "4 of 4, 128 windows",
        },
    ),
    claim(
        "payoff.one-layer", 3, "refuted", 1.1512382552017557,
        interval=interval(
            1.1399583560410902, 1.1626297690757137, "groups of windows", 16, BOOTSTRAP.format("groups of windows")
        ),
        details={
            "linear": "model.layers.2.self_attn.v_proj", "on calibration tokens": 1.142869491318566,
            "p_value": 9.128882235740705e-24, "sym-channel at 3 bits": 1.1567043819140959,
        },
    ),
    claim(
        "calibration.every-traffic", 3, "inconclusive", 1.0215686565803843,
        interval=interval(1.0114951690741214, 1.0317424660196048, "blocks", 5, BOOTSTRAP.format("blocks")),
        details={
            "p_value": 0.8214314467530972, "part prose": "1.029, inconclusive", "part code": "1.022, inconclusive",
            "weakest part": "code", "sym-channel at 3 bits": "measured under asym-g128 alone",
        },
    ),
    claim(
        "concentration.few-large", None, "inconclusive", 0.0017857142857142857,
        interval=interval(0.0, 0.0067831204961526686, "blocks", 5, BOOTSTRAP.format("blocks")),
        details={"p_value": 0.6849848515412096},
    ),
    claim(
        "bits.four-times-smaller", 4, "supported", 3.732685297691373,
        interval=interval(3.732685297691373, 3.732685297691373, "linears", 35, "exact: nothing is sampled", seed=None),
        details={"the whole model, embeddings and norms in FP16": "2.36 times smaller", "p_value": 0.0},
    ),
    claim("gptq.slower", None, "reported", 0.1877, threshold=None, details={"seconds of GPTQ": 0.387}),
]  # fmt: skip
"""An extract of the last run on embedded-tiny before schema 2, with shorter words."""


def write_schema_1(folder: Path, claims: list[dict[str, Any]]) -> Path:
    """Write an output folder with an evidence file of schema 1."""
    model = {"name": "embedded-tiny", "weights_hash": "aa", "effort": "quick", "dtype": "float32", "seed": 0}
    content = {
        "schema_version": 1, "generated": "2026-11-30T14:42:28+00:00", "complete": True, "answer": "It is open.",
        "model": model, "claims": claims, "published": [],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evidence.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def through_schema_1(folder: Path, claim: dict[str, Any]) -> dict[str, Any]:
    """A claim of schema 2 without parts or variants, as it is read after a version with schema 1 wrote it."""
    old = {name: value for name, value in claim.items() if name not in ADDED}
    old["interval"] = {name: value for name, value in claim["interval"].items() if name not in ADDED_TO_INTERVALS}
    old["details"] = {"p_value": claim["p_value"], **claim["readings"]}
    return dict(read_evidence(write_schema_1(folder, [old]) / "evidence.json")["claims"][0])
