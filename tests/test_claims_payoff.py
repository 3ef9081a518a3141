"""Payoff on measurements made by hand, where every estimate is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from awq_core.judging.evidence import Verdict
from awq_core.judging.intervals import Estimate, InsufficientDataError
from claims.support.claim import REGISTRY, NotApplicableError, Setting
from claims.support.judge import judge
from tests.estimating import DAGGERED, damaged, estimate, t_interval, verdict
from tests.hand_made import WINDOWS, hand_made, set_errors, set_gap, set_losses

# payoff


def test_payoff_of_layers_is_the_geometric_mean_on_held_out_tokens() -> None:
    measured = hand_made()
    # On calibration tokens 0.4 is best; what counts is the held-out error there, not the held-out best.
    set_errors(measured, 0.5, alpha=0.4, bits=3, split="calibration")
    set_errors(measured, 0.8, alpha=0.4, bits=3, split="heldout")
    set_errors(measured, 0.2, alpha=0.6, bits=3, split="heldout")
    set_errors(measured, 0.05, families=("down",), alpha=0.4, bits=3, split="heldout")
    expected = math.exp((24 * math.log(1.25) + 4 * math.log(20)) / 28)
    got = estimate("payoff.layers", measured, 3)
    assert got.value == pytest.approx(expected)
    assert got.summarised["0.q"] == pytest.approx(1.25)
    assert got.summarised["3.down"] == pytest.approx(20.0)
    assert estimate("payoff.layers", measured, 4).value == pytest.approx(1.0)
    assert verdict("payoff.layers", measured, 3) is Verdict.SUPPORTED
    assert verdict("payoff.layers", measured, 4) is Verdict.REFUTED


def test_a_linear_without_error_gains_nothing() -> None:
    measured = hand_made()
    set_errors(measured, 0.0, families=("q",), bits=3)
    assert estimate("payoff.layers", measured, 3).value == pytest.approx(1.0)


def test_most_layers_is_the_share_that_gains_over_one_percent() -> None:
    measured = hand_made()
    set_errors(measured, 1 / 1.02, families=("q", "k", "o", "down"), alpha=0.3, bits=4)
    set_errors(measured, 1 / 1.005, families=("v",), alpha=0.3, bits=4)
    assert estimate("payoff.most-layers", measured, 4).value == pytest.approx(4 / 7)


def test_one_layer_is_picked_on_calibration_tokens_and_judged_by_groups_of_windows() -> None:
    measured = hand_made()
    set_errors(measured, 0.2, families=("down",), block=2, alpha=0.5, bits=3, split="calibration")
    set_errors(measured, 0.01, families=("o",), block=1, alpha=0.5, bits=3, split="heldout")  # not on calibration
    rng = np.random.default_rng(0)
    rtn, best = rng.uniform(3, 5, 16), rng.uniform(0.9, 1.1, 16)
    at = {"linear": "2.down", "quantizer": "asym-g128", "judged_bits": 3}
    measured.errors["group_error"].loc[at | {"choice": "rtn"}] = rtn
    measured.errors["group_error"].loc[at | {"choice": "best"}] = best
    got = estimate("payoff.one-layer", measured, 3)
    assert got.value == pytest.approx(rtn.sum() / best.sum())
    assert got.linear == "2.down"
    assert got.readings == {"on calibration tokens": pytest.approx(5.0)}
    assert 2 < got.interval.lower < got.value < got.interval.upper < 6
    assert got.interval.resampled == "groups of windows"


def test_honest_asks_for_four_fifths_of_the_calibration_gain() -> None:
    measured = hand_made()
    set_errors(measured, 0.25, alpha=0.5, bits=3, split="calibration")
    set_errors(measured, 0.5, alpha=0.5, bits=3, split="heldout")
    got = estimate("payoff.honest", measured, 3)
    assert got.value == pytest.approx(math.log(2) - 0.8 * math.log(4))
    with pytest.raises(NotApplicableError, match=r"at 4 bits \(interval \[1, 1\], needs above 1.02\): no gain"):
        estimate("payoff.honest", measured, 4)


def test_perplexity_is_the_paired_difference_of_block_awq_and_rtn() -> None:
    measured = damaged()
    gains = np.linspace(0.05, 0.15, WINDOWS)
    set_gap(measured, "awq-block-3", 0.2 - gains)
    got = estimate("payoff.perplexity", measured, 3)
    assert got.value == pytest.approx(0.1)
    assert (got.interval.lower, got.interval.upper) == pytest.approx(t_interval(gains), rel=0.05)
    assert got.readings["gap of RTN"] == pytest.approx(0.2)
    assert got.readings["gap of block AWQ (folded, without clipping)"] == pytest.approx(0.1)
    assert verdict("payoff.perplexity", measured, 3) is Verdict.SUPPORTED
    set_gap(measured, "awq-block-3", 0.21)
    assert verdict("payoff.perplexity", measured, 3) is Verdict.REFUTED


@pytest.mark.parametrize(
    ("claim", "worse", "better"),
    [
        ("payoff.as-published", "rtn-3", "awq-block-clip-3"),
        ("clipping.alone", "rtn-3", "rtn-clip-3"),
        ("clipping.scales-add", "rtn-clip-3", "awq-block-clip-3"),
    ],
)
def test_clipping_and_scales_are_told_apart(claim: str, worse: str, better: str) -> None:
    measured = damaged()
    gains = np.linspace(0.002, 0.018, WINDOWS)
    set_gap(measured, worse, 0.2)
    set_gap(measured, better, 0.2 - gains)
    got = estimate(claim, measured, 3)
    assert got.value == pytest.approx(0.01)
    assert (got.interval.lower, got.interval.upper) == pytest.approx(t_interval(gains), rel=0.05)
    assert verdict(claim, measured, 3) is Verdict.SUPPORTED
    set_gap(measured, better, 0.199)
    assert verdict(claim, measured, 3) is Verdict.REFUTED


def test_logits_asks_for_five_percent_less_divergence() -> None:
    measured = damaged()
    set_losses(measured, "rtn-4", 0.2, "window_kl")
    set_losses(measured, "awq-block-4", 0.17, "window_kl")
    assert estimate("payoff.logits", measured, 4).value == pytest.approx(0.17 - 0.95 * 0.2)
    assert verdict("payoff.logits", measured, 4) is Verdict.SUPPORTED
    set_losses(measured, "awq-block-4", 0.195, "window_kl")
    assert verdict("payoff.logits", measured, 4) is Verdict.REFUTED


def test_two_to_five_compares_excess_perplexities() -> None:
    measured = damaged(rtn_gap=0.3)
    full = math.exp(2.0)
    expected = (math.exp(2.3) - full) - 2 * (math.exp(2.15) - full)
    got = estimate("payoff.two-to-five", measured, 3)
    assert got.value == pytest.approx(expected)
    ratio = (math.exp(2.3) - full) / (math.exp(2.15) - full)
    assert got.readings["excess of RTN over excess of AWQ"] == pytest.approx(ratio)


@pytest.mark.parametrize(("claim", "bits"), DAGGERED)
def test_without_damage_there_is_nothing_to_recover(claim: str, bits: int) -> None:
    slight = damaged(rtn_gap=0.009)
    with pytest.raises(InsufficientDataError, match=f"RTN at {bits} bits costs 0.0090 nats"):
        estimate(claim, slight, bits)
    evidence = judge(REGISTRY[claim], slight, Setting(bits))
    assert evidence.verdict is Verdict.INSUFFICIENT
    assert "needs damage of 0.01 nats" in evidence.reason
    with pytest.raises(InsufficientDataError, match=r"\[-0\.\d+, 0\.\d+\]"):
        estimate(claim, damaged(rtn_gap=0.011, spread=0.1), bits)  # large enough, but not surely above 0
    assert isinstance(estimate(claim, damaged(rtn_gap=0.011), bits), Estimate)


def test_too_few_windows_are_insufficient_data() -> None:
    measured = damaged()
    assert measured.losses is not None
    few = replace(measured, losses=measured.losses.isel(window=slice(15)))
    assert verdict("payoff.perplexity", few, 3) is Verdict.INSUFFICIENT
