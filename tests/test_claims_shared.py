"""What every claim shares: too little data, a NaN, held-out tokens, what stands beside a verdict."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from awq_core.judging.evidence import Ranking, Threshold, Verdict
from awq_core.measured import Measured
from claims.support.claim import REGISTRY, Setting
from claims.support.judge import judge
from tests.estimating import CATALOGUE, OF_LOSSES, OF_RECORDS, damaged, estimate
from tests.hand_made import ROLES, hand_made, set_attribute, set_channel, set_errors, set_site


def layer_claims() -> list[str]:
    # Those that resample blocks: a single linear is judged by its groups of windows, and a count by itself.
    others = {"concentration.some-layer", "outliers.heavy-tailed", "payoff.one-layer", "mechanism.uniform-is-nothing"}
    return [
        c for c in CATALOGUE if c not in others | OF_LOSSES | OF_RECORDS and not c.startswith("replication.verdicts")
    ]


@pytest.mark.parametrize("claim", layer_claims())
def test_three_blocks_are_insufficient_data(claim: str) -> None:
    measured = hand_made(3, twins=2)
    set_errors(measured, 0.5, alpha=0.5)
    subject = (measured, measured) if claim.startswith("replication") else measured
    bits = CATALOGUE[claim].bits[0] if CATALOGUE[claim].bits else None
    evidence = judge(REGISTRY[claim], subject, Setting(bits))
    assert evidence.verdict is Verdict.INSUFFICIENT
    assert "an interval needs at least 4" in evidence.reason
    assert evidence.estimate is None


def broken(what: str, measured: Measured) -> None:
    """One NaN where a damaged measurement could leave it: one linear, one site, one window."""
    if what == "channels":
        for variable in measured.channels.data_vars:
            dimensions = measured.channels[variable].dims
            place = {"site": "2 mlp_out"} if "site" in dimensions else {"linear": "2.down"}
            measured.channels[variable].loc[place] = np.nan
        # The broken site is the one that claims about a single linear pick.
    elif what == "errors":
        at = {"linear": "2.down", "split": "heldout"}
        measured.errors["output_error"].loc[at] = np.nan
        measured.errors["group_error"].loc[{"linear": "2.down"}] = np.nan
    elif what == "mechanism":
        for variable in ("inverse_error", "factor_error", "step_changed", "step_ratio"):
            measured.errors[variable].loc[{"linear": "2.down"}] = np.nan
        measured.errors["uniform_changed"] = measured.errors["uniform_changed"].astype(float)
        measured.errors["uniform_changed"].loc[{"linear": "2.down"}] = np.nan
    elif what == "traffic":
        assert measured.traffic is not None
        measured.traffic["kind_error"].loc[{"linear": "2.down", "kind": "json"}] = np.nan
        measured.traffic["random_error"].loc[{"linear": "2.down"}] = np.nan
    else:
        assert measured.losses is not None
        for variable in ("window_loss", "window_kl"):
            for strategy in measured.losses["strategy"].values:
                if strategy not in ("full", "rtn-3"):
                    measured.losses[variable].loc[{"strategy": strategy}][3] = np.nan


READ_BY_GROUP = {
    "concentration": "channels",
    "outliers": "channels",
    "learned": "channels",
    "salience": "channels",
    "mechanism": "mechanism",
    "calibration": "traffic",
}
READ = {
    "learned.payoff": "errors",
    "localization.kurtosis": "channels",
    "localization.importance": "channels",
    **dict.fromkeys(OF_LOSSES - {"bits.cliff"}, "losses"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("claim", [c for c in CATALOGUE if not c.startswith("replication") and c not in OF_RECORDS])
def test_a_nan_is_an_error_and_never_a_verdict(claim: str) -> None:
    measured = replace(damaged(blocks=5), twins=hand_made(5, twins=2).twins)
    set_errors(measured, 0.5, alpha=0.5)
    set_errors(measured, 0.1, alpha=0.5, families=("down",), block=2)
    set_channel(measured, "magnitude", 2, "mlp_out", 0, 50.0)
    set_site(measured, "excess_kurtosis", "mlp_out", [1.0, 2.0, 3.0, 2.0, 1.0])
    bits = CATALOGUE[claim].bits[0] if CATALOGUE[claim].bits else None
    assert judge(REGISTRY[claim], measured, Setting(bits)).estimate is not None  # without the NaN, all is well
    broken(READ.get(claim, READ_BY_GROUP.get(REGISTRY[claim].group, "errors")), measured)
    with pytest.raises((ValueError, ZeroDivisionError)):
        judge(REGISTRY[claim], measured, Setting(bits))


def test_a_nan_among_what_folding_left_is_an_error_too() -> None:
    measured = hand_made()
    set_attribute(measured, "folding", largest_difference=math.nan)
    with pytest.raises(ValueError, match="a NaN is an error, never a verdict"):
        judge(REGISTRY["mechanism.equivalence"], measured, Setting())


def test_held_out_tokens_judge_every_layer_claim() -> None:
    """What calibration tokens show moves no estimate, as long as they choose the same."""
    measured = hand_made(5, twins=2)
    set_errors(measured, 0.5, alpha=0.5, split="heldout")
    set_errors(measured, 0.4, alpha=0.5, split="calibration")
    before = {c: estimate(c, measured, 3 if CATALOGUE[c].bits else None) for c in layer_claims() if "repl" not in c}
    set_errors(measured, 0.3, alpha=0.5, split="calibration")
    for role in ROLES:
        set_site(measured, "excess_kurtosis", role, 50.0, split="calibration")
        set_site(measured, "outlier_ratio", role, 0.5, split="calibration")
    for claim, was in before.items():
        if claim in ("payoff.honest", "constant-alpha.predictor"):
            continue  # these two are about calibration tokens
        now = estimate(claim, measured, 3 if CATALOGUE[claim].bits else None)
        if isinstance(was, dict):
            assert {n: p.value for n, p in now.items()} == {n: p.value for n, p in was.items()}
        else:
            assert now.value == was.value, claim


def test_the_twin_s_estimate_stands_beside_a_layer_claim() -> None:
    measured = hand_made(twins=2)
    for twin, error in zip(measured.twins, (0.5, 0.25), strict=True):
        set_errors(twin, error, alpha=0.5, bits=3)
    set_errors(measured, 0.1, alpha=0.5, bits=3)
    evidence = judge(REGISTRY["payoff.layers"], measured, Setting(3))
    assert evidence.estimate == pytest.approx(10.0)
    assert evidence.twin_estimate == pytest.approx((2 + 4) / 2)
    assert judge(REGISTRY["payoff.layers"], hand_made(), Setting(3)).twin_estimate is None


def test_the_study_s_quantizer_is_read_beside_the_deployed_one() -> None:
    measured = hand_made()
    set_errors(measured, 0.5, alpha=0.5, bits=4, quantizer="asym-g128")
    set_errors(measured, 0.2, alpha=0.5, bits=3, quantizer="sym-channel")
    evidence = judge(REGISTRY["payoff.layers"], measured, Setting(4))
    assert evidence.estimate == pytest.approx(2.0)
    variant = evidence.variants["sym-channel at 3 bits"]
    assert (variant.verdict, variant.estimate) == (Verdict.SUPPORTED, pytest.approx(5.0))
    traffic = judge(REGISTRY["calibration.fake-traffic"], measured, Setting(4)).variants["sym-channel at 3 bits"]
    assert (traffic.verdict, traffic.reason) == (Verdict.NOT_APPLICABLE, "measured under asym-g128 alone")


def test_the_five_linears_that_speak_most_against_a_claim_are_named() -> None:
    measured = hand_made()
    worst = {"1.q": 0.5, "3.down": 0.6, "0.o": 0.7, "2.up": 0.8, "2.gate": 0.9}
    set_errors(measured, 0.1, alpha=0.5, bits=3)
    for name, reduction in worst.items():
        at = {"linear": name, "bits": 3, "alpha": 0.5}
        measured.errors["output_error"].loc[at | {"split": "heldout"}] = 1 / reduction
    evidence = judge(REGISTRY["payoff.layers"], measured, Setting(3))
    assert [(c.name, pytest.approx(c.value)) for c in evidence.contrary] == list(worst.items())
    # A claim about losses has no linears of its own: those that AWQ helps least are named.
    lossy = replace(measured, losses=damaged().losses)
    named = judge(REGISTRY["constant-alpha.non-inferior"], lossy, Setting(3))
    assert [c.name for c in named.contrary] == list(worst)
    assert (evidence.ranking, named.ranking) == (Ranking.AGAINST, Ranking.HELPED_LEAST)


def test_a_two_sided_claim_names_what_lies_farthest_outside() -> None:
    measured = hand_made()
    for channel in range(30):
        set_channel(measured, "magnitude", 1, "attention_out", channel, 9.0)
    evidence = judge(REGISTRY["concentration.few-large"], measured, Setting())
    assert evidence.contrary[0].name == "1.o"
    assert evidence.contrary[0].value == pytest.approx(30 / 64)


def test_judging_is_reproducible_and_each_claim_has_its_own_seed() -> None:
    measured = hand_made(6)
    for block in range(6):
        set_errors(measured, 0.5 + 0.05 * block, block=block, alpha=0.5)
    first, again = (judge(REGISTRY["payoff.layers"], measured, Setting(3, seed=7)) for _ in range(2))
    assert first.as_dict() == again.as_dict()
    other = judge(REGISTRY["payoff.layers"], measured, Setting(4, seed=7))
    another = judge(REGISTRY["payoff.layers"], measured, Setting(3, seed=8))
    seeds = {evidence.interval.seed for evidence in (first, other, another) if evidence.interval is not None}
    assert len(seeds) == 3
    assert first.estimate == other.estimate == another.estimate


def test_a_planted_scenario_answers_for_the_claims_that_name_it() -> None:
    scenario = hand_made(name="scenario")
    set_errors(scenario, 0.5, alpha=0.5)
    base = hand_made()
    provenance = {**base.provenance, "scenario_of_claim": {"payoff.layers": "planted"}}
    measured = replace(base, scenarios={"planted": scenario}, provenance=provenance)
    assert judge(REGISTRY["payoff.layers"], measured, Setting(3)).estimate == pytest.approx(2.0)
    assert judge(REGISTRY["payoff.most-layers"], measured, Setting(3)).estimate == pytest.approx(0.0)


def test_a_threshold_reads_as_a_sentence() -> None:
    assert str(Threshold(1.02)) == "above 1.02"
    assert str(Threshold(upper=-0.005)) == "below -0.005"
    assert str(REGISTRY["concentration.few-large"].threshold) == "between 0.001 and 0.03"


def test_a_claim_that_asks_another_resamples_as_that_one_does() -> None:
    """Or the gate of a claim could contradict the verdict that it stands for."""
    run = Setting(bits=4, seed=7)
    asked = run.for_claim("payoff.honest")
    assert asked.for_claim("payoff.layers") == run.for_claim("payoff.layers")
    assert len({run.seed, asked.seed, run.for_claim("payoff.layers").seed}) == 3
