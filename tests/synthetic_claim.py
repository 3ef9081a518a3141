"""Evidence of invented claims, as it travels on test reports."""

from __future__ import annotations

from typing import Any

from awq_core.judging.evidence import Contrary, Evidence, Interval, Threshold, Verdict

ESTIMATES = {Verdict.SUPPORTED: 1.3, Verdict.REFUTED: 0.7, Verdict.INCONCLUSIVE: 1.05}
REASONS = {
    Verdict.INSUFFICIENT: "3 blocks measured, at least 4 needed",
    Verdict.NOT_APPLICABLE: "needs a gate",
    Verdict.INCONCLUSIVE: "about 12 blocks like these would decide",
}


def synthetic_claim(
    verdict: Verdict = Verdict.SUPPORTED,
    id: str = "payoff.layers",
    bits: int | None = 4,
    models: tuple[str, ...] = ("synthetic-small",),
    registered: str | None = None,
    conditions_met: bool = True,
    p_value: float = 0.001,
    **fields: Any,
) -> dict[str, Any]:
    """The dictionary of one claim's evidence; `registered` is the verdict that a deviations file names for it."""
    estimate = ESTIMATES.get(verdict)
    evidence = Evidence(
        id=id,
        bits=bits,
        version=1,
        group=id.partition(".")[0],
        words="AWQ's output error is smaller than round-to-nearest's",
        source="AWQ paper",
        kind="structural",
        models=list(models),
        verdict=verdict,
        reason=REASONS.get(verdict, ""),
        estimate=estimate,
        interval=None if estimate is None else Interval(estimate - 0.1, estimate + 0.12, "t interval", "blocks", 5, 7),
        threshold=Threshold(lower=1.02),
        unit="times smaller",
        twin_estimate=None if estimate is None else 1.01,
        contrary=[]
        if estimate is None
        else [Contrary(f"model.layers.{i}.mlp.down_proj", 0.9 + i / 100) for i in range(5)],
        details={} if estimate is None else {"p_value": p_value},
    )
    for name, value in fields.items():
        setattr(evidence, name, value)
    if registered is not None:
        evidence.registered = {
            "verdict": registered,
            "reason": "a small model's tails are light",
            "version": 1,
            "conditions_met": conditions_met,
            "matches": registered == verdict.value,
        }
    return evidence.as_dict()
