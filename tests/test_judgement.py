"""From estimates to verdicts and words: data needed, p values, estimates that cannot be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from awq_core.judging.evidence import Contrary, Evidence, Interval, Scale, Threshold, Verdict
from awq_core.judging.intervals import (
    Estimate,
    InsufficientDataError,
    Statistic,
    cluster_estimate,
    jackknife_estimate,
    two_sample_jackknife,
)
from awq_core.judging.verdicts import data_needed, most_contrary, survives_holm
from claims.support.outcome import failure_message
from tests.synthetic_claim import synthetic_interval


def made(value: float, lower: float, upper: float, resampled: str = "blocks", n: int = 6) -> Estimate:
    return Estimate(value, lambda: synthetic_interval(lower, upper, n, resampled=resampled))


def spread(value: float, error: float, scale: Scale = Scale.LINEAR) -> Estimate:
    """An estimate whose p value is asked for: the interval's ends play no part."""
    interval = Interval(value, value, "m", "blocks", 5, standard_error=error, degrees_of_freedom=4, scale=scale)
    return Estimate(value, lambda: interval)


def test_an_inconclusive_claim_says_how_many_blocks_would_decide() -> None:
    # The interval reaches 0.3 away and would have to reach 0.1: nine times the blocks.
    words = data_needed(made(1.12, 0.82, 1.42), Threshold(1.02))
    assert words == "about 54 blocks like these would decide, against 6 here"


def test_windows_that_would_decide_can_be_measured() -> None:
    words = data_needed(made(0.02, -0.01, 0.05, "windows", 64), Threshold(0.005))
    assert words == "about 256 windows would decide, against 64 measured"


@pytest.mark.parametrize(("value", "n"), [(0.001, 6), (0.0, 6)])
def test_an_estimate_on_its_threshold_needs_more_than_there_can_be(value: float, n: int) -> None:
    words = data_needed(made(value, value - 0.2, value + 0.2, n=n), Threshold(0.0))
    assert words == "the estimate lies on the threshold: no feasible number of blocks would decide"


def test_the_nearer_of_two_edges_counts_and_one_more_is_the_least() -> None:
    estimate = made(0.028, 0.025, 0.0301, n=6)
    assert data_needed(estimate, Threshold(0.001, 0.03)) == "about 14 blocks like these would decide, against 6 here"
    barely = made(1.3, 1.02, 1.4, n=6)
    assert data_needed(barely, Threshold(1.02)).startswith("about 7 blocks")


def test_what_speaks_most_against_a_claim_is_ordered_by_margin_and_then_by_name() -> None:
    parts = {"b": 1.0, "a": 1.0, "c": 0.5, "d": 3.0}
    assert most_contrary(parts, Threshold(lower=1.02)) == [
        Contrary("c", 0.5),
        *(Contrary(n, 1.0) for n in "ab"),
        Contrary("d", 3.0),
    ]
    assert most_contrary(parts, Threshold(upper=1.02))[0] == Contrary("d", 3.0)
    two_sided = most_contrary({"low": 0.0, "in": 0.5, "high": 1.4}, Threshold(0.2, 1.0))
    assert [item.name for item in two_sided] == ["high", "low", "in"]
    assert most_contrary({}, Threshold(1.0)) == []


def test_a_p_value_is_student_s_on_the_scale_of_the_interval() -> None:
    estimate = spread(2.0, math.log(2) / 2, Scale.LOGARITHM)
    assert estimate.p_value(Threshold(1.0)) == pytest.approx(2 * stats.t.sf(2.0, 4))
    assert estimate.p_value(Threshold(upper=4.0)) == pytest.approx(2 * stats.t.sf(2.0, 4))
    assert estimate.p_value(Threshold(2.0)) == pytest.approx(1.0)
    assert estimate.p_value(Threshold(0.0)) < 1e-4  # nothing is as small as zero in the logarithm
    linear = spread(2.0, 0.5)
    assert linear.p_value(Threshold(1.0)) == pytest.approx(2 * stats.t.sf(2.0, 4))


def test_without_spread_a_p_value_is_certain() -> None:
    sure = spread(2.0, 0.0)
    assert sure.p_value(Threshold(1.0)) == 0.0
    assert sure.p_value(Threshold(2.0)) == 1.0


def test_holm_by_a_worked_example() -> None:
    # 0.01 <= 0.05/4, 0.013 <= 0.05/3, 0.02 <= 0.05/2, 0.04 <= 0.05: all stand; with 0.03 the third stops it.
    assert survives_holm([0.01, 0.04, 0.02, 0.013]) == [True, True, True, True]
    assert survives_holm([0.01, 0.04, 0.03, 0.013]) == [True, False, False, True]
    assert survives_holm([]) == []


def values_mean(values: np.ndarray) -> Statistic:
    return lambda index: values[index].mean(axis=-1)


