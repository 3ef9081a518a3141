"""Every claim of the seven groups on measurements made by hand, where its estimate is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from awq_core.evidence import Threshold, Verdict
from awq_core.intervals import Estimate, InsufficientDataError
from awq_core.measured import ALPHAS, Measured
from claims.catalogue import whole_catalogue
from claims.claim import REGISTRY, NotApplicableError, Reported, Setting
from claims.judging import judge
from tests.hand_made import (
    ROLES,
    WINDOWS,
    hand_made,
    linear_name,
    set_channel,
    set_errors,
    set_losses,
    set_site,
    site_name,
)

pytestmark = pytest.mark.usefixtures("registry")

OUTLIER = ("o", "down")
REST = ("q", "k", "v", "gate", "up")


@pytest.fixture(scope="module")
def registry() -> None:
    """The claims' files are imported, so that every claim is registered."""
    whole_catalogue()


def estimate(claim: str, subject: Any, bits: int | None = None) -> Any:
    return REGISTRY[claim].estimate(subject, Setting(bits, seed=1))


def verdict(claim: str, subject: Any, bits: int | None = None) -> Verdict:
    return judge(REGISTRY[claim], subject, Setting(bits, seed=1)).verdict


def t_interval(values: np.ndarray | list[float]) -> tuple[float, float]:
    """Student's t interval of a mean of independent values."""
    lower, upper = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return float(lower), float(upper)


BOTH = (4, 3)
CATALOGUE: dict[str, tuple[float | None, float | None, tuple[int, ...]]] = {
    "concentration.some-layer": (5, None, ()),
    "concentration.typical-layer": (2, None, ()),
    "concentration.hockey-stick": (3, None, ()),
    "concentration.few-large": (0.001, 0.03, ()),
    "outliers.heavy-tailed": (3, None, ()),
    "outliers.beyond-six-sigma": (1e-5, None, ()),
    "outliers.salient-are-outliers": (0.6, None, ()),
    "learned.concentration": (0.1, None, ()),
    "learned.outliers": (0.1, None, ()),
    "learned.channels": (0.1, None, ()),
    "learned.localization": (0.1, None, ()),
    "learned.payoff": (0.02, None, BOTH),
    "localization.kurtosis": (10, None, ()),
    "localization.importance": (0.1, None, ()),
    "localization.benefit-mean": (0.05, None, BOTH),
    "localization.benefit-median": (0.05, None, BOTH),
    "localization.benefit-jackknife": (0.05, None, BOTH),
    "localization.rank": (0.2, None, BOTH),
    "payoff.layers": (1.02, None, BOTH),
    "payoff.most-layers": (0.5, None, BOTH),
    "payoff.one-layer": (2, None, BOTH),
    "payoff.honest": (0, None, BOTH),
    "payoff.perplexity": (0.005, None, BOTH),
    "payoff.logits": (None, 0, BOTH),
    "payoff.two-to-five": (0, None, BOTH),
    "replication.profile": (0.7, None, ()),
    "replication.benefit": (0.05, None, BOTH),
    "replication.verdicts": (None, None, ()),
    "constant-alpha.non-inferior": (None, 0.01, BOTH),
    "constant-alpha.better": (None, -0.005, (3,)),
    "constant-alpha.captures": (0, None, BOTH),
    "constant-alpha.predictor": (None, -0.2, BOTH),
    "constant-alpha.half": (None, 1.02, BOTH),
    "constant-alpha.one-is-too-much": (1.02, None, BOTH),
}
"""The registered thresholds, `(above, below, bits)`. A change belongs in the design and CHANGELOG.md first."""

VERSIONS: dict[str, int] = {}
"""Versions other than 1. Raise one whenever words, estimand or threshold of its claim change."""

MODEL_LEVEL = {
    "payoff.perplexity",
    "payoff.logits",
    "payoff.two-to-five",
    "constant-alpha.non-inferior",
    "constant-alpha.better",
}


