"""The answer first: what every method costs on this model at the deployed setting, and which one to take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import t as student

from awq_core.judging.evidence import Verdict
from awq_core.judging.metrics import window_values
from awq_core.judging.verdicts import WORTH_RECOVERING
from awq_core.measured import Measured
from awq_core.quantization.quantizers import DEPLOYED
from reports.verdict_words import Claim

METHODS = {
    "rtn-4": "rounding to nearest (RTN)",
    "rtn-clip-4": "clipping alone",
    "awq-block-4": "AWQ's scales",
    "awq-block-clip-4": "AWQ as published (both)",
    "gptq-4": "GPTQ",
}
"""Methods that are compared, by strategy, the simplest first."""

SCALES = "payoff.perplexity@4"
"""The claim that says whether AWQ's scales are worth it."""

WORTH_HAVING = 0.005
"""Smallest difference of losses worth having, in nats: the threshold of the claims about what a method recovers."""


@dataclass(frozen=True)
class Cost:
    """Cost of one method on the windows that all were scored on.

    Attributes:
        perplexity: of the quantized model.
        gap: loss beyond full precision, in nats.
        won_back: share of round-to-nearest's gap that it recovers; None where that costs nothing.
    """

    perplexity: float
    gap: float
    won_back: float | None = None


@dataclass(frozen=True)
class Answer:
    """The deployed setting in a few numbers and sentences.

    Attributes:
        sentence: all of it in words.
        full: perplexity in full precision, on the same windows; None where losses were not measured.
        costs: of the methods that were scored, by strategy.
    """

    sentence: str
    full: float | None = None
    costs: dict[str, Cost] = field(default_factory=dict)


def answer(name: str, measured: Measured | None, claims: Iterable[Claim]) -> Answer:
    """Answer for the model called `name`, by what was measured and by the verdicts of its `claims`."""
    scored = _scored(measured)
    if measured is None or "rtn-4" not in scored:
        return Answer(
            f"{_deployed(measured)}: perplexity was not measured on {name}, so whether AWQ is worth it is open."
            f"{_rounded_before(measured)}"
        )
    full, *quantized = window_values(measured, ["full", *scored])
    losses = dict(zip(scored, quantized, strict=True))
    costs = _costs(full, losses)
    listed = [f"{perplexity_words(cost.perplexity)} with {METHODS[strategy]}" for strategy, cost in costs.items()]
    decisive = next((claim for claim in claims if claim["key"] == SCALES and len(claim["models"]) == 1), None)
    in_full = float(full.mean())
    sentences = [
        f"{_deployed(measured)}, {name} has perplexity {perplexity_text(in_full)} in full precision: {_joined(listed)}"
        f"{_windows(measured, len(full))}.",
        _won_back(costs),
        _worth(decisive, costs),
        _beyond_guessing(measured, in_full) or _advice(losses),
        _rounded_before(measured),
    ]
    return Answer(" ".join(filter(None, (one.strip() for one in sentences))), _perplexity(in_full), costs)


def _scored(measured: Measured | None) -> list[str]:
    """The methods that were scored."""
    if measured is None or measured.losses is None:
        return []
    known = set(measured.losses["strategy"].values.tolist())
    return [strategy for strategy in METHODS if {"full", strategy} <= known]


def _costs(full: np.ndarray, losses: Mapping[str, np.ndarray]) -> dict[str, Cost]:
    """Compute what methods cost on the windows of all, by strategy, from losses `[windows]`."""
    gaps = {strategy: float((values - full).mean()) for strategy, values in losses.items()}
    lost = gaps["rtn-4"]
    return {
        strategy: Cost(
            _perplexity(float(losses[strategy].mean())),
            gap,
            (lost - gap) / lost if lost > 0 and strategy != "rtn-4" else None,
        )
        for strategy, gap in gaps.items()
    }


def _won_back(costs: Mapping[str, Cost]) -> str:
    """Say what round-to-nearest costs, and how much of it each of the others wins back."""
    lost = costs["rtn-4"].gap
    if lost <= 0:
        return f"RTN costs nothing here ({_nats(lost)} nats)."
    shares = {METHODS[strategy]: cost.won_back for strategy, cost in costs.items() if cost.won_back is not None}
    won = [f"{share:.0%} by {method}" for method, share in shares.items() if share >= 0]
    further = [f"{-share:.0%} by {method}" for method, share in shares.items() if share < 0]
    sentences = [f"RTN costs {_nats(lost)} nats"]
    sentences += [f"won back: {_joined(won)}"] if won else []
    sentences += [f"lost on top: {_joined(further)}"] if further else []
    return f"{'; '.join(sentences)}."


