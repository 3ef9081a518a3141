"""How far a page full of verdicts can be trusted: expected false ones, and Holm's correction over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from awq_core.judging.evidence import Verdict
from awq_core.judging.verdicts import survives_holm
from reports.verdict_words import Claim, is_exact, is_judged, verdict_of

LEVEL = 0.05
"""What a 95% interval leaves."""


@dataclass(frozen=True)
class Trust:
    """Counts over the claims judged on one model.

    Attributes:
        judged: claims judged by an interval.
        decided: those of them that are supported or refuted.
        surviving: those of the decided that survive Holm's correction.
        exact: claims whose value was computed, so that chance has no part in their verdict.
    """

    judged: int
    decided: int
    surviving: int
    exact: int

    @property
    def sentence(self) -> str:
        """The counts in words, for the report and the terminal."""
        exact = f"{self.exact} {'claim is' if self.exact == 1 else 'claims are'} exact: computed, not sampled."
        if self.judged == 0:
            return f"No claim was judged by an interval; {exact}" if self.exact else "No claim was judged."
        expected = LEVEL * self.judged
        few = "up to one" if expected < 1 else f"up to about {expected:.0f}"
        claims = "claim" if self.judged == 1 else "claims"
        judged = (
            f"With {self.judged} {claims} judged by 95% intervals, {few} may come out false by chance; "
            f"{self.surviving} of {self.decided} decided verdicts survive Holm's correction."
        )
        return f"{judged} Another {exact}" if self.exact else judged


def with_holm(claims: Sequence[Claim]) -> list[Claim]:
    """The same claims, each judged by an interval marked with whether its verdict survives Holm's correction over them.

    An inconclusive claim counts among those judged, but has no verdict that could survive. A claim without a p value
    (judged by another instrument) keeps the mark it came with; an exact one has none.
    """
    counted = [claim for claim in claims if _by_interval(claim) and claim["p_value"] is not None]
    stands = survives_holm([float(claim["p_value"]) for claim in counted], LEVEL)
    marks = {id(claim): mark for claim, mark in zip(counted, stands, strict=True)}
    return [
        {**claim, "survives_holm": marks[id(claim)] and verdict_of(claim) is not Verdict.INCONCLUSIVE}
        if id(claim) in marks
        else claim
        for claim in claims
    ]


def trust(claims: Sequence[Claim]) -> Trust:
    """Counts over claims that `with_holm` has marked."""
    judged = [claim for claim in claims if _by_interval(claim)]
    decided = [claim for claim in judged if verdict_of(claim) is not Verdict.INCONCLUSIVE]
    exact = sum(is_judged(claim) and is_exact(claim) for claim in claims)
    return Trust(len(judged), len(decided), sum(bool(claim["survives_holm"]) for claim in decided), exact)


def _by_interval(claim: Claim) -> bool:
    return is_judged(claim) and not is_exact(claim)