def test_the_registered_claims_are_the_catalogue_s() -> None:
    groups = {claim.split(".")[0] for claim in CATALOGUE}
    registered = {
        claim.id: (
            claim.threshold.lower if claim.threshold else None,
            claim.threshold.upper if claim.threshold else None,
            claim.bits,
        )
        for claim in REGISTRY.values()
        if claim.group in groups
    }
    assert registered == CATALOGUE


def test_versions_kinds_and_levels_are_the_registered_ones() -> None:
    for name in CATALOGUE:
        claim = REGISTRY[name]
        assert claim.version == VERSIONS.get(name, 1)
        assert claim.kind == "structural"
        level = "model" if name in MODEL_LEVEL else "pair" if claim.group == "replication" else "layer"
        assert claim.level == level
        assert claim.words
        assert claim.source
        assert claim.unit


# concentration


def test_some_layer_is_picked_on_calibration_and_judged_on_held_out_tokens() -> None:
    measured = hand_made()
    set_channel(measured, "magnitude", 2, "attention_out", 5, 30.0, split="calibration")
    set_channel(measured, "magnitude", 2, "attention_out", 5, 20.0, split="heldout")
    set_channel(measured, "magnitude", 0, "mlp_in", 5, 60.0, split="heldout")  # larger, but not on calibration tokens
    without = 64 * 20 / 83 * np.exp(np.linspace(-0.1, 0.1, 16))
    measured.channels["enrichment_without_group"].loc[{"linear": linear_name(2, "o")}] = without
    got = estimate("concentration.some-layer", measured)
    assert got.value == pytest.approx(64 * 20 / 83)
    half = stats.t.ppf(0.975, 15) * math.sqrt(15 / 16 * ((np.log(without) - np.log(without).mean()) ** 2).sum())
    assert got.interval.upper == pytest.approx(got.value * math.exp(half))
    assert got.interval.lower == pytest.approx(got.value * math.exp(-half))
    assert got.details == {"linear": "2.o", "raw share of the top 1%": pytest.approx(20 / 83)}


def test_typical_layer_is_the_median_over_linears() -> None:
    measured = hand_made()
    # q, k, v: 1; o: 64*4/67; gate, up: 64*9/72; down (200 channels, top 2): (6+4)/208*100
    set_channel_everywhere(measured, "attention_out", {3: 4.0})
    set_channel_everywhere(measured, "mlp_in", {3: 9.0})
    set_channel_everywhere(measured, "mlp_out", {3: 6.0, 4: 4.0})
    values = [1, 1, 1, 64 * 4 / 67, 64 * 9 / 72, 64 * 9 / 72, 10 / 208 * 100]
    assert estimate("concentration.typical-layer", measured).value == pytest.approx(float(np.median(values)))


def set_channel_everywhere(measured: Measured, role: str, channels: dict[int, float]) -> None:
    for block in np.unique(measured.channels["site_block"].values):
        for channel, value in channels.items():
            set_channel(measured, "magnitude", int(block), role, channel, value)


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
    measured.channels["weight_size"].loc[{"channel": 1, "linear": linear_name(0, "q")}] = 0.5
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
    measured.channels["kurtosis_without_group"].loc[{"site": site_name(1, "mlp_out")}] = without
    got = estimate("outliers.heavy-tailed", measured)
    assert got.value == pytest.approx(6.0)
    assert got.details["linear"] == "1.down"
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
    for block in range(4):
        for role in ROLES:
            for channel in range(64):
                set_channel(measured, "excess_kurtosis", block, role, channel, float(channel))
            # Salient: channel 40, above 40 of the 63 others. At mlp_out by its weights: channel 63, above all.
            set_channel(measured, "magnitude", block, role, 40, 2.0)
        measured.channels["weight_size"].loc[{"linear": linear_name(block, "down"), "channel": 63}] = 3.0
        # q's weights alone would make channel 0 salient; the mean over q, k, v does not.
        measured.channels["weight_size"].loc[{"linear": linear_name(block, "q"), "channel": 0}] = 3.5
    assert estimate("outliers.salient-are-outliers", measured).value == pytest.approx((3 * 40 / 63 + 1) / 4)


