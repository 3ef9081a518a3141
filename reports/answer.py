"""The answer first: is AWQ worth it on this model, at the setting that is deployed?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from awq_core.evidence import Verdict
from awq_core.measured import Measured
from awq_core.quantizer import deployed_group_size
from reports.verdict_words import Claim

DECISIVE_CLAIM = "payoff.perplexity@4"
WORTH_HAVING = 0.005
"""Nats: the registered threshold of `payoff.perplexity`, in words here and judged by the claim."""
WORTH_RECOVERING = 0.01
"""Nats: what round-to-nearest must cost before recovering it is a question (design: "Verdicts")."""
DEPLOYED = "At 4 bits, groups of 128"


@dataclass(frozen=True)
class Answer:
    """The deployed setting in four numbers and one sentence.

    The numbers are None where losses were not measured; `won_back` is the share of round-to-nearest's loss in
    nats that AWQ recovers, and None where round-to-nearest costs nothing.
    """

    sentence: str
    full: float | None = None
    rtn: float | None = None
    awq: float | None = None
    won_back: float | None = None


def answer(name: str, measured: Measured | None, claims: Iterable[Claim]) -> Answer:
    """The answer for the model called `name`, decided by its `claims`."""
    decisive = next((c for c in claims if c["key"] == DECISIVE_CLAIM and len(c["models"]) == 1), None)
    gaps = mean_losses(measured, ("full", "rtn-4", "awq-block-4"))
    if gaps is None:
        return Answer(
            f"{_deployed(measured)}: perplexity was not measured on {name}, so whether AWQ is worth it is open."
        )
    full, rtn, awq = gaps
    lost, won = rtn - full, rtn - awq
    sentence = (
        f"{_deployed(measured)}, {name} has perplexity {perplexity_text(full)} in full precision, "
        f"{perplexity_text(rtn)} rounded to nearest (RTN) and {perplexity_text(awq)} with AWQ: "
        f"{_recovered(lost, won)}. {_worth(decisive, lost)}"
    )
    return Answer(sentence, _perplexity(full), _perplexity(rtn), _perplexity(awq), won / lost if lost > 0 else None)


def _deployed(measured: Measured | None) -> str:
    """The deployed setting in words, with the group sizes in use where 128 does not divide a width."""
    widths = set() if measured is None else set(measured.errors["in_features"].values.tolist())
    sizes = sorted({deployed_group_size(width) for width in widths})
    if sizes in ([], [128]):
        return DEPLOYED
    return f"{DEPLOYED} (here {' and '.join(map(str, sizes))}, as the widths allow)"


def mean_losses(measured: Measured | None, strategies: Iterable[str]) -> list[float] | None:
    """The mean window loss of each strategy in nats, or None where one of them was not measured."""
    if measured is None or measured.losses is None:
        return None
    known = set(measured.losses["strategy"].values.tolist())
    wanted = list(strategies)
    if not known.issuperset(wanted):
        return None
    return [float(measured.losses["window_loss"].sel(strategy=name).mean()) for name in wanted]


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


def _worth(decisive: Claim | None, lost: float) -> str:
    """The last words, decided by the claim alone."""
    if decisive is None:
        return "Whether that is worth it was not judged in this run."
    match Verdict(decisive["verdict"]):
        case Verdict.SUPPORTED:
            return f"AWQ is worth it on this model: it improves the loss by more than {WORTH_HAVING} nats."
        case Verdict.REFUTED:
            return f"AWQ is not worth it on this model: it improves the loss by less than {WORTH_HAVING} nats."
        case Verdict.INCONCLUSIVE:
            return "Whether AWQ is worth it on this model cannot be told from this much text."
        case Verdict.INSUFFICIENT if lost < WORTH_RECOVERING:
            return f"RTN costs less than {WORTH_RECOVERING} nats here: nothing worth recovering."
        case Verdict.INSUFFICIENT | Verdict.NOT_APPLICABLE:
            return f"Whether AWQ is worth it on this model could not be judged: {decisive['reason'].rstrip('.')}."
        case other:
            raise ValueError(f"{DECISIVE_CLAIM} cannot be {other.value}")
