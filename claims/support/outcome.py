"""What a claim that did not hold says: estimate, interval, threshold, and the linears that speak most against it."""

from __future__ import annotations

from awq_core.judging.evidence import Evidence


class ChangedVerdictWarning(UserWarning):
    """A verdict differs from the registered one, and so do the conditions it was measured under."""


def failure_message(evidence: Evidence) -> str:
    """A few lines for the terminal: what was claimed, what was measured, what speaks most against it."""
    lines = [f"{evidence.key} is {evidence.verdict} on {' and '.join(evidence.models)}: {evidence.words}"]
    if evidence.estimate is not None and evidence.interval is not None:
        interval = evidence.interval
        lines.append(
            f"  estimate {evidence.estimate:.4g} {evidence.unit}, {interval.in_words} "
            f"[{interval.lower:.4g}, {interval.upper:.4g}] over {interval.n} {interval.resampled}; "
            f"the claim needs {evidence.threshold}"
        )
    if evidence.twin_estimate is not None:
        lines.append(f"  untrained twin: {evidence.twin_estimate:.4g}")
    if evidence.reason:
        lines.append(f"  {evidence.reason}")
    if evidence.contrary:
        lines.append(f"  linears ({evidence.ranking}):")
        lines += [f"    {item.name}: {item.value:.4g}" for item in evidence.contrary]
    return "\n".join(lines)
