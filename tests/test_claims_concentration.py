"""Concentration and outliers on measurements made by hand, where every estimate is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from awq_core.judging.evidence import Verdict
from claims.support.claim import REGISTRY, NotApplicableError, Setting
from claims.support.judge import judge
from tests.estimating import estimate, set_channel_everywhere, verdict
from tests.hand_made import ROLES, hand_made, set_channel, set_site

# concentration


def test_some_layer_is_picked_on_calibration_and_judged_on_held_out_tokens() -> None:
    measured = hand_made()
    set_channel(measured, "magnitude", 2, "attention_out", 5, 30.0, split="calibration")
    set_channel(measured, "magnitude", 2, "attention_out", 5, 20.0, split="heldout")
    set_channel(measured, "magnitude", 0, "mlp_in", 5, 60.0, split="heldout")  # larger, but not on calibration tokens
    without = 64 * 20 / 83 * np.exp(np.linspace(-0.1, 0.1, 16))
    measured.channels["enrichment_without_group"].loc[{"linear": "2.o"}] = without
    got = estimate("concentration.some-layer", measured)
    assert got.value == pytest.approx(64 * 20 / 83)
    half = stats.t.ppf(0.975, 15) * math.sqrt(15 / 16 * ((np.log(without) - np.log(without).mean()) ** 2).sum())
    assert got.interval.upper == pytest.approx(got.value * math.exp(half))
    assert got.interval.lower == pytest.approx(got.value * math.exp(-half))
    assert got.linear == "2.o"
    assert got.readings == {"raw share of the top 1%": pytest.approx(20 / 83)}


def test_typical_layer_is_the_median_over_linears() -> None:
    measured = hand_made()
    # q, k, v: 1; o: 64*4/67; gate, up: 64*9/72; down (200 channels, top 2): (6+4)/208*100
    set_channel_everywhere(measured, "attention_out", {3: 4.0})
    set_channel_everywhere(measured, "mlp_in", {3: 9.0})
    set_channel_everywhere(measured, "mlp_out", {3: 6.0, 4: 4.0})
    values = [1, 1, 1, 64 * 4 / 67, 64 * 9 / 72, 64 * 9 / 72, 10 / 208 * 100]
    assert estimate("concentration.typical-layer", measured).value == pytest.approx(float(np.median(values)))


def test_hockey_stick_is_the_top_s_mean_over_the_median() -> None:
    measured = hand_made()
    for role, channels in {
        "attention_in": {1: 4.0},  # three linears
        "attention_out": {1: 8.0},
        "mlp_in": {1: 16.0},  # two
        "mlp_out": {1: 10.0, 2: 20.0},  # the top two of 200: 15
    }.items():
        set_channel_everywhere(measured, role, channels)
    assert estimate("concentration.hockey-stick", measured).value == pytest.approx(8.0)
    set_channel_everywhere(measured, "mlp_in", {1: 12.0})
    set_channel_everywhere(measured, "attention_in", {1: 17.0})
    # 17 17 17 8 12 12 15: the median linear is now down
    assert estimate("concentration.hockey-stick", measured).value == pytest.approx(15.0)


def test_importance_is_weight_size_times_magnitude() -> None:
    measured = hand_made()
    set_channel_everywhere(measured, "attention_in", {1: 4.0})
    measured.channels["weight_size"].loc[{"channel": 1, "linear": "0.q"}] = 0.5
    got = REGISTRY["localization.importance"].estimate(measured, Setting())
    enrichments = np.log([64 * 4 / 67, 64 * 2 / 65])
    # 20 linears outside o and down: 12 read attention_in; one of them at half the weight
    assert got.value == pytest.approx(-(11 * enrichments[0] + enrichments[1]) / 20)


def test_few_large_counts_channels_over_three_times_the_median() -> None:
    measured = hand_made()
    set_channel_everywhere(measured, "attention_in", {1: 3.0, 2: 3.01, 3: 50.0})  # exactly 3 does not count
    set_channel_everywhere(measured, "mlp_out", {1: 9.0})
    got = estimate("concentration.few-large", measured)
    assert got.value == pytest.approx((3 * 2 / 64 + 0 + 0 + 1 / 200) / 7)
    assert verdict("concentration.few-large", measured) is Verdict.SUPPORTED
    # None is large among 4 blocks of 3 * 64 + 200 channels: by the rule of three, 0.19% of them may go unseen.
    unseen = estimate("concentration.few-large", hand_made())
    assert (unseen.interval.lower, unseen.interval.upper) == (0.0, pytest.approx(3 / 1568))
    assert verdict("concentration.few-large", hand_made()) is Verdict.INCONCLUSIVE
    set_channel_everywhere(measured, "mlp_in", dict.fromkeys(range(20), 9.0))
    assert verdict("concentration.few-large", measured) is Verdict.REFUTED  # too many are


@pytest.mark.parametrize("claim", ["some-layer", "typical-layer", "hockey-stick", "few-large"])
def test_narrow_linears_have_no_top_percent(claim: str) -> None:
    narrow = hand_made(widths=dict.fromkeys(ROLES, 63))
    with pytest.raises(NotApplicableError, match="no linear is 64 channels wide"):
        estimate(f"concentration.{claim}", narrow)
    evidence = judge(REGISTRY[f"concentration.{claim}"], narrow, Setting())
    assert evidence.verdict is Verdict.NOT_APPLICABLE
    assert evidence.reason == "no linear is 64 channels wide"


def test_narrow_linears_are_left_out_among_wide_ones() -> None:
    mixed = hand_made(widths={"attention_in": 32, "attention_out": 64, "mlp_in": 32, "mlp_out": 200})
    set_channel_everywhere(mixed, "attention_in", {0: 1e6})
    set_channel_everywhere(mixed, "mlp_in", {0: 1e6})
    assert estimate("concentration.typical-layer", mixed).value == pytest.approx(1.0)


# outliers


def test_heavy_tailed_is_picked_on_calibration_and_judged_on_held_out_tokens() -> None:
    measured = hand_made()
    set_site(measured, "excess_kurtosis", "mlp_out", [1.0, 8.0, 2.0, 3.0], split="calibration")
    set_site(measured, "excess_kurtosis", "mlp_out", [20.0, 6.0, 2.0, 3.0], split="heldout")
    without = 6.0 + np.linspace(-0.2, 0.2, 16)
    measured.channels["kurtosis_without_group"].loc[{"site": "1 mlp_out"}] = without
    got = estimate("outliers.heavy-tailed", measured)
    assert got.value == pytest.approx(6.0)
    assert got.linear == "1.down"
    half = stats.t.ppf(0.975, 15) * math.sqrt(15 / 16 * ((without - without.mean()) ** 2).sum())
    assert (got.interval.lower, got.interval.upper) == pytest.approx((6 - half, 6 + half))
    assert verdict("outliers.heavy-tailed", measured) is Verdict.SUPPORTED


def test_beyond_six_sigma_averages_the_share_at_o_and_down() -> None:
    measured = hand_made()
    set_site(measured, "outlier_ratio", "attention_out", 3e-5)
    set_site(measured, "outlier_ratio", "mlp_out", 5e-5)
    set_site(measured, "outlier_ratio", "mlp_in", 1.0)
    assert estimate("outliers.beyond-six-sigma", measured).value == pytest.approx(4e-5)
    assert verdict("outliers.beyond-six-sigma", measured) is Verdict.SUPPORTED
    assert verdict("outliers.beyond-six-sigma", hand_made()) is Verdict.REFUTED


def test_the_auc_compares_salient_channels_with_the_others() -> None:
    measured = hand_made(widths=dict.fromkeys(ROLES, 64))
    measured.channels["excess_kurtosis"][:] = np.arange(64.0)
    # Salient: channel 40, above 40 of the 63 others. At mlp_out by its weights: channel 63, above all.
    measured.channels["magnitude"].loc[{"channel": 40}] = 2.0
    for block in range(4):
        measured.channels["weight_size"].loc[{"linear": f"{block}.down", "channel": 63}] = 3.0
        # q's weights alone would make channel 0 salient; the mean over q, k, v does not.
        measured.channels["weight_size"].loc[{"linear": f"{block}.q", "channel": 0}] = 3.5
    assert estimate("outliers.salient-are-outliers", measured).value == pytest.approx((3 * 40 / 63 + 1) / 4)


def test_an_auc_of_ties_is_a_half() -> None:
    measured = hand_made()
    assert estimate("outliers.salient-are-outliers", measured).value == pytest.approx(0.5)
    assert verdict("outliers.salient-are-outliers", measured) is Verdict.REFUTED