def _worth(claim: Claim | None, costs: Mapping[str, Cost]) -> str:
    """Say what the claim about the scales says, and it alone."""
    lost = costs["rtn-4"].gap
    if claim is None:
        return "Whether AWQ's scales are worth it was not judged in this run."
    worth_having = f"{(claim['threshold'] or {}).get('lower', 0):g} nats"
    reason = claim["reason"].rstrip(".") or claim["verdict"]
    match Verdict(claim["verdict"]):
        case Verdict.SUPPORTED:
            return f"AWQ's scales are worth it on this model: they improve the loss by more than {worth_having}."
        case Verdict.REFUTED:
            return f"AWQ's scales are not worth it on this model: they improve the loss by less than {worth_having}."
        case Verdict.INCONCLUSIVE:
            return "Whether AWQ's scales are worth it on this model cannot be told from this much text."
        case Verdict.INSUFFICIENT if lost < WORTH_RECOVERING:
            return f"RTN costs less than {WORTH_RECOVERING} nats here: nothing worth recovering."
        case Verdict.INSUFFICIENT | Verdict.NOT_APPLICABLE:
            return f"Whether AWQ's scales are worth it on this model could not be judged: {reason}."
        case other:
            raise ValueError(f"{SCALES} cannot be {other.value}")


def _advice(losses: Mapping[str, np.ndarray]) -> str:
    """Which checkpoint loses least, and the simplest that is as good.

    A simpler one stands before it in `METHODS`: so the scales are never credited with what clipping does alone.

    Args:
        losses: `[windows]` by strategy, on the same windows.
    """
    if len(losses) < len(METHODS):
        return ""
    best, second = sorted(losses, key=lambda strategy: float(losses[strategy].mean()))[:2]
    ahead, low, high = _interval(losses[second] - losses[best])
    words = (
        f"{_capital(METHODS[best])} loses least here, {_nats(ahead)} nats [{_nats(low)}, {_nats(high)}] less than "
        f"{METHODS[second]}."
    )
    behind = {strategy: _interval(losses[strategy] - losses[best]) for strategy in losses}
    as_good = next(strategy for strategy in losses if strategy == best or behind[strategy][2] < WORTH_HAVING)
    words += f" Advice: {METHODS[as_good]}"
    if as_good != best:
        words += f", the simplest that is surely within {WORTH_HAVING} nats of it"
    simpler = [
        strategy for strategy in list(losses)[: list(losses).index(as_good)] if behind[strategy][1] < WORTH_HAVING
    ]
    if simpler:
        words += f"; whether {METHODS[simpler[0]]} would do as well cannot be told from this much text"
    return f"{words}."


def _interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean of paired window differences with its 95% interval."""
    mean, half = float(differences.mean()), half_width(differences)
    return mean, mean - half, mean + half


def half_width(differences: np.ndarray, looks: int = 1) -> float:
    """Half of Student's 95% interval for a mean over windows; 0 for a single window, which has no spread.

    Of several looks, at the level that each of them has.
    """
    if len(differences) < 2:
        return 0.0
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return float(student.ppf(1 - 0.025 / looks, len(differences) - 1) * error)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _joined(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _windows(measured: Measured, common: int) -> str:
    """On how many windows all methods were scored, where that is not all of them."""
    assert measured.losses is not None
    every = measured.losses.sizes["window"]
    return "" if common == every else f", on the {common} of {every} windows that all were scored on"


def _rounded_before(measured: Measured | None) -> str:
    """What a reader must know of weights that were quantized when they were read; else nothing."""
    types = "" if measured is None else measured.provenance.get("dequantized", "")
    return f" Its weights were rounded before ({types}) and dequantized." if types else ""


def _beyond_guessing(measured: Measured, full: float) -> str:
    """A warning where the model is worse than one that knows nothing; else nothing."""
    vocabulary = int(measured.provenance.get("vocabulary") or 0)
    if not vocabulary or full < math.log(vocabulary):
        return ""
    return (
        f"A perplexity above the vocabulary's {vocabulary:,} tokens is worse than guessing: the model, its tokenizer "
        "or the text is not what it should be, and what rounding costs cannot be read from it."
    )


def _deployed(measured: Measured | None) -> str:
    """The deployed setting in words, with the group sizes in use where the one asked for does not divide a width."""
    deployed = DEPLOYED if measured is None else measured.deployed
    words = f"At 4 bits, groups of {deployed.group_size}"
    widths = set() if measured is None else set(measured.errors["in_features"].values.tolist())
    sizes = sorted({deployed.group_size_for(width) for width in widths})
    if sizes in ([], [deployed.group_size]):
        return words
    return f"{words} (here {' and '.join(map(str, sizes))}, as the widths allow)"


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


def _nats(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")
