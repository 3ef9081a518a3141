"""Judging a claim: its estimate on the model, the same on the untrained twin, an interval, a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from awq_core.judging.evidence import Evidence, Judgement, Ranking, Threshold, Verdict
from awq_core.judging.intervals import Estimate, InsufficientDataError
from awq_core.judging.metrics import reduction
from awq_core.judging.verdicts import judgement, margin, most_contrary, verdict_of_parts
from awq_core.measure.methods.looks import at_look, count_of
from awq_core.measured import Measured
from awq_core.quantization.quantizers import DIAGNOSTIC
from claims.support.claim import Claim, NotApplicableError, Pair, Parts, Reported, Result, Setting
from claims.support.readers import UndecidedError
from fixtures.measuring.stages import Stage, in_words

DIAGNOSTIC_SETTING = Setting(bits=3, quantizer=DIAGNOSTIC.name)
"""AWQ-Diag's quantizer and precision: the variant reported beside the deployed setting."""

LACKS = {InsufficientDataError: Verdict.INSUFFICIENT, NotApplicableError: Verdict.NOT_APPLICABLE}
"""What an estimate may lack, and the verdict that says so."""

ALONE = "replication needs two sizes of a family; give --model twice"
"""Reason of a claim about two sizes in a run of one: nothing that is to be registered."""
LEFT_OUT = "not measured (--stages)"
"""End of the reason of a claim whose stages a run left out: nothing that is to be registered."""


def judge(claim: Claim, subject: Measured | Pair, setting: Setting, *, beside: bool = True) -> Evidence:
    """Judge one claim on one model, or on two sizes of a family.

    A planted control answers with the scenario that the claim names. Where the model's windows are scored in several
    looks, the claim is judged at one look after another until one decides it: its verdict rests on the windows of that
    look, whatever else was scored, so that it does not hang on which other claims are judged in the run.

    Args:
        claim: the claim.
        subject: one model's measurements, or two sizes' with the smaller first.
        setting: precision and seed of the run.
        beside: also judge what stands beside the verdict: the untrained twin, and AWQ-Diag's quantizer.

    Raises:
        ValueError: if an estimate is NaN: an error, never a verdict.
        NotScoredError: where the claim needs windows, or strategies, that have not been scored.
    """
    setting = setting.for_claim(claim.id)
    models = [subject] if isinstance(subject, Measured) else list(subject)
    models = [measured.for_claim(claim.id) for measured in models]
    losses = models[0].losses if claim.level == "model" else None
    looks = count_of(losses)
    if losses is None or looks == 1:
        return _judge_once(claim, models, setting, beside)
    for look in range(looks):
        at = replace(models[0], losses=at_look(losses, look))
        try:
            evidence = _judge_once(claim, [at], setting, beside)
        except UndecidedError:  # never at the last look
            continue
        if evidence.verdict is not Verdict.INCONCLUSIVE:
            break
    return evidence


def _judge_once(claim: Claim, models: list[Measured], setting: Setting, beside: bool) -> Evidence:
    """Judge the claim on the measurements as they stand, at one look."""
    evidence = Evidence(
        id=claim.id,
        bits=setting.bits,
        version=claim.version,
        group=claim.group,
        words=claim.words,
        source=claim.source,
        kind=claim.kind,
        models=[measured.name for measured in models],
        verdict=Verdict.REPORTED,  # until it is judged
        threshold=claim.threshold,
        unit=claim.unit,
    )
    try:
        result = _estimate(claim, models, setting)
    except tuple(LACKS) as lack:
        evidence.verdict, evidence.reason = LACKS[type(lack)], str(lack)
        return evidence
    if isinstance(result, Reported):
        evidence.estimate, evidence.readings = result.value, dict(result.readings)
        return evidence
    assert claim.threshold is not None, f"{claim.id} returns an estimate and needs a threshold"
    _record_verdict(evidence, _parts(result), claim.threshold)
    if beside and claim.level != "model":
        evidence.twin_estimate = _on_twins(claim, models, setting)
        if claim.level == "layer" and setting.bits is not None:
            name = f"{DIAGNOSTIC_SETTING.quantizer} at {DIAGNOSTIC_SETTING.bits} bits"
            evidence.variants[name] = _diagnostic_variant(claim, models[0], setting.seed)
    if not evidence.contrary and claim.level != "pair" and setting.bits is not None:
        gains = reduction(models[0], setting.quantizer, setting.bits)
        by_name = dict(zip(map(str, gains["linear"].values), map(float, gains.values), strict=True))
        evidence.contrary, evidence.ranking = most_contrary(by_name, Threshold(lower=1.0)), Ranking.HELPED_LEAST
    return evidence


