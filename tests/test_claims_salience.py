"""Salience, calibration and GPTQ on measurements made by hand, where every estimate is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from awq_core.judging.evidence import Verdict
from awq_core.measured import TRAFFIC_KINDS
from claims.support.claim import Reported
from tests.estimating import damaged, estimate, set_channel_everywhere, t_interval, verdict
from tests.hand_made import ROLES, WINDOWS, hand_made, set_attribute, set_gap, set_losses, set_traffic


def test_one_percent_must_recover_more_than_half() -> None:
    measured = damaged(rtn_gap=0.2)
    left = np.linspace(0.06, 0.1, WINDOWS)
    set_gap(measured, "keep-activation-3", left)
    got = estimate("salience.one-percent", measured, 3)
    assert got.value == pytest.approx(0.1 - 0.08)
    assert (got.interval.lower, got.interval.upper) == pytest.approx(t_interval(0.1 - left), rel=0.08)
    assert got.readings["share recovered"] == pytest.approx(0.6)
    assert verdict("salience.one-percent", measured, 3) is Verdict.SUPPORTED
    set_gap(measured, "keep-activation-3", 0.12)
    assert verdict("salience.one-percent", measured, 3) is Verdict.REFUTED


def test_ninety_nine_is_asked_of_perplexity() -> None:
    measured = damaged()
    for strategy, loss in (("full", 2.0), ("rtn-4", 2.1), ("keep-activation-4", 2.009)):
        set_losses(measured, strategy, loss)
    assert estimate("salience.ninety-nine", measured, 4).value == pytest.approx(math.exp(2) - 0.99 * math.exp(2.009))
    assert verdict("salience.ninety-nine", measured, 4) is Verdict.SUPPORTED
    set_losses(measured, "keep-activation-4", 2.011)
    assert verdict("salience.ninety-nine", measured, 4) is Verdict.REFUTED


def test_activation_is_held_against_weight() -> None:
    measured = damaged(rtn_gap=0.2)
    set_gap(measured, "keep-activation-4", 0.05)
    set_gap(measured, "keep-weight-4", 0.15)
    assert estimate("salience.activation-beats-weight", measured, 4).value == pytest.approx(0.1)
    assert verdict("salience.activation-beats-weight", measured, 4) is Verdict.SUPPORTED
    assert verdict("salience.activation-beats-weight", measured, 3) is Verdict.REFUTED  # both alike


@pytest.mark.parametrize(
    ("by_weight", "expected"), [(0.19, Verdict.SUPPORTED), (0.1, Verdict.REFUTED), (0.25, Verdict.REFUTED)]
)
def test_weight_is_held_against_random_choices(by_weight: float, expected: Verdict) -> None:
    measured = damaged(rtn_gap=0.2)
    gaps = 0.19 + 0.001 * np.arange(-4, 5)
    for choice, gap in enumerate(gaps):
        set_gap(measured, f"keep-random{choice}-3", gap)
    set_gap(measured, "keep-weight-3", by_weight)
    got = estimate("salience.weight-is-chance", measured, 3)
    assert got.value == pytest.approx((gaps.mean() - by_weight) / 0.2)
    # All windows are alike: what is unsure is the draws of channels.
    half = stats.t.ppf(0.975, 8) * gaps.std(ddof=1) / 0.2 / math.sqrt(9)
    assert (got.interval.lower, got.interval.upper) == pytest.approx((got.value - half, got.value + half))
    assert verdict("salience.weight-is-chance", measured, 3) is expected


def test_consistent_compares_the_splits_and_every_pair_of_kinds() -> None:
    measured = hand_made()
    for role in ROLES:
        set_channel_everywhere(measured, role, {7: 9.0, 8: 8.0})  # the same in both splits; mlp_out has two
    set_traffic(measured, "kind_magnitude", 9.0, channel=7)
    set_traffic(measured, "kind_magnitude", 8.0, channel=8)
    parts = estimate("salience.consistent", measured)
    assert {name: part.value for name, part in parts.items()} == {
        "between disjoint texts": pytest.approx(0.5),  # an overlap of 1, of which 0.5 is asked
        "between kinds of traffic": pytest.approx(0.7),
    }
    assert verdict("salience.consistent", measured) is Verdict.SUPPORTED
    # Under code another channel is the largest: of ten pairs of kinds four do not overlap, or half at mlp_out.
    set_traffic(measured, "kind_magnitude", 20.0, channel=30, kind="code")
    parts = estimate("salience.consistent", measured)
    overlap = (3 * 0.6 + (0.6 + 0.4 * 0.5)) / 4
    assert parts["between kinds of traffic"].value == pytest.approx(overlap - 0.3)
    assert parts["between kinds of traffic"].readings == {"overlap between kinds of traffic": pytest.approx(overlap)}
    for index, kind in enumerate(TRAFFIC_KINDS):
        for further in (0, 1):
            set_traffic(measured, "kind_magnitude", 50.0, channel=10 + 2 * index + further, kind=kind)
    assert estimate("salience.consistent", measured)["between kinds of traffic"].value == pytest.approx(-0.3)
    assert verdict("salience.consistent", measured) is Verdict.REFUTED


def test_consistent_needs_other_traffic() -> None:
    assert verdict("salience.consistent", replace(hand_made(), traffic=None)) is Verdict.NOT_APPLICABLE


def test_size_misleads_ranks_channels_by_three_things() -> None:
    measured = hand_made(widths=dict.fromkeys(ROLES, 64))
    rng = np.random.default_rng(0)
    differences = []
    sites = measured.channels["site"].values.tolist()
    magnitudes = np.exp(rng.normal(0, 1, (len(sites), 64)))
    measured.channels["magnitude"].loc[{"split": "heldout"}] = magnitudes
    for name, site in zip(measured.channels["linear"].values, measured.channels["linear_site"].values, strict=True):
        size = np.exp(rng.normal(0, 0.3, 64))
        measured.channels["weight_size"].loc[{"linear": name}] = size
        magnitude = magnitudes[sites.index(site)]
        product = size * magnitude
        with_magnitude = stats.spearmanr(product, magnitude).statistic
        differences.append(with_magnitude - stats.spearmanr(product, size).statistic)
    assert estimate("salience.size-misleads", measured).value == pytest.approx(np.mean(differences))
    assert verdict("salience.size-misleads", measured) is Verdict.SUPPORTED


def test_padding_plays_no_part_in_the_ranks() -> None:
    measured = hand_made()  # the widest site has 200 channels, the others 64
    magnitude = measured.channels["magnitude"]
    magnitude[:] = magnitude * np.exp(np.random.default_rng(1).normal(size=magnitude.shape))
    # Weights are all alike: importance is magnitude, and the weights rank nothing.
    assert estimate("salience.size-misleads", measured).readings["rho with magnitude"] == pytest.approx(1.0)


# calibration


def test_few_sequences_are_held_against_all() -> None:
    measured = damaged(rtn_gap=0.2)
    set_gap(measured, "awq-block-few-3", 0.105)
    got = estimate("calibration.few-suffice", measured, 3)
    assert got.value == pytest.approx(0.005)
    assert got.readings == {"gap with 8 sequences": pytest.approx(0.105), "gap with 64 sequences": pytest.approx(0.1)}
    assert verdict("calibration.few-suffice", measured, 3) is Verdict.SUPPORTED
    set_gap(measured, "awq-block-few-3", 0.12)
    assert verdict("calibration.few-suffice", measured, 3) is Verdict.REFUTED


def test_penalties_are_counted_from_as_many_sequences_of_the_usual_text() -> None:
    measured = damaged(rtn_gap=0.2)
    gaps = {"gptq-foreign": 0.16, "gptq-matched": 0.09, "awq-block-foreign": 0.13, "awq-block-matched": 0.11}
    for method, gap in gaps.items():
        set_gap(measured, f"{method}-4", gap)
    set_gap(measured, "gptq-4", 0.5)  # from all sequences: plays no part
    got = estimate("calibration.robust", measured, 4)
    assert got.value == pytest.approx(0.07 - 0.02)
    assert got.readings["penalty of GPTQ"] == pytest.approx(0.07)
    assert got.readings["penalty of AWQ"] == pytest.approx(0.02)
    assert verdict("calibration.robust", measured, 4) is Verdict.SUPPORTED
    assert verdict("calibration.robust", measured, 3) is Verdict.REFUTED  # no penalty for either


def test_fake_traffic_is_the_geometric_mean_of_error_ratios() -> None:
    measured = hand_made()
    set_traffic(measured, "usual_error", 0.6, judged_bits=3)
    set_traffic(measured, "random_error", 0.9, judged_bits=3)
    set_traffic(measured, "random_error", 0.3, judged_bits=3, linear="0.q")
    got = estimate("calibration.fake-traffic", measured, 3)
    assert got.value == pytest.approx(math.exp((27 * math.log(1.5) + math.log(0.5)) / 28))
    assert verdict("calibration.fake-traffic", measured, 3) is Verdict.SUPPORTED
    set_traffic(measured, "random_error", 0.6, judged_bits=3)
    assert verdict("calibration.fake-traffic", measured, 3) is Verdict.REFUTED


def test_the_gain_must_hold_under_every_kind() -> None:
    measured = hand_made()
    set_traffic(measured, "kind_error", 0.8, calibrated_on="rtn")
    set_traffic(measured, "kind_error", 0.4, calibrated_on="usual")
    set_traffic(measured, "kind_error", 0.2, calibrated_on="own")
    set_traffic(measured, "kind_error", 0.5, calibrated_on="usual", kind="json", judged_bits=4)
    parts = estimate("calibration.every-traffic", measured, 4)
    assert {kind: part.value for kind, part in parts.items()} == {
        kind: pytest.approx(1.6 if kind == "json" else 2.0) for kind in TRAFFIC_KINDS
    }
    assert parts["code"].readings == {"code: reduction when calibrated on code": pytest.approx(4.0)}
    assert verdict("calibration.every-traffic", measured, 4) is Verdict.SUPPORTED
    set_traffic(measured, "kind_error", 0.79, calibrated_on="usual", kind="json", judged_bits=4)
    assert verdict("calibration.every-traffic", measured, 4) is Verdict.REFUTED
    assert verdict("calibration.every-traffic", measured, 3) is Verdict.SUPPORTED


# gptq


def test_gptq_is_compared_window_by_window() -> None:
    measured = damaged(rtn_gap=0.2)
    differences = np.linspace(0.0, 0.02, WINDOWS)
    set_gap(measured, "awq-block-4", 0.09 + differences)
    set_gap(measured, "gptq-4", 0.09)
    got = estimate("gptq.close", measured, 4)
    assert got.value == pytest.approx(0.01)
    assert (got.interval.lower, got.interval.upper) == pytest.approx(t_interval(differences), rel=0.08)
    assert verdict("gptq.close", measured, 4) is Verdict.SUPPORTED
    set_gap(measured, "gptq-4", 0.05)
    assert verdict("gptq.close", measured, 4) is Verdict.REFUTED


def test_the_times_are_reported_and_not_judged() -> None:
    measured = hand_made()
    cost = {"awq-block-4": {"seconds": 2.0, "operations": 10}, "gptq-4": {"seconds": 3.0, "operations": 70}}
    set_attribute(measured, "cost", **cost)
    got = estimate("gptq.slower", measured)
    assert isinstance(got, Reported)
    assert got.value == 1.5
    assert got.readings["operations of GPTQ"] == 70
    assert str(got.readings["what is counted"]).startswith("4 bits, all blocks, second moments included;")
    assert verdict("gptq.slower", measured) is Verdict.REPORTED
    assert verdict("gptq.slower", replace(measured, losses=None)) is Verdict.NOT_APPLICABLE
