"""What has to be scored before the claims of a run can be judged, given what has been."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from awq_core.judging.metrics import losses_of
from awq_core.measure.methods.looks import NotScoredError, at_look, count_of, on_common_windows
from awq_core.measured import Measured
from claims.support.catalogue import the_suites_own
from claims.support.claim import Claim, Setting
from claims.support.judge import judge
from reports.answer import METHODS, SCALES
from reports.verdict_words import JUDGED

if TYPE_CHECKING:
    from fixtures.measuring.losses_by_look import Wanted

Asked = tuple[Claim, Setting]
"""A claim, and what it is judged at."""


def claims_about_models(asked: Iterable[Asked]) -> list[Asked]:
    """Those of a run's claims that may need a model's losses.

    A claim about two sizes that reads losses compares their verdicts: every claim about a model is then asked.
    """
    asked = list(asked)
    found = [(claim, setting) for claim, setting in asked if claim.level == "model"]
    for claim, setting in asked:
        if claim.level == "pair" and "losses" in claim.reads:
            found += [
                (other, replace(setting, bits=bits))
                for other in the_suites_own().values()
                if other.level == "model"
                for bits in other.bits or (None,)
            ]
    return list(dict.fromkeys(found))


def still_wanted(asked: Iterable[Asked]) -> Wanted:
    """Ask claims, time and again, which strategies are needed to judge them further, each with the look (from 0).

    A claim needs what it reads at the first look at which it has not been decided. A claim that is decided, that lacks
    its precondition, or that is at its last look needs nothing more, and is not asked again: what else is scored
    changes no verdict. The answer compares its methods on all windows, once the claim that opens it has a verdict.

    Args:
        asked: claims about one model.

    Returns:
        A function of the model's measurements so far, losses among them.
    """
    open_claims, compared = list(asked), False

    def wanted_of(measured: Measured) -> dict[str, int]:
        nonlocal compared
        wanted: dict[str, int] = {}
        for claim, setting in list(open_claims):
            try:
                evidence = judge(claim, measured, setting, beside=False)
            except NotScoredError as lack:
                for strategy in lack.strategies:
                    wanted[strategy] = max(lack.look, wanted.get(strategy, 0))
            else:
                open_claims.remove((claim, setting))
                compared |= evidence.key == SCALES and evidence.verdict in JUDGED
        return wanted | (_unscored(measured) if compared else {})

    return wanted_of


def _unscored(measured: Measured) -> dict[str, int]:
    """Find which of the answer's strategies lack windows, each with the last look."""
    losses = losses_of(measured)
    last = count_of(losses) - 1
    try:
        on_common_windows(at_look(losses, last), ["full", *METHODS], "window_loss")
    except NotScoredError as lack:
        return dict.fromkeys(lack.strategies, last)
    return {}
