"""The answer first: is AWQ worth it on this model, at the setting that is deployed?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from awq_core.judging.evidence import WITH_CLIPPING, Verdict
from awq_core.judging.metrics import window_values
from awq_core.judging.verdicts import WORTH_RECOVERING
from awq_core.measured import Measured
from awq_core.quantization.quantizers import DEPLOYED
from reports.verdict_words import Claim

DECISIVE_CLAIM = "payoff.perplexity@4"
COMPARED = ("full", "rtn-4", "awq-block-4")
CLIPPED = ("awq-block-4", "awq-block-clip-4")


@dataclass(frozen=True)
class Answer:
    """The deployed setting in a few numbers and sentences.

    The numbers are perplexities, None where losses were not measured (`clipped`: where the clip search was not);
    `won_back` is the share of round-to-nearest's loss in nats that AWQ's scales recover, and `won_with_clipping` that
    of scales and clipping; None where round-to-nearest costs nothing.
    """

    sentence: str
    full: float | None = None
    rtn: float | None = None
    awq: float | None = None
    won_back: float | None = None
    clipped: float | None = None
    won_with_clipping: float | None = None


def answer(name: str, measured: Measured | None, claims: Iterable[Claim]) -> Answer:
    """The answer for the model called `name`, decided by its `claims`."""
    found = _from_losses(name, measured, claims)
    return replace(found, sentence=found.sentence + _rounded_before(measured))


def _from_losses(name: str, measured: Measured | None, claims: Iterable[Claim]) -> Answer:
    decisive = next((c for c in claims if c["key"] == DECISIVE_CLAIM and len(c["models"]) == 1), None)
    unscaled = mean_losses(measured, ("full", "rtn-4"))
    if unscaled is None:
        return Answer(
            f"{_deployed(measured)}: perplexity was not measured on {name}, so whether AWQ is worth it is open."
        )
    full, rtn = unscaled
    scaled = mean_losses(measured, COMPARED)
    if scaled is None:
        unscaled_only = _without_awq(
            f"{_deployed(measured)}, {name}", full, rtn, decisive, _windows(measured, ("full", "rtn-4"))
        )
        return replace(unscaled_only, sentence=unscaled_only.sentence + _beyond_guessing(measured, full))
    full, rtn, awq = scaled
    lost, won = rtn - full, rtn - awq
    clipped = None
    if measured is not None and mean_losses(measured, CLIPPED):
        # Against the scales alone, on the windows that both were scored on: full precision may have more.
        scales, both = window_values(measured, CLIPPED)
        clipped = awq + float((both - scales).mean())
    # llm-awq both scales and clips. The claim judges the scales; what clipping adds stands beside its verdict.
    what, who = ("AWQ", "AWQ") if clipped is None else ("AWQ's scales", "AWQ without clipping")
    sentence = (
        f"{_deployed(measured)}, {name} has perplexity {perplexity_text(full)} in full precision, "
        f"{perplexity_text(rtn)} rounded to nearest (RTN) and {perplexity_text(awq)} with {what}"
        f"{_windows(measured, COMPARED)}: "
        f"{_recovered(lost, won)}. {_worth(decisive, lost, who)}"
    )
    variant = None if decisive is None else decisive["variants"].get(WITH_CLIPPING)
    if clipped is not None and lost > 0 and variant is not None:
        sentence += f" {_with_clipping(variant, clipped, (rtn - clipped) / lost, _windows(measured, CLIPPED))}"
    return Answer(
        sentence + _beyond_guessing(measured, full),
        _perplexity(full),
        _perplexity(rtn),
        _perplexity(awq),
        won / lost if lost > 0 else None,
        None if clipped is None else _perplexity(clipped),
        None if clipped is None or lost <= 0 else (rtn - clipped) / lost,
    )


def _rounded_before(measured: Measured | None) -> str:
    """What a reader must know of weights that were quantized when they were read; else nothing."""
    types = "" if measured is None else measured.provenance.get("dequantized", "")
    return f" Its weights were rounded before ({types}) and dequantized." if types else ""


def _beyond_guessing(measured: Measured | None, full: float) -> str:
    """A warning where the model is worse than one that knows nothing; else nothing."""
    vocabulary = 0 if measured is None else int(measured.provenance.get("vocabulary") or 0)
    if not vocabulary or full < math.log(vocabulary):
        return ""
    return (
        f" A perplexity above the vocabulary's {vocabulary:,} tokens is worse than guessing: the model, its tokenizer "
        "or the text is not what it should be, and what rounding costs cannot be read from it."
    )


def _windows(measured: Measured | None, strategies: Iterable[str]) -> str:
    """On how many windows, where that is not all of them."""
    if measured is None or measured.losses is None:
        return ""
    losses = measured.losses["window_loss"].sel(strategy=list(strategies))
    scored = int(losses.notnull().all("strategy").sum())
    return "" if scored == losses.sizes["window"] else f", on {scored} of {losses.sizes['window']} windows"


def _without_awq(model: str, full: float, rtn: float, decisive: Claim | None, windows: str) -> Answer:
    """Where no claim needed AWQ's perplexity: the decisive claim says why, or was not asked."""
    lost = rtn - full
    cost = f"{_nats(lost)} nats" if lost > 0 else f"nothing here ({_nats(lost)} nats)"
    sentence = (
        f"{model} has perplexity {perplexity_text(full)} in full precision and {perplexity_text(rtn)} rounded to "
        f"nearest (RTN){windows}: RTN costs {cost}. AWQ was not scored"
    )
    if decisive is None:
        sentence += "; whether it is worth it was not judged in this run."
    elif decisive["verdict"] == Verdict.INSUFFICIENT and lost < WORTH_RECOVERING:
        sentence += f": with less than {WORTH_RECOVERING} nats lost there is nothing worth recovering."
    else:
        sentence += f": {decisive['reason'] or decisive['verdict']}."
    return Answer(sentence, _perplexity(full), _perplexity(rtn))


