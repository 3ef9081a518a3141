"""Verdicts of estimates, and their correction for multiple claims."""

from __future__ import annotations

from collections.abc import Sequence

from awq_core.judging.evidence import Contrary, Interval, Judgement, Threshold, Verdict
from awq_core.judging.intervals import Estimate

WORTH_RECOVERING = 0.01
"""Nats that round-to-nearest must cost before a claim about recovering damage is judged (design: the dagger)."""

WORST = 5
"""Number of parts (usually linears) that a failing claim names."""


def verdict_of(interval: Interval, threshold: Threshold) -> Verdict:
    """Judge an interval against a threshold.

    The claim is supported if the whole interval is on its side of the threshold, refuted if all of it is on the other
    side, and otherwise inconclusive. An interval with an end exactly on the threshold is inconclusive.
    """
    low = -float("inf") if threshold.lower is None else threshold.lower
    high = float("inf") if threshold.upper is None else threshold.upper
    if interval.lower > low and interval.upper < high:
        return Verdict.SUPPORTED
    if interval.upper < low or interval.lower > high:
        return Verdict.REFUTED
    return Verdict.INCONCLUSIVE


def judgement(estimate: Estimate, threshold: Threshold) -> Judgement:
    """The verdict on an estimate, with what an inconclusive one would need."""
    verdict = verdict_of(estimate.interval, threshold)
    reason = data_needed(estimate, threshold) if verdict is Verdict.INCONCLUSIVE else ""
    return Judgement(verdict, estimate.value, estimate.interval, reason)


def verdict_of_parts(verdicts: Sequence[Verdict]) -> Verdict:
    """Combine the verdicts of a claim's parts: supported if all are, refuted if any is, else inconclusive.

    Raises:
        ValueError: if there are no parts.
    """
    if not verdicts:
        raise ValueError("a claim of several parts needs at least one")
    if any(verdict is Verdict.REFUTED for verdict in verdicts):
        return Verdict.REFUTED
    return Verdict.SUPPORTED if all(v is Verdict.SUPPORTED for v in verdicts) else Verdict.INCONCLUSIVE


def data_needed(estimate: Estimate, threshold: Threshold) -> str:
    """Describe, in words, about how much data would decide an inconclusive claim."""
    interval = estimate.interval
    edges = [edge for edge in (threshold.lower, threshold.upper) if edge is not None]
    distance = min(abs(estimate.value - edge) for edge in edges)
    half = max(interval.upper - estimate.value, estimate.value - interval.lower)
    if distance == 0 or half / distance > 30:
        return f"the estimate lies on the threshold: no feasible number of {interval.resampled} would decide"
    needed = max(interval.n + 1, round(interval.n * (half / distance) ** 2))
    if interval.resampled == "blocks":
        return f"about {needed} blocks like these would decide, against {interval.n} here"
    return f"about {needed} {interval.resampled} would decide, against {interval.n} measured"


def margin(value: float, threshold: Threshold) -> float:
    """Distance of a value from the nearest edge of a threshold; negative outside."""
    sides = []
    if threshold.lower is not None:
        sides.append(value - threshold.lower)
    if threshold.upper is not None:
        sides.append(threshold.upper - value)
    return min(sides)


def most_contrary(values: dict[str, float], threshold: Threshold) -> list[Contrary]:
    """The values that speak most against a claim, worst first: farthest on the wrong side of its threshold."""
    ranked = sorted(values.items(), key=lambda item: (margin(item[1], threshold), item[0]))
    return [Contrary(name, float(value)) for name, value in ranked[:WORST]]


def survives_holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Apply Holm's step-down correction for multiple claims.

    Args:
        p_values: p values, one for each judged claim.
        level: family-wise error rate.

    Returns:
        For each claim, whether its verdict stands at this rate.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    stands = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > level / (len(p_values) - rank):
            break
        stands[index] = True
    return stands