def test_an_auc_of_ties_is_a_half() -> None:
    measured = hand_made()
    assert estimate("outliers.salient-are-outliers", measured).value == pytest.approx(0.5)
    assert verdict("outliers.salient-are-outliers", measured) is Verdict.REFUTED


# learned


def twin_with(**large: float) -> Measured:
    """A twin whose every site has one channel of a size."""
    twin = hand_made(name="twin")
    for role, size in large.items():
        set_channel_everywhere(twin, role, {0: size})
    return twin


def test_learned_channels_is_the_model_s_median_over_sites_minus_the_twins_mean() -> None:
    sizes = {"attention_in": 10.0, "attention_out": 20.0, "mlp_in": 40.0, "mlp_out": 80.0}
    twins = tuple(twin_with(**dict.fromkeys(ROLES, size)) for size in (2.0, 3.0, 4.0))
    measured = hand_made(twins=twins)
    for role, size in sizes.items():
        set_channel_everywhere(measured, role, {0: size})
    got = estimate("learned.channels", measured)
    theirs = np.log([2.0, 3.0, 4.0])
    own = (math.log(20) + math.log(40)) / 2
    assert got.value == pytest.approx(own - theirs.mean())
    assert got.details == {"the model's own": pytest.approx(own), "its twins' mean": pytest.approx(theirs.mean())}
    # All blocks are alike, so that only the twins' seeds spread: a t interval of three.
    half = stats.t.ppf(0.975, 2) * theirs.std(ddof=1) / math.sqrt(3)
    assert (got.interval.lower, got.interval.upper) == pytest.approx((got.value - half, got.value + half))


def test_learned_concentration_compares_ln_enrichment() -> None:
    twins = tuple(twin_with(**dict.fromkeys(ROLES[:3], size)) for size in (2.0, 2.0))
    measured = hand_made(twins=twins)
    for role in ROLES[:3]:
        set_channel_everywhere(measured, role, {0: 9.0})
    assert estimate("learned.concentration", measured).value == pytest.approx(math.log(9 / 72) - math.log(2 / 65))
    assert verdict("learned.concentration", measured) is Verdict.SUPPORTED


def test_learned_outliers_compares_tails_at_o_and_down() -> None:
    twins = tuple(hand_made() for _ in range(2))
    for twin, kurtosis in zip(twins, (1.0, 3.0), strict=True):
        set_site(twin, "excess_kurtosis", "mlp_out", kurtosis)
        set_site(twin, "excess_kurtosis", "attention_out", -0.5)  # floored at 0
    measured = hand_made(twins=twins)
    set_site(measured, "excess_kurtosis", "mlp_out", 7.0)
    set_site(measured, "excess_kurtosis", "mlp_in", 1000.0)  # elsewhere: does not count
    expected = math.log(8) / 2 - (math.log(2) / 2 + math.log(4) / 2) / 2
    assert estimate("learned.outliers", measured).value == pytest.approx(expected)


def test_learned_localization_compares_the_ratios() -> None:
    twins = tuple(hand_made() for _ in range(2))
    for twin in twins:
        set_site(twin, "excess_kurtosis", "mlp_out", 2.0)
        set_site(twin, "excess_kurtosis", "attention_out", 2.0)  # 2 over the floor of 0.05
    measured = hand_made(twins=twins)
    set_site(measured, "excess_kurtosis", "mlp_out", 6.0)
    set_site(measured, "excess_kurtosis", "attention_out", 2.0)
    set_site(measured, "excess_kurtosis", "mlp_in", 0.5)  # mean over the other five linears: 0.2
    assert estimate("learned.localization", measured).value == pytest.approx(math.log(4 / 0.2) - math.log(2 / 0.05))
    assert verdict("learned.localization", measured) is Verdict.REFUTED


