"""Verdict rules: every interval gets exactly one verdict, and a NaN gets none."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from awq_core.judging.evidence import Interval, Threshold, Verdict
from awq_core.judging.intervals import Estimate, cluster_estimate
from awq_core.judging.verdicts import most_contrary, survives_holm, verdict_of, verdict_of_parts

VERDICTS = (Verdict.SUPPORTED, Verdict.REFUTED, Verdict.INCONCLUSIVE)
# A coarse grid among the values, so that ends often touch thresholds.
VALUES = st.floats(-100, 100) | st.integers(-3, 3).map(float) | st.sampled_from([math.inf, -math.inf])
EDGES = st.floats(-100, 100) | st.integers(-3, 3).map(float)


def drawn(lower: float, upper: float) -> Interval:
    """An interval by its ends; its standard error serves p values alone."""
    return Interval(lower, upper, "drawn", "blocks", 5, standard_error=0.5, degrees_of_freedom=4)


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    lower, upper = sorted([draw(VALUES), draw(VALUES)])
    return drawn(lower, upper)


@st.composite
def thresholds(draw: st.DrawFn) -> Threshold:
    kind = draw(st.sampled_from(["above", "below", "between"]))
    if kind == "between":
        low, high = sorted([draw(EDGES), draw(EDGES)])
        assume(low < high)
        return Threshold(low, high)
    return Threshold(lower=draw(EDGES)) if kind == "above" else Threshold(upper=draw(EDGES))


def verdict_of_points(interval: Interval, threshold: Threshold) -> Verdict:
    """The rule from its meaning: where do all the points of the closed interval lie?"""
    edges = [edge for edge in (threshold.lower, threshold.upper) if edge is not None]
    # The line falls into the open regions between edges, and the edges themselves; an interval is decided when it
    # lies within one region.
    regions = list(itertools.pairwise([-math.inf, *edges, math.inf]))
    inside = (
        -math.inf if threshold.lower is None else threshold.lower,
        math.inf if threshold.upper is None else threshold.upper,
    )
    homes = [
        (a, b)
        for a, b in regions
        if not any(interval.lower <= e <= interval.upper for e in edges) and a <= interval.lower and interval.upper <= b
    ]
    if len(homes) != 1:
        return Verdict.INCONCLUSIVE
    return Verdict.SUPPORTED if homes[0] == inside else Verdict.REFUTED


@given(intervals(), thresholds())
def test_every_interval_gets_exactly_one_verdict(interval: Interval, threshold: Threshold) -> None:
    assume(math.isfinite(interval.lower) and math.isfinite(interval.upper))
    assert verdict_of(interval, threshold) is verdict_of_points(interval, threshold)


@given(intervals(), EDGES)
def test_opposite_claims_get_opposite_verdicts(interval: Interval, edge: float) -> None:
    opposite = {
        Verdict.SUPPORTED: Verdict.REFUTED,
        Verdict.REFUTED: Verdict.SUPPORTED,
        Verdict.INCONCLUSIVE: Verdict.INCONCLUSIVE,
    }
    assume(math.isfinite(interval.lower) and math.isfinite(interval.upper))
    above = verdict_of(interval, Threshold(lower=edge))
    assert verdict_of(interval, Threshold(upper=edge)) is opposite[above]


@given(intervals(), thresholds())
def test_an_end_that_touches_decides_nothing(interval: Interval, threshold: Threshold) -> None:
    for edge in (threshold.lower, threshold.upper):
        if edge is None:
            continue
        if edge >= interval.lower:
            assert verdict_of(replace(interval, upper=edge), threshold) is Verdict.INCONCLUSIVE
        if edge <= interval.upper:
            assert verdict_of(replace(interval, lower=edge), threshold) is Verdict.INCONCLUSIVE


@given(intervals(), thresholds())
def test_a_wider_interval_never_decides_more(interval: Interval, threshold: Threshold) -> None:
    wider = replace(interval, lower=interval.lower - 1, upper=interval.upper + 1)
    if verdict_of(interval, threshold) is Verdict.INCONCLUSIVE:
        assert verdict_of(wider, threshold) is Verdict.INCONCLUSIVE
    else:
        assert verdict_of(wider, threshold) in (Verdict.INCONCLUSIVE, verdict_of(interval, threshold))


def test_a_two_sided_threshold_is_supported_inside_and_refuted_outside() -> None:
    threshold = Threshold(0.001, 0.03)
    cases = {
        (0.002, 0.02): Verdict.SUPPORTED,
        (0.04, 0.05): Verdict.REFUTED,
        (0.0, 0.0005): Verdict.REFUTED,
        (0.0005, 0.01): Verdict.INCONCLUSIVE,
        (0.01, 0.05): Verdict.INCONCLUSIVE,
        (0.0005, 0.05): Verdict.INCONCLUSIVE,
        (0.001, 0.02): Verdict.INCONCLUSIVE,
        (0.002, 0.03): Verdict.INCONCLUSIVE,
    }
    for (lower, upper), expected in cases.items():
        assert verdict_of(drawn(lower, upper), threshold) is expected


@given(st.lists(st.sampled_from(VERDICTS), min_size=1, max_size=6))
def test_parts_are_supported_when_all_are_and_refuted_when_any_is(verdicts: list[Verdict]) -> None:
    together = verdict_of_parts(verdicts)
    assert (together is Verdict.REFUTED) == (Verdict.REFUTED in verdicts)
    assert (together is Verdict.SUPPORTED) == (set(verdicts) == {Verdict.SUPPORTED})
    assert together in VERDICTS
    assert verdict_of_parts(verdicts[::-1]) is together


def test_a_claim_without_parts_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        verdict_of_parts([])


@given(st.floats(), st.floats())
def test_a_nan_or_an_upside_down_interval_is_refused(lower: float, upper: float) -> None:
    if math.isnan(lower) or math.isnan(upper):
        with pytest.raises(ValueError, match="a NaN is an error, never a verdict"):
            drawn(lower, upper)
    elif lower > upper:
        with pytest.raises(ValueError, match="must not exceed"):
            drawn(lower, upper)
    else:
        assert drawn(lower, upper).upper >= lower


@given(st.integers(0, 4), st.sampled_from([math.nan, math.inf]))
def test_a_nan_in_the_measurements_is_refused(place: int, bad: float) -> None:
    values = np.ones(5)
    values[place] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        cluster_estimate(lambda index: values[index].mean(axis=-1), 5, resampled="blocks", seed=0)


def test_a_threshold_needs_a_side() -> None:
    with pytest.raises(ValueError, match="lower or an upper"):
        Threshold()


@given(
    st.lists(st.floats(-5, 5), min_size=4, max_size=8).filter(lambda values: np.ptp(values) > 1e-3),
    st.floats(-5, 5),
    st.booleans(),
)
def test_a_verdict_falls_where_its_p_value_is_under_the_level(values: list[float], edge: float, above: bool) -> None:
    """One scale for both: an interval excludes an edge exactly when p is under 5%."""
    rows = np.array(values)
    estimate = cluster_estimate(lambda index: rows[index].mean(axis=-1), len(rows), resampled="blocks", seed=1)
    threshold = Threshold(lower=edge) if above else Threshold(upper=edge)
    assume(min(abs(estimate.interval.lower - edge), abs(estimate.interval.upper - edge)) > 1e-9)
    decided = verdict_of(estimate.interval, threshold) is not Verdict.INCONCLUSIVE
    assert decided == (estimate.p_value(threshold) < 0.05)


@pytest.mark.parametrize("lower", [0.0, 1.0])
@pytest.mark.parametrize("value", [-2.0, -0.01, 0.1, 49.0])
def test_the_nearer_of_two_edges_decides_the_p_value(lower: float, value: float) -> None:
    """Just outside its range a claim is hardly refuted, however far the other edge lies."""
    estimate = Estimate(lower + value, lambda: drawn(lower - 3, lower + 50))
    two_sided = Threshold(lower, lower + 100)
    expected = 2 * stats.t.sf(abs(value) / 0.5, 4)
    assert estimate.p_value(two_sided) == pytest.approx(expected)
    mirrored = replace(estimate, value=lower + 100 - value)
    assert mirrored.p_value(two_sided) == pytest.approx(expected)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.floats(-5, 5), max_size=9), thresholds())
def test_the_worst_parts_are_those_farthest_on_the_wrong_side(parts: dict[str, float], threshold: Threshold) -> None:
    named = most_contrary(parts, threshold)
    assert len(named) == min(5, len(parts))

    def inside_by(value: float) -> float:
        low = math.inf if threshold.lower is None else value - threshold.lower
        high = math.inf if threshold.upper is None else threshold.upper - value
        return min(low, high)

    margins = [inside_by(item.value) for item in named]
    assert margins == sorted(margins)
    others = [inside_by(value) for name, value in parts.items() if name not in {item.name for item in named}]
    assert all(other >= margins[-1] for other in others)


def holm_by_closed_testing(p_values: list[float], level: float) -> list[bool]:
    """Holm's procedure from its definition: a hypothesis falls when every intersection that holds it falls.

    An intersection of k hypotheses falls by Bonferroni: its least p value is at most level / k.
    """
    indices = range(len(p_values))
    subsets = [s for k in range(1, len(p_values) + 1) for s in itertools.combinations(indices, k)]
    falls = {s: min(p_values[i] for i in s) <= level / len(s) for s in subsets}
    return [all(fallen for s, fallen in falls.items() if i in s) for i in indices]


@given(
    st.lists(st.floats(0, 1) | st.floats(0, 0.06) | st.sampled_from([0.0, 0.01, 0.0125, 0.025, 0.05]), max_size=7),
    st.sampled_from([0.01, 0.05, 0.1]),
)
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float], level: float) -> None:
    assert survives_holm(p_values, level) == holm_by_closed_testing(p_values, level)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_stands_between_bonferroni_and_no_correction(p_values: list[float]) -> None:
    stands = survives_holm(p_values)
    for p, standing in zip(p_values, stands, strict=True):
        assert standing or p > 0.05 / len(p_values)
        assert not standing or p <= 0.05
