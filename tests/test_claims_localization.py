"""What was learned, and where it is, on measurements made by hand, where every estimate is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from awq_core.judging.evidence import Verdict
from claims.support.claim import REGISTRY, NotApplicableError, Setting
from claims.support.judge import judge
from tests.estimating import OUTLIER, REST, estimate, set_channel_everywhere, t_interval, verdict
from tests.hand_made import ROLES, hand_made, set_errors, set_site

# learned


def test_learned_channels_is_the_model_s_median_over_sites_minus_the_twins_mean() -> None:
    sizes = {"attention_in": 10.0, "attention_out": 20.0, "mlp_in": 40.0, "mlp_out": 80.0}
    measured = hand_made(twins=3)
    for role, size in sizes.items():
        set_channel_everywhere(measured, role, {0: size})
        for twin, its_own in zip(measured.twins, (2.0, 3.0, 4.0), strict=True):
            set_channel_everywhere(twin, role, {0: its_own})
    got = estimate("learned.channels", measured)
    theirs = np.log([2.0, 3.0, 4.0])
    own = (math.log(20) + math.log(40)) / 2
    assert got.value == pytest.approx(own - theirs.mean())
    assert got.readings == {"the model's own": pytest.approx(own), "its twins' mean": pytest.approx(theirs.mean())}
    # All blocks are alike, so that only the twins' seeds spread: a t interval of three.
    assert got.interval.degrees_of_freedom == pytest.approx(2)
    half = stats.t.ppf(0.975, 2) * theirs.std(ddof=1) / math.sqrt(3)
    assert (got.interval.lower, got.interval.upper) == pytest.approx((got.value - half, got.value + half))


def test_learned_concentration_compares_ln_enrichment() -> None:
    measured = hand_made(twins=2)
    for role in ROLES[:3]:
        for each, size in zip((measured, *measured.twins), (9.0, 2.0, 2.0), strict=True):
            set_channel_everywhere(each, role, {0: size})
    assert estimate("learned.concentration", measured).value == pytest.approx(math.log(9 / 72) - math.log(2 / 65))
    assert verdict("learned.concentration", measured) is Verdict.SUPPORTED


def test_learned_outliers_compares_tails_at_o_and_down() -> None:
    measured = hand_made(twins=2)
    for twin, kurtosis in zip(measured.twins, (1.0, 3.0), strict=True):
        set_site(twin, "excess_kurtosis", "mlp_out", kurtosis)
        set_site(twin, "excess_kurtosis", "attention_out", -0.5)  # floored at 0
    set_site(measured, "excess_kurtosis", "mlp_out", 7.0)
    set_site(measured, "excess_kurtosis", "mlp_in", 1000.0)  # elsewhere: does not count
    expected = math.log(8) / 2 - (math.log(2) / 2 + math.log(4) / 2) / 2
    assert estimate("learned.outliers", measured).value == pytest.approx(expected)


def test_learned_localization_compares_the_ratios() -> None:
    measured = hand_made(twins=2)
    for twin in measured.twins:
        set_site(twin, "excess_kurtosis", "mlp_out", 2.0)
        set_site(twin, "excess_kurtosis", "attention_out", 2.0)  # 2 over the floor of 0.05
    set_site(measured, "excess_kurtosis", "mlp_out", 6.0)
    set_site(measured, "excess_kurtosis", "attention_out", 2.0)
    set_site(measured, "excess_kurtosis", "mlp_in", 0.5)  # mean over the other five linears: 0.2
    assert estimate("learned.localization", measured).value == pytest.approx(math.log(4 / 0.2) - math.log(2 / 0.05))
    assert verdict("learned.localization", measured) is Verdict.REFUTED


def test_learned_payoff_compares_ln_reductions() -> None:
    measured = hand_made(twins=2)
    for twin in measured.twins:
        set_errors(twin, 0.9, alpha=0.5, bits=3)
    set_errors(measured, 0.5, alpha=0.25, bits=3)
    assert estimate("learned.payoff", measured, 3).value == pytest.approx(math.log(2) - math.log(1 / 0.9))
    assert estimate("learned.payoff", measured, 4).value == pytest.approx(0.0)


@pytest.mark.parametrize("claim", ["concentration", "outliers", "channels", "localization", "payoff"])
def test_without_a_twin_nothing_is_learned(claim: str) -> None:
    bits = 3 if claim == "payoff" else None
    with pytest.raises(NotApplicableError, match="no untrained twins"):
        estimate(f"learned.{claim}", hand_made(), bits)


def test_blocks_are_paired_with_the_twin_s_by_depth() -> None:
    """Where the model follows its twin block by block, the difference hardly varies, and nor does the interval."""
    rise = [1.0, 3.0, 7.0, 15.0]
    measured = hand_made(twins=2)
    for each, factor in zip((measured, *measured.twins), (4.0, 1.0, 1.0), strict=True):
        # ln(1 + k) = ln(factor) + ln(1 + rise)
        for role in ("mlp_out", "attention_out"):
            set_site(each, "excess_kurtosis", role, [factor * (1 + k) - 1 for k in rise])
    got = estimate("learned.outliers", measured)
    assert got.value == pytest.approx(math.log(4))
    assert got.interval.upper - got.interval.lower < 1e-9


# localization


def test_the_kurtosis_ratio_is_of_floored_means() -> None:
    measured = hand_made()
    set_site(measured, "excess_kurtosis", "mlp_out", 6.0)
    set_site(measured, "excess_kurtosis", "attention_out", 2.0)
    assert estimate("localization.kurtosis", measured).value == pytest.approx(4.0 / 0.05)
    set_site(measured, "excess_kurtosis", "attention_in", 1.0)  # three of the other five
    assert estimate("localization.kurtosis", measured).value == pytest.approx(4.0 / 0.6)
    set_site(measured, "excess_kurtosis", "mlp_out", -1.0)
    set_site(measured, "excess_kurtosis", "attention_out", 0.0)
    assert estimate("localization.kurtosis", measured).value == pytest.approx(0.05 / 0.6)


def test_benefit_mean_and_median_differ_where_one_block_makes_the_mean() -> None:
    measured = hand_made(blocks=5)
    set_errors(measured, 0.8, families=REST, alpha=0.5, bits=3)  # 1.25
    set_errors(measured, 0.8, families=OUTLIER, alpha=0.5, bits=3)
    set_errors(measured, 0.05, families=("down",), block=1, alpha=0.5, bits=3)  # 20
    mean = estimate("localization.benefit-mean", measured, 3)
    assert mean.value == pytest.approx((9 * 1.25 + 20) / 10 - 1.25)
    assert estimate("localization.benefit-median", measured, 3).value == pytest.approx(0.0)
    assert estimate("localization.benefit-mean", measured, 4).value == pytest.approx(0.0)
    parts = estimate("localization.benefit-jackknife", measured, 3)
    assert {name: part.value for name, part in parts.items()} == {
        f"without block {block}": pytest.approx(0.0 if block == 1 else (7 * 1.25 + 20) / 8 - 1.25) for block in range(5)
    }
    evidence = judge(REGISTRY["localization.benefit-jackknife"], measured, Setting(3))
    assert evidence.verdict is Verdict.REFUTED  # all must hold, and without block 1 nothing is left
    assert evidence.deciding_part == "without block 1"
    assert evidence.estimate == pytest.approx(0.0)


def test_of_four_blocks_none_can_be_left_out() -> None:
    evidence = judge(REGISTRY["localization.benefit-jackknife"], hand_made(4), Setting(3))
    assert evidence.verdict is Verdict.INSUFFICIENT
    assert evidence.reason == "3 blocks, and an interval needs at least 4"


def test_a_contrast_s_interval_is_the_t_interval_on_block_differences() -> None:
    measured = hand_made(blocks=6)
    differences = [0.1, 0.3, 0.2, 0.5, 0.4, 0.3]
    for block, difference in enumerate(differences):
        set_errors(measured, 1 / (1 + difference), families=OUTLIER, block=block, alpha=0.5, bits=4)
    got = estimate("localization.benefit-mean", measured, 4)
    assert (got.interval.lower, got.interval.upper) == pytest.approx(t_interval(differences), rel=0.08)


def test_rank_is_spearman_over_linears() -> None:
    measured = hand_made()
    rng = np.random.default_rng(0)
    kurtosis = {role: rng.normal(size=4).tolist() for role in ROLES}
    for role, values in kurtosis.items():
        set_site(measured, "excess_kurtosis", role, values)
    gains = rng.uniform(1.1, 3.0, size=28)
    for name, gain in zip(measured.errors["linear"].values, gains, strict=True):
        measured.errors["output_error"].loc[{"linear": name, "alpha": 0.5, "bits": 4}] = 1 / gain
    by_linear = [kurtosis[site[2:]][int(site[0])] for site in measured.channels["linear_site"].values]
    expected = stats.spearmanr(by_linear, gains).statistic
    assert estimate("localization.rank", measured, 4).value == pytest.approx(expected)


def test_localization_needs_other_families() -> None:
    measured = hand_made()
    families = np.where(np.isin(measured.channels["linear_family"].values, OUTLIER), "fc2", "fc1")
    for dataset in (measured.channels, measured.errors):
        dataset["linear_family"] = ("linear", families)
    for claim in ("kurtosis", "importance", "benefit-mean", "benefit-median"):
        assert verdict(f"localization.{claim}", measured, 3) is Verdict.NOT_APPLICABLE