def test_learned_payoff_compares_ln_reductions() -> None:
    twins = tuple(hand_made() for _ in range(2))
    for twin in twins:
        set_errors(twin, 0.9, alpha=0.5, bits=3)
    measured = hand_made(twins=twins)
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
    twins = tuple(hand_made() for _ in range(2))
    measured = hand_made(twins=twins)
    for each, factor in ((measured, 4.0), (twins[0], 1.0), (twins[1], 1.0)):
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
        "without block 0": pytest.approx((7 * 1.25 + 20) / 8 - 1.25),
        "without block 1": pytest.approx(0.0),
        "without block 2": pytest.approx((7 * 1.25 + 20) / 8 - 1.25),
        "without block 3": pytest.approx((7 * 1.25 + 20) / 8 - 1.25),
        "without block 4": pytest.approx((7 * 1.25 + 20) / 8 - 1.25),
    }
    evidence = judge(REGISTRY["localization.benefit-jackknife"], measured, Setting(3))
    assert evidence.verdict is Verdict.REFUTED  # all must hold, and without block 1 nothing is left
    assert evidence.details["weakest part"] == "without block 1"
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
    kurtosis = {}
    for role in ROLES:
        values = rng.normal(size=4).tolist()
        set_site(measured, "excess_kurtosis", role, values)
        for block, value in enumerate(values):
            kurtosis[block, role] = value
    gains = {}
    for name in measured.errors["linear"].values:
        gains[name] = float(rng.uniform(1.1, 3.0))
        measured.errors["output_error"].loc[{"linear": name, "alpha": 0.5, "bits": 4}] = 1 / gains[name]
    by_linear = [kurtosis[int(site[0]), site[2:]] for site in measured.channels["linear_site"].values]
    expected = stats.spearmanr(by_linear, list(gains.values())).statistic
    assert estimate("localization.rank", measured, 4).value == pytest.approx(expected)


def test_localization_needs_other_families() -> None:
    measured = hand_made()
    families = np.where(np.isin(measured.channels["linear_family"].values, OUTLIER), "fc2", "fc1")
    for dataset in (measured.channels, measured.errors):
        dataset["linear_family"] = ("linear", families)
    for claim in ("kurtosis", "importance", "benefit-mean", "benefit-median"):
        assert verdict(f"localization.{claim}", measured, 3) is Verdict.NOT_APPLICABLE


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
    assert got.parts["0.q"] == pytest.approx(1.25)
    assert got.parts["3.down"] == pytest.approx(20.0)
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
    assert got.details == {"linear": "2.down", "on calibration tokens": pytest.approx(5.0)}
    assert 2 < got.interval.lower < got.value < got.interval.upper < 6
    assert got.interval.resampled == "groups of windows"


def test_honest_asks_for_four_fifths_of_the_calibration_gain() -> None:
    measured = hand_made()
    set_errors(measured, 0.25, alpha=0.5, bits=3, split="calibration")
    set_errors(measured, 0.5, alpha=0.5, bits=3, split="heldout")
    got = estimate("payoff.honest", measured, 3)
    assert got.value == pytest.approx(math.log(2) - 0.8 * math.log(4))
    with pytest.raises(NotApplicableError, match=r"payoff.layers is not supported at 4 bits \(reduction 1.000x\)"):
        estimate("payoff.honest", measured, 4)


