"""Replication: another size of the same family tells the same story."""

from awq_core.judging.intervals import Estimate
from awq_core.judging.metrics import reduction
from claims.support.agreement import agreeing_verdicts, profile_correlation
from claims.support.claim import Pair, Parts, Reported, Setting, claim
from claims.support.localized import benefit_difference


@claim(
    "replication.profile",
    "In both sizes the same sites, at the same depth, have the heavy tails",
    source="AWQ-Diag: replicated on Qwen2.5-0.5B",
    above=0.7,
    unit="Spearman's rho over 4 sites x 3 depth thirds",
    level="pair",
)
def test_profile(pair: Pair, setting: Setting) -> Estimate:
    return profile_correlation(pair)


@claim(
    "replication.benefit",
    "In both sizes AWQ's benefit lands in o and down",
    source="AWQ-Diag: both sizes",
    above=0.05,
    unit="reduction over the rest's",
    level="pair",
    bits=(4, 3),
)
def test_benefit(pair: Pair, setting: Setting) -> Parts:
    gains = {measured.name: reduction(measured, setting.quantizer, setting.precision) for measured in pair}
    return {name: benefit_difference(values, setting) for name, values in gains.items()}


@claim(
    "replication.verdicts",
    "The sizes agree on the claims",
    source="AWQ-Diag: does it hold across sizes?",
    unit="share of verdicts that agree",
    level="pair",
    reads=("layers", "traffic", "losses"),
)
def test_verdicts(pair: Pair, setting: Setting) -> Reported:
    return agreeing_verdicts(pair, setting)