def _with_clipping(variant: dict[str, Any], clipped: float, share: float, windows: str) -> str:
    """What llm-awq's clip search adds, decided by the claim's variant alone."""
    change = f"{share:.0%} of RTN's loss won back" if share >= 0 else f"a further {-share:.0%} lost"
    aside = f"{windows}," if windows else ""
    sentence = f"With llm-awq's clip search as well{aside} it is {perplexity_text(clipped)}, {change}"
    match Verdict(variant["verdict"]):
        case Verdict.SUPPORTED:
            return f"{sentence}: AWQ with clipping is worth it on this model."
        case Verdict.REFUTED:
            return f"{sentence}: AWQ with clipping is not worth it on this model."
        case Verdict.INCONCLUSIVE:
            return f"{sentence}: whether that is worth it cannot be told from this much text."
    return f"{sentence}."


def _deployed(measured: Measured | None) -> str:
    """The deployed setting in words, with the group sizes in use where the one asked for does not divide a width."""
    deployed = DEPLOYED if measured is None else measured.deployed
    words = f"At 4 bits, groups of {deployed.group_size}"
    widths = set() if measured is None else set(measured.errors["in_features"].values.tolist())
    sizes = sorted({deployed.group_size_for(width) for width in widths})
    if sizes in ([], [deployed.group_size]):
        return words
    return f"{words} (here {' and '.join(map(str, sizes))}, as the widths allow)"


def mean_losses(measured: Measured | None, strategies: Iterable[str]) -> list[float] | None:
    """Mean losses in nats on the windows that all strategies were scored on, or None where one was not measured."""
    if measured is None or measured.losses is None:
        return None
    known = set(measured.losses["strategy"].values.tolist())
    wanted = list(strategies)
    if not known.issuperset(wanted):
        return None
    return [float(values.mean()) for values in window_values(measured, wanted)]


def perplexity_text(loss: float) -> str:
    """exp(loss) in words."""
    return perplexity_words(_perplexity(loss))


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def perplexity_words(value: float) -> str:
    """A perplexity with two decimals, four below 2 and none from 1000."""
    if value >= 1000:
        return f"{value:,.0f}" if math.isfinite(value) else "beyond measure"
    return f"{value:.4f}" if value < 2 else f"{value:.2f}"


def _recovered(lost: float, won: float) -> str:
    if lost <= 0:
        return f"RTN costs nothing here ({_nats(lost)} nats), so there is nothing to win back"
    share = won / lost
    if won < 0:
        return f"AWQ loses a further {-share:.0%} on top of what RTN loses ({_nats(-won)} on {_nats(lost)} nats)"
    return f"AWQ wins back {share:.0%} of what RTN loses ({_nats(won)} of {_nats(lost)} nats)"


def _nats(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")


def _worth(decisive: Claim | None, lost: float, who: str) -> str:
    """The last words, decided by the claim alone."""
    if decisive is None:
        return "Whether that is worth it was not judged in this run."
    worth_having = f"{(decisive['threshold'] or {}).get('lower', 0):g} nats"
    match Verdict(decisive["verdict"]):
        case Verdict.SUPPORTED:
            return f"{who} is worth it on this model: it improves the loss by more than {worth_having}."
        case Verdict.REFUTED:
            return f"{who} is not worth it on this model: it improves the loss by less than {worth_having}."
        case Verdict.INCONCLUSIVE:
            return f"Whether {who} is worth it on this model cannot be told from this much text."
        case Verdict.INSUFFICIENT if lost < WORTH_RECOVERING:
            return f"RTN costs less than {WORTH_RECOVERING} nats here: nothing worth recovering."
        case Verdict.INSUFFICIENT | Verdict.NOT_APPLICABLE:
            return f"Whether {who} is worth it on this model could not be judged: {decisive['reason'].rstrip('.')}."
        case other:
            raise ValueError(f"{DECISIVE_CLAIM} cannot be {other.value}")