def damaged(rtn_gap: float = 0.2, spread: float = 0.0, blocks: int = 4) -> Measured:
    """Windows of different difficulty; RTN costs the same in each, give or take `spread`."""
    measured = hand_made(blocks)
    full = np.linspace(1.5, 2.5, WINDOWS)
    noise = spread * np.tile([1.0, -1.0], WINDOWS // 2)
    set_losses(measured, "full", full)
    for bits in (3, 4):
        set_losses(measured, f"rtn-{bits}", full + rtn_gap + noise)
        for method in ("awq-linear", "awq-block", "awq-constant", "awq-half"):
            set_losses(measured, f"{method}-{bits}", full + rtn_gap / 2)
    return measured


def test_perplexity_is_the_paired_difference_of_block_awq_and_rtn() -> None:
    measured = damaged()
    assert measured.losses is not None
    full = measured.losses["window_loss"].sel(strategy="full").values
    gains = np.linspace(0.05, 0.15, WINDOWS)
    set_losses(measured, "awq-block-3", full + 0.2 - gains)
    got = estimate("payoff.perplexity", measured, 3)
    assert got.value == pytest.approx(0.1)
    assert (got.interval.lower, got.interval.upper) == pytest.approx(t_interval(gains), rel=0.05)
    assert got.details["gap of RTN"] == pytest.approx(0.2)
    assert got.details["gap of block AWQ (folded, without clipping)"] == pytest.approx(0.1)
    assert verdict("payoff.perplexity", measured, 3) is Verdict.SUPPORTED
    set_losses(measured, "awq-block-3", full + 0.21)
    assert verdict("payoff.perplexity", measured, 3) is Verdict.REFUTED


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
    assert got.details["excess of RTN over excess of AWQ"] == pytest.approx(
        (math.exp(2.3) - full) / (math.exp(2.15) - full)
    )


DAGGERED = [
    ("payoff.perplexity", 3),
    ("payoff.logits", 4),
    ("payoff.two-to-five", 3),
    ("constant-alpha.non-inferior", 4),
    ("constant-alpha.better", 3),
]


@pytest.mark.parametrize(("claim", "bits"), DAGGERED)
def test_without_damage_there_is_nothing_to_recover(claim: str, bits: int) -> None:
    slight = damaged(rtn_gap=0.009)
    with pytest.raises(InsufficientDataError, match=f"RTN at {bits} bits costs 0.0090 nats"):
        estimate(claim, slight, bits)
    evidence = judge(REGISTRY[claim], slight, Setting(bits))
    assert evidence.verdict is Verdict.INSUFFICIENT
    assert "needs 0.01" in evidence.reason
    with pytest.raises(InsufficientDataError, match=r"\[-0\.\d+, 0\.\d+\]"):
        estimate(claim, damaged(rtn_gap=0.011, spread=0.1), bits)  # large enough, but not surely above 0
    assert isinstance(estimate(claim, damaged(rtn_gap=0.011), bits), Estimate)


def test_too_few_windows_are_insufficient_data() -> None:
    measured = damaged()
    assert measured.losses is not None
    few = Measured(**{**vars(measured), "losses": measured.losses.isel(window=slice(15))})
    assert verdict("payoff.perplexity", few, 3) is Verdict.INSUFFICIENT


# replication


def profile(measured: Measured, table: list[list[float]]) -> Measured:
    """Kurtosis by block and site."""
    for role, column in zip(ROLES, np.array(table).T.tolist(), strict=True):
        set_site(measured, "excess_kurtosis", role, column)
    return measured


def test_the_profile_correlates_four_sites_by_three_thirds_of_the_depth() -> None:
    rng = np.random.default_rng(0)
    # Four blocks have thirds of 2, 1, 1 blocks; six have 2, 2, 2.
    small, large = rng.gamma(2, size=(4, 4)), rng.gamma(2, size=(6, 4))
    pair = (profile(hand_made(4), small.tolist()), profile(hand_made(6, name="larger"), large.tolist()))
    cells = [
        np.stack([small[:2].mean(axis=0), small[2], small[3]]),
        np.stack([large[:2].mean(axis=0), large[2:4].mean(axis=0), large[4:].mean(axis=0)]),
    ]
    expected = stats.spearmanr(cells[0].ravel(), cells[1].ravel()).statistic
    got = estimate("replication.profile", pair)
    assert got.value == pytest.approx(expected)
    assert got.interval.n == 10
    same = (pair[1], profile(hand_made(6), (2 * large + 1).tolist()))
    assert estimate("replication.profile", same).value == pytest.approx(1.0)


def test_the_benefit_must_land_alike_in_both_sizes() -> None:
    first, second = hand_made(name="first"), hand_made(name="second", parameters=2)
    set_errors(first, 0.5, families=OUTLIER, alpha=0.5, bits=3)
    parts = estimate("replication.benefit", (first, second), 3)
    assert {name: part.value for name, part in parts.items()} == {"first": pytest.approx(1.0), "second": 0.0}
    assert verdict("replication.benefit", (first, second), 3) is Verdict.REFUTED
    set_errors(second, 0.9, families=OUTLIER, alpha=0.5, bits=3)
    assert verdict("replication.benefit", (first, second), 3) is Verdict.SUPPORTED


def test_agreeing_verdicts_are_counted_and_listed() -> None:
    first, second = damaged(), damaged()
    same = estimate("replication.verdicts", (first, second))
    assert isinstance(same, Reported)
    assert same.value == 1.0
    set_errors(second, 0.5, alpha=0.5, bits=3)
    other = estimate("replication.verdicts", (first, second))
    assert 0.5 < other.value < 1.0
    assert other.details["payoff.layers@3"] == "refuted / supported"
    assert other.details["payoff.layers@4"] == "refuted / refuted"
    assert "payoff.honest@3" not in other.details  # not applicable to the first
    assert not any(key.startswith("replication.") for key in other.details)
    listed = [value for key, value in other.details.items() if key != "claims compared"]
    assert other.details["claims compared"] == len(listed)
    agree = [a == b for a, b in (str(value).split(" / ") for value in listed)]
    assert other.value == pytest.approx(np.mean(agree))


def test_replication_needs_two_sizes() -> None:
    evidence = judge(REGISTRY["replication.profile"], (hand_made(),), Setting())  # type: ignore[arg-type]
    assert evidence.verdict is Verdict.NOT_APPLICABLE
    assert "two sizes" in evidence.reason


# constant alpha


def test_constant_is_compared_with_block_window_by_window() -> None:
    measured = damaged()
    assert measured.losses is not None
    full = measured.losses["window_loss"].sel(strategy="full").values
    differences = np.linspace(-0.02, 0.0, WINDOWS)
    set_losses(measured, "awq-block-3", full + 0.1)
    set_losses(measured, "awq-constant-3", full + 0.1 + differences)
    for claim in ("non-inferior", "better"):
        got = estimate(f"constant-alpha.{claim}", measured, 3)
        assert got.value == pytest.approx(-0.01)
        assert (got.interval.lower, got.interval.upper) == pytest.approx(t_interval(differences), rel=0.08)
        assert got.details["the constant"] == 0.0
        assert verdict(f"constant-alpha.{claim}", measured, 3) is Verdict.SUPPORTED
    set_losses(measured, "awq-constant-3", full + 0.1)
    assert verdict("constant-alpha.non-inferior", measured, 3) is Verdict.SUPPORTED
    assert verdict("constant-alpha.better", measured, 3) is Verdict.REFUTED


def test_captures_weighs_the_constant_s_gain_against_the_best_s() -> None:
    measured = hand_made()
    # Calibration: q gains most at 0.2, the rest at 0.6; summed over linears 0.6 wins.
    set_errors(measured, 0.5, families=("q",), alpha=0.2, bits=3)
    set_errors(measured, 0.9, families=("q",), alpha=0.6, bits=3)
    others = ("k", "v", "o", "gate", "up", "down")
    set_errors(measured, 0.7, families=others, alpha=0.6, bits=3)
    got = estimate("constant-alpha.captures", measured, 3)
    constant, best = 4 * (0.1 + 6 * 0.3), 4 * (0.5 + 6 * 0.3)
    assert got.value == pytest.approx(constant - 0.7 * best)
    assert got.details["captured"] == pytest.approx(constant / best)
    assert got.parts["0.q"] == pytest.approx(0.1 - 0.35)
    assert verdict("constant-alpha.captures", measured, 3) is Verdict.SUPPORTED
    assert verdict("constant-alpha.captures", measured, 4) is Verdict.NOT_APPLICABLE


def test_predictor_ranks_share_on_held_out_tokens_against_the_best_exponent() -> None:
    measured = hand_made()
    rng = np.random.default_rng(1)
    alphas = rng.choice(ALPHAS[1:], size=28)
    shares = []
    for block in range(4):
        for role in ROLES:
            size = float(rng.uniform(2, 30))
            set_channel(measured, "magnitude", block, role, 0, size, split="heldout")
            set_channel(measured, "magnitude", block, role, 0, 99.0, split="calibration")
            width = 200 if role == "mlp_out" else 64
            share = (size + (width // 100 - 1 if width == 200 else 0)) / (size + width - 1)
            shares += [share] * {"attention_in": 3, "mlp_in": 2}.get(role, 1)
    for name, alpha in zip(measured.errors["linear"].values, alphas, strict=True):
        measured.errors["output_error"].loc[{"linear": name, "alpha": alpha, "bits": 4}] = 0.5
    expected = stats.spearmanr(shares, alphas).statistic
    assert estimate("constant-alpha.predictor", measured, 4).value == pytest.approx(expected)


def test_a_straight_line_predicts_the_exponent_of_the_linear_left_out() -> None:
    """Where best exponents lie on a line in the share, leave-one-out prediction keeps the whole gain."""
    measured = hand_made()
    for block, (size, alpha) in enumerate([(1.0, 0.2), (2.0, 0.3), (3.0, 0.4), (4.0, 0.5)]):
        # shares of 1, 2, 3, 4 in 64: 63 other channels share the rest
        for role, width, top in (
            ("attention_in", 64, 1),
            ("attention_out", 64, 1),
            ("mlp_in", 64, 1),
            ("mlp_out", 200, 2),
        ):
            share = 0.02 * size
            value = share * (width - top) / (1 - share) / top
            for channel in range(top):
                set_channel(measured, "magnitude", block, role, channel, max(value, 1.0))
        set_errors(measured, 0.5, block=block, alpha=alpha, bits=3)
    exact = estimate("constant-alpha.predictor", measured, 3)
    assert exact.value > 0.98  # rounding breaks the ties of shares within a block
    assert exact.details["captured by prediction"] == pytest.approx(1.0)
    set_errors(measured, 1.0, block=3, alpha=0.5, bits=3)
    set_errors(measured, 0.5, block=3, alpha=0.0, bits=3)
    bent = estimate("constant-alpha.predictor", measured, 3).details["captured by prediction"]
    assert bent < 0.8


def test_half_and_one_are_medians_of_error_ratios() -> None:
    measured = hand_made()
    set_errors(measured, 0.5, alpha=0.4, bits=3)
    set_errors(measured, 0.6, alpha=0.5, bits=3)
    set_errors(measured, 0.9, alpha=1.0, bits=3)
    set_errors(measured, 50.0, families=("o", "down"), alpha=0.5, bits=3)  # a few linears do not move a median
    assert estimate("constant-alpha.half", measured, 3).value == pytest.approx(1.2)
    assert estimate("constant-alpha.one-is-too-much", measured, 3).value == pytest.approx(1.5)
    assert estimate("constant-alpha.one-is-too-much", measured, 4).value == pytest.approx(1.0)
    assert verdict("constant-alpha.half", measured, 3) is Verdict.REFUTED
    assert verdict("constant-alpha.half", measured, 4) is Verdict.NOT_APPLICABLE
    assert verdict("constant-alpha.one-is-too-much", measured, 4) is Verdict.REFUTED


# what every claim shares


def layer_claims() -> list[str]:
    # Those that resample blocks: a single linear is judged by its groups of windows.
    single = {"concentration.some-layer", "outliers.heavy-tailed", "payoff.one-layer"}
    return [c for c in CATALOGUE if c not in single | MODEL_LEVEL and not c.startswith("replication.verdicts")]


@pytest.mark.parametrize("claim", layer_claims())
def test_three_blocks_are_insufficient_data(claim: str) -> None:
    twins = tuple(hand_made(3) for _ in range(2))
    measured = hand_made(3, twins=twins)
    set_errors(measured, 0.5, alpha=0.5)
    subject = (measured, measured) if claim.startswith("replication") else measured
    bits = CATALOGUE[claim][2][0] if CATALOGUE[claim][2] else None
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
    else:
        assert measured.losses is not None
        for variable in ("window_loss", "window_kl"):
            for method in ("awq-block", "awq-constant"):
                for bits in (3, 4):
                    measured.losses[variable].loc[{"strategy": f"{method}-{bits}"}][3] = np.nan


READ_BY_GROUP = {"concentration": "channels", "outliers": "channels", "learned": "channels", "localization": "errors"}
READ = {
    "learned.payoff": "errors",
    "localization.kurtosis": "channels",
    "localization.importance": "channels",
    **dict.fromkeys(MODEL_LEVEL, "losses"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("claim", [c for c in CATALOGUE if not c.startswith("replication")])
def test_a_nan_is_an_error_and_never_a_verdict(claim: str) -> None:
    measured = Measured(**{**vars(damaged(blocks=5)), "twins": tuple(hand_made(5) for _ in range(2))})
    set_errors(measured, 0.5, alpha=0.5)
    set_errors(measured, 0.1, alpha=0.5, families=("down",), block=2)
    set_channel(measured, "magnitude", 2, "mlp_out", 0, 50.0)
    set_site(measured, "excess_kurtosis", "mlp_out", [1.0, 2.0, 3.0, 2.0, 1.0])
    bits = CATALOGUE[claim][2][0] if CATALOGUE[claim][2] else None
    assert judge(REGISTRY[claim], measured, Setting(bits)).estimate is not None  # without the NaN, all is well
    broken(READ.get(claim, READ_BY_GROUP.get(claim.split(".")[0], "errors")), measured)
    with pytest.raises((ValueError, ZeroDivisionError)):
        judge(REGISTRY[claim], measured, Setting(bits))


def test_held_out_tokens_judge_every_layer_claim() -> None:
    """What calibration tokens show moves no estimate, as long as they choose the same."""
    measured = hand_made(5, twins=tuple(hand_made(5) for _ in range(2)))
    set_errors(measured, 0.5, alpha=0.5, split="heldout")
    set_errors(measured, 0.4, alpha=0.5, split="calibration")
    before = {c: estimate(c, measured, 3 if CATALOGUE[c][2] else None) for c in layer_claims() if "repl" not in c}
    set_errors(measured, 0.3, alpha=0.5, split="calibration")
    for role in ROLES:
        set_site(measured, "excess_kurtosis", role, 50.0, split="calibration")
        set_site(measured, "outlier_ratio", role, 0.5, split="calibration")
    for claim, was in before.items():
        if claim in ("payoff.honest", "constant-alpha.predictor"):
            continue  # these two are about calibration tokens
        now = estimate(claim, measured, 3 if CATALOGUE[claim][2] else None)
        if isinstance(was, dict):
            assert {n: p.value for n, p in now.items()} == {n: p.value for n, p in was.items()}
        else:
            assert now.value == was.value, claim


def test_the_twin_s_estimate_stands_beside_a_layer_claim() -> None:
    twins = tuple(hand_made() for _ in range(2))
    for twin, error in zip(twins, (0.5, 0.25), strict=True):
        set_errors(twin, error, alpha=0.5, bits=3)
    measured = hand_made(twins=twins)
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
    assert evidence.details["sym-channel at 3 bits"] == pytest.approx(5.0)


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
    lossy = Measured(**{**vars(measured), "losses": damaged().losses})
    named = judge(REGISTRY["constant-alpha.non-inferior"], lossy, Setting(3))
    assert [c.name for c in named.contrary] == list(worst)
    assert named.details["the linears named"] == "those that AWQ helps least"


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
    measured = Measured(**{**vars(base), "scenarios": {"planted": scenario}, "provenance": provenance})
    assert judge(REGISTRY["payoff.layers"], measured, Setting(3)).estimate == pytest.approx(2.0)
    assert judge(REGISTRY["payoff.most-layers"], measured, Setting(3)).estimate == pytest.approx(0.0)


def test_a_threshold_reads_as_a_sentence() -> None:
    assert str(Threshold(1.02)) == "above 1.02"
    assert str(Threshold(upper=-0.005)) == "below -0.005"
    assert str(REGISTRY["concentration.few-large"].threshold) == "between 0.001 and 0.03"
