"""What has to be scored before the claims of a run can be judged, given what has been."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from awq_core.measure.methods.looks import NotScoredError
from awq_core.measured import Measured
from claims.support.catalogue import the_suites_own
from claims.support.claim import Claim, Setting
from claims.support.judge import judge

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
    changes no verdict.

    Args:
        asked: claims about one model.

    Returns:
        A function of the model's measurements so far, losses among them.
    """
    open_claims = list(asked)

    def wanted_of(measured: Measured) -> dict[str, int]:
        wanted: dict[str, int] = {}
        for claim, setting in list(open_claims):
            try:
                judge(claim, measured, setting, beside=False)
            except NotScoredError as lack:
                for strategy in lack.strategies:
                    wanted[strategy] = max(lack.look, wanted.get(strategy, 0))
            else:
                open_claims.remove((claim, setting))
        return wanted

    return wanted_of
