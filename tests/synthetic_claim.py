"""Evidence of invented claims, as it travels on test reports."""

from __future__ import annotations

import math
from typing import Any

from scipy import stats

from awq_core.judging.evidence import Contrary, Evidence, Interval, Scale, Threshold, Verdict

ESTIMATES = {Verdict.SUPPORTED: 1.3, Verdict.REFUTED: 0.7, Verdict.INCONCLUSIVE: 1.05}
REASONS = {
    Verdict.INSUFFICIENT: "3 blocks measured, at least 4 needed",
    Verdict.NOT_APPLICABLE: "needs a gate",
    Verdict.INCONCLUSIVE: "about 12 blocks like these would decide",
}


def synthetic_interval(
    lower: float, upper: float, n: int = 5, scale: Scale = Scale.LINEAR, resampled: str = "blocks"
) -> Interval:
    """Student's interval over clusters with `n - 1` degrees of freedom, its standard error from half its width."""
    half = (math.log(upper / lower) if scale is Scale.LOGARITHM else upper - lower) / 2
    error = half / float(stats.t.ppf(0.975, n - 1))
    return Interval(
        lower, upper, "t interval", resampled, n, 7, standard_error=error, degrees_of_freedom=n - 1, scale=scale
    )


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
        interval=None if estimate is None else synthetic_interval(estimate - 0.1, estimate + 0.12),
        threshold=Threshold(lower=1.02),
        unit="times smaller",
        p_value=None if estimate is None else p_value,
        twin_estimate=None if estimate is None else 1.01,
        contrary=[]
        if estimate is None
        else [Contrary(f"model.layers.{i}.mlp.down_proj", 0.9 + i / 100) for i in range(5)],
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