@pytest.mark.parametrize(("resampled", "n"), [("blocks", 3), ("windows", 15), ("groups of windows", 15)])
def test_too_few_clusters_are_insufficient_data(resampled: str, n: int) -> None:
    message = f"{n} {resampled}, and an interval needs at least {n + 1}"
    with pytest.raises(InsufficientDataError, match=message):
        cluster_estimate(values_mean(np.arange(n, dtype=float)), n, resampled=resampled, seed=0)
    with pytest.raises(InsufficientDataError, match=message):
        jackknife_estimate(1.0, np.ones(n), resampled=resampled)
    with pytest.raises(InsufficientDataError, match=message):
        two_sample_jackknife(lambda kept: 0.0, [n, n + 5], resampled=resampled)
    values = np.arange(n + 1, dtype=float)
    assert cluster_estimate(values_mean(values), n + 1, resampled=resampled, seed=0).interval.n == n + 1


def test_an_interval_stays_within_its_bounds() -> None:
    values = np.array([0.9, 1.0, 1.0, 0.95])
    free = cluster_estimate(values_mean(values), 4, resampled="blocks", seed=0)
    bound = cluster_estimate(values_mean(values), 4, resampled="blocks", seed=0, bounds=(0.0, 1.0))
    assert free.interval.upper > 1.0 == bound.interval.upper
    assert free.interval.lower == bound.interval.lower


def test_a_logarithmic_interval_is_exponentiated() -> None:
    values = np.log([1.0, 2.0, 4.0, 8.0])
    plain = cluster_estimate(values_mean(values), 4, resampled="blocks", seed=0)
    exponentiated = cluster_estimate(values_mean(values), 4, resampled="blocks", seed=0, logarithmic=True)
    assert exponentiated.value == pytest.approx(math.exp(plain.value)) == pytest.approx(math.sqrt(8))
    assert exponentiated.interval.lower == pytest.approx(math.exp(plain.interval.lower))
    assert exponentiated.interval.upper == pytest.approx(math.exp(plain.interval.upper))
    assert exponentiated.interval.standard_error == plain.interval.standard_error


def test_a_further_variance_is_added_with_its_own_degrees_of_freedom() -> None:
    values = np.array([1.0, 2.0, 4.0, 3.0, 5.0])
    alone = cluster_estimate(values_mean(values), 5, resampled="blocks", seed=0)
    both = cluster_estimate(
        values_mean(values), 5, resampled="blocks", seed=0, further_variance=0.25, further_degrees=2
    )
    variance = alone.interval.standard_error**2
    assert both.interval.standard_error == pytest.approx(math.sqrt(variance + 0.25))
    welch = (variance + 0.25) ** 2 / (variance**2 / 4 + 0.25**2 / 2)
    assert both.interval.degrees_of_freedom == pytest.approx(welch)
    half = stats.t.ppf(0.975, welch) * both.interval.standard_error
    assert both.interval.upper - both.value == pytest.approx(half)


def test_the_jackknife_of_a_mean_is_the_t_interval() -> None:
    values = np.random.default_rng(0).normal(size=16)
    without = (values.sum() - values) / 15
    got = jackknife_estimate(values.mean(), without, resampled="groups of windows").interval
    expected = stats.t.interval(0.95, 15, values.mean(), stats.sem(values))
    assert (got.lower, got.upper) == pytest.approx(expected)


def test_the_two_sample_jackknife_of_means_is_welch_s_interval() -> None:
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=5), rng.normal(1, 3, size=9)]
    got = two_sample_jackknife(
        lambda kept: float(samples[1][kept[1]].mean() - samples[0][kept[0]].mean()), [5, 9], resampled="blocks"
    )
    expected = stats.ttest_ind(samples[1], samples[0], equal_var=False).confidence_interval()
    assert (got.interval.lower, got.interval.upper) == pytest.approx((expected.low, expected.high))
    assert got.interval.n == 14


def test_a_failure_names_estimate_interval_threshold_twin_and_worst_linears() -> None:
    evidence = Evidence(
        "payoff.layers",
        4,
        1,
        "payoff",
        "AWQ helps",
        "source",
        "structural",
        ["m"],
        Verdict.REFUTED,
        estimate=1.01,
        interval=synthetic_interval(1.0, 1.015, 6),
        threshold=Threshold(1.02),
        unit="times",
        twin_estimate=1.002,
        contrary=[Contrary(f"{i}.q", 0.9 + i / 100) for i in range(5)],
    )
    assert failure_message(evidence).splitlines() == [
        "payoff.layers@4 is refuted on m: AWQ helps",
        "  estimate 1.01 times, 95% interval [1, 1.015] over 6 blocks; the claim needs above 1.02",
        "  untrained twin: 1.002",
        "  linears (what speaks most against it):",
        "    0.q: 0.9",
        "    1.q: 0.91",
        "    2.q: 0.92",
        "    3.q: 0.93",
        "    4.q: 0.94",
    ]
