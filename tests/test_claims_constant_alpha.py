"""Replication and the constant exponent on measurements made by hand, where every estimate is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from awq_core.judging.evidence import Verdict
from awq_core.measured import ALPHAS, Measured
from claims.support.claim import REGISTRY, Reported, Setting
from claims.support.judge import judge
from tests.estimating import OUTLIER, damaged, estimate, t_interval, verdict
from tests.hand_made import ROLES, WIDTHS, WINDOWS, hand_made, set_channel, set_errors, set_gap, set_site

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
    assert other.readings["payoff.layers@3"] == "refuted / supported"
    assert other.readings["payoff.layers@4"] == "refuted / refuted"
    assert "payoff.honest@3" not in other.readings  # not applicable to the first
    assert not any(key.startswith("replication.") for key in other.readings)
    listed = [value for value in other.readings.values() if isinstance(value, str)]
    assert other.readings["claims compared"] == len(listed)
    agree = [a == b for a, b in (str(value).split(" / ") for value in listed)]
    assert other.value == pytest.approx(np.mean(agree))
    decided = [value for value in listed if "inconclusive" not in value]
    assert other.readings["claims decided on both"] == len(decided) < len(listed)
    assert other.readings["of those, alike"] == sum(len({*value.split(" / ")}) == 1 for value in decided)


def test_replication_needs_two_sizes() -> None:
    evidence = judge(REGISTRY["replication.profile"], (hand_made(),), Setting())  # type: ignore[arg-type]
    assert evidence.verdict is Verdict.NOT_APPLICABLE
    assert "two sizes" in evidence.reason


# constant alpha


def test_constant_is_compared_with_block_window_by_window() -> None:
    measured = damaged()
    differences = np.linspace(-0.02, 0.0, WINDOWS)
    set_gap(measured, "awq-block-3", 0.1)
    set_gap(measured, "awq-constant-everywhere-3", 0.1 + differences)
    for claim in ("non-inferior", "better"):
        got = estimate(f"constant-alpha.{claim}", measured, 3)
        assert got.value == pytest.approx(-0.01)
        assert (got.interval.lower, got.interval.upper) == pytest.approx(t_interval(differences), rel=0.08)
        assert got.readings["the constant"] == 0.0
        assert verdict(f"constant-alpha.{claim}", measured, 3) is Verdict.SUPPORTED
    set_gap(measured, "awq-constant-everywhere-3", 0.1)
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
    assert got.readings["captured"] == pytest.approx(constant / best)
    assert got.summarised["0.q"] == pytest.approx(0.1 - 0.35)
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
        for role, width in WIDTHS.items():
            share, top = 0.02 * size, max(1, width // 100)
            value = share * (width - top) / (1 - share) / top
            for channel in range(top):
                set_channel(measured, "magnitude", block, role, channel, max(value, 1.0))
        set_errors(measured, 0.5, block=block, alpha=alpha, bits=3)
    exact = estimate("constant-alpha.predictor", measured, 3)
    assert exact.value > 0.98  # rounding breaks the ties of shares within a block
    assert exact.readings["captured by prediction"] == pytest.approx(1.0)
    set_errors(measured, 1.0, block=3, alpha=0.5, bits=3)
    set_errors(measured, 0.5, block=3, alpha=0.0, bits=3)
    bent = estimate("constant-alpha.predictor", measured, 3).readings["captured by prediction"]
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