def _estimate(claim: Claim, models: list[Measured], setting: Setting) -> Result:
    """The claim's estimate, on one model or on two sizes.

    Raises:
        NotApplicableError: also where the second size is missing, or a run left out a stage that the claim reads.
        InsufficientDataError: from the claim.
    """
    if claim.level == "pair" and len(models) < 2:
        raise NotApplicableError(ALONE)
    if missing := not_measured(claim, models):
        verb = "was" if missing == ["traffic"] else "were"
        raise NotApplicableError(f"{in_words(missing)} {verb} {LEFT_OUT}")
    return claim.estimate(tuple(models) if claim.level == "pair" else models[0], setting)


def is_about_the_model(evidence: Evidence) -> bool:
    """Test whether a verdict can be registered: it is the model's, and lacks nothing that the run left out."""
    return evidence.reason != ALONE and not evidence.reason.endswith(LEFT_OUT)


def not_measured(claim: Claim, models: Sequence[Measured]) -> list[Stage]:
    """Stages that the claim reads and a run left out on some of the models."""
    left_out: dict[Stage, bool] = {
        "traffic": any(measured.traffic is None for measured in models),
        "losses": any(measured.losses is None for measured in models),
    }
    return [stage for stage in claim.reads if left_out.get(stage)]


def _parts(result: Result) -> Parts:
    """A claim's parts by name; a claim without parts is one, without a name."""
    assert not isinstance(result, Reported)
    return result if isinstance(result, dict) else {"": result}


def _judge_parts(parts: Parts, threshold: Threshold) -> tuple[dict[str, Judgement], str]:
    """Every part's judgement, and the part that carries the verdict: of those that share it, the worst."""
    judged = {name: judgement(part, threshold) for name, part in parts.items()}
    verdict = verdict_of_parts([part.verdict for part in judged.values()])
    sharing = [name for name, part in judged.items() if part.verdict is verdict]
    return judged, min(sharing, key=lambda name: margin(parts[name].value, threshold))


def _record_verdict(evidence: Evidence, parts: Parts, threshold: Threshold) -> None:
    judged, deciding = _judge_parts(parts, threshold)
    shown, estimate = judged[deciding], parts[deciding]
    evidence.verdict, evidence.reason = shown.verdict, shown.reason
    evidence.estimate, evidence.interval = shown.estimate, shown.interval
    evidence.linear, evidence.readings = estimate.linear, dict(estimate.readings)
    evidence.variants = {name: judgement(variant, threshold) for name, variant in estimate.variants.items()}
    p_values = {name: part.p_value(threshold) for name, part in parts.items()}
    refuted = [p_values[name] for name, part in judged.items() if part.verdict is Verdict.REFUTED]
    # Any refuted part refutes: the smallest of k p-values is corrected for being the smallest (Bonferroni).
    evidence.p_value = min(1.0, len(parts) * min(refuted)) if refuted else max(p_values.values())
    if len(parts) > 1:
        evidence.parts, evidence.deciding_part = judged, deciding
    if estimate.summarised:
        evidence.contrary = most_contrary(estimate.summarised, threshold)


def _on_twins(claim: Claim, models: list[Measured], setting: Setting) -> float | None:
    """The claim's estimate on the untrained twins, averaged over their seeds; the weakest part of several.

    A claim about two sizes is asked of pairs of twins, one of either size.
    """
    threshold = claim.threshold
    assert threshold is not None
    values = []
    for twins in zip(*(measured.twins for measured in models), strict=False):
        try:
            result = claim.estimate(twins if claim.level == "pair" else twins[0], setting)
        except (InsufficientDataError, NotApplicableError):
            continue
        if isinstance(result, dict):
            values.append(min((part.value for part in result.values()), key=lambda v: margin(v, threshold)))
        elif isinstance(result, Estimate):
            values.append(result.value)
    return float(np.mean(values)) if values else None


def _diagnostic_variant(claim: Claim, measured: Measured, seed: int) -> Judgement:
    """The claim under AWQ-Diag's quantizer, or why it cannot be asked there."""
    assert claim.threshold is not None
    try:
        result = claim.estimate(measured, replace(DIAGNOSTIC_SETTING, seed=seed))
    except tuple(LACKS) as lack:
        return Judgement(LACKS[type(lack)], reason=str(lack))
    judged, deciding = _judge_parts(_parts(result), claim.threshold)
    return judged[deciding]
