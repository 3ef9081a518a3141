"""What the page says of one claim: what its verdict means, in sentences, and the readings beside it."""

from __future__ import annotations

from typing import Any

from awq_core.judging.evidence import WITH_CLIPPING, Verdict
from reports.verdict_words import (
    Claim,
    interval_name,
    interval_text,
    is_exact,
    is_judged,
    is_registered,
    judgement_text,
    number,
    threshold_text,
    verdict_of,
)


def meaning(claim: Claim) -> str:
    """What the claim's verdict means, in a few sentences of plain text."""
    sentences = [_verdict(claim), _parts(claim), _holm(claim), _twin(claim), _registration(claim)]
    return " ".join(sentence for sentence in sentences if sentence)


def _verdict(claim: Claim) -> str:
    models = " and ".join(claim["models"])
    reason = claim["reason"].rstrip(".")
    match verdict_of(claim):
        case Verdict.SUPPORTED if is_exact(claim):
            return f"Nothing is sampled here: the value is exact, and lies {threshold_text(claim)}, as claimed."
        case Verdict.SUPPORTED:
            return f"The whole {interval_name(claim)} lies {threshold_text(claim)}: the claim holds on {models}."
        case Verdict.REFUTED:
            what = "value, which is exact," if is_exact(claim) else f"whole {interval_name(claim)}"
            return f"The {what} lies {_other_side(claim)}: the claim does not hold on {models}."
        case Verdict.INCONCLUSIVE:
            needed = f" {reason[:1].upper()}{reason[1:]}." if reason else ""
            which = "a" if _two_sided(claim) else "the"
            return f"The {interval_name(claim)} holds {which} threshold, so this much data cannot tell.{needed}"
        case Verdict.INSUFFICIENT:
            return f"There is too little to judge by: {reason}."
        case Verdict.NOT_APPLICABLE:
            return f"The claim cannot be asked of {models}: {reason}."
        case Verdict.REPORTED:
            return "This quantity is measured and shown beside the claims; the catalogue does not judge it."


def _two_sided(claim: Claim) -> bool:
    return claim["threshold"]["lower"] is not None and claim["threshold"]["upper"] is not None


def _other_side(claim: Claim) -> str:
    lower, upper = claim["threshold"]["lower"], claim["threshold"]["upper"]
    if _two_sided(claim):
        return f"outside {number(lower)} to {number(upper)}"
    return f"below {number(lower)}" if lower is not None else f"above {number(upper)}"


def _parts(claim: Claim) -> str:
    """A claim of several parts shows one of them: which, and why that one."""
    shown = claim["deciding_part"]
    if shown is None or not is_judged(claim):
        return ""
    return f"It has {len(claim['parts'])} parts and needs them all; shown is the one that decides: {shown}."


def _holm(claim: Claim) -> str:
    decided = verdict_of(claim) in (Verdict.SUPPORTED, Verdict.REFUTED)
    if not decided or claim["survives_holm"] is None:
        return ""
    if claim["survives_holm"]:
        return "It survives Holm's correction over all claims that an interval judges on the model."
    return (
        "It does not survive Holm's correction over all claims that an interval judges on the model: it may be one of "
        "the few that come out false by chance."
    )


def _twin(claim: Claim) -> str:
    """Whether training is needed for what is supported; a mechanical claim is true of any network."""
    twin, threshold = claim["twin_estimate"], claim["threshold"]
    if verdict_of(claim) is not Verdict.SUPPORTED or twin is None or claim["kind"] == "mechanical":
        return ""
    above = threshold["lower"] is None or twin > threshold["lower"]
    below = threshold["upper"] is None or twin < threshold["upper"]
    if above and below:
        return (
            f"The untrained twin's estimate, {number(twin)}, lies on the same side: "
            "the architecture meets this threshold before any training."
        )
    return f"The untrained twin's estimate, {number(twin)}, lies on the other side: training brings it over."


def _registration(claim: Claim) -> str:
    registered = claim.get("registered")
    if registered is None or not is_judged(claim):
        return ""
    if is_registered(claim):
        if verdict_of(claim) is Verdict.SUPPORTED:
            return ""
        reason = str(registered.get("reason", "")).rstrip(".")
        # A reason that only repeats the measured numbers says nothing new here.
        why = "" if reason.startswith("measured ") or not reason else f": {reason}"
        return f"The verdict is registered for this model{why}. It does not fail the run."
    if registered.get("conditions_met", True):
        return f"It is registered as {registered['verdict']} under the same conditions: the change fails the run."
    return f"It was registered as {registered['verdict']} under other conditions: the change warns, and does not fail."


def judged_by(claim: Claim) -> str:
    """The number line in words, after the estimate: `95% interval [1.2, 1.42]; supported above 1.02`."""
    interval = "exact" if is_exact(claim) else f"{interval_name(claim)} {interval_text(claim)}"
    parts = [interval if claim["interval"] else "", f"supported {threshold_text(claim)}" if claim["threshold"] else ""]
    return "; ".join(filter(None, parts))


def facts(claim: Claim) -> dict[str, str]:
    """How the claim was judged, and against what; empty texts where there is nothing to say."""
    clipping = claim["variants"].get(WITH_CLIPPING)
    return {
        "untrained twin": number(claim["twin_estimate"]),
        "resampled": _resampled(claim["interval"]),
        "kind": f"{claim['kind']}, version {claim['version']}",
        "linear": claim["linear"] or "",
        WITH_CLIPPING: judgement_text(clipping) if clipping else "",
        "on": " and ".join(claim["models"]) if len(claim["models"]) > 1 else "",
    }


def _resampled(interval: dict[str, Any] | None) -> str:
    if not interval:
        return ""
    seed = "" if interval["seed"] is None else f", seed {interval['seed']}"
    look = "" if interval["looks"] == 1 else f", look {interval['look']} of {interval['looks']}"
    return f"{interval['n']:,} {interval['resampled']}, {interval['method']}{seed}{look}"


def against(claim: Claim) -> tuple[str, dict[str, str]]:
    """The linears that are named: by what they were chosen, and their values by name."""
    named = claim["ranking"]
    return named[:1].upper() + named[1:], {item["name"]: number(item["value"]) for item in claim["contrary"]}


def also_read(claim: Claim) -> dict[str, str]:
    """What else was judged or read of the same measurement, and is shown nowhere else."""
    judged = {f"part {name}": part for name, part in claim["parts"].items()}
    judged |= {name: variant for name, variant in claim["variants"].items() if name != WITH_CLIPPING}
    readings = {} if claim["p_value"] is None else {"p value": claim["p_value"]}
    readings |= claim["readings"]
    return {name: judgement_text(one) for name, one in judged.items()} | {
        name: number(value) if isinstance(value, float) else str(value) for name, value in readings.items()
    }
