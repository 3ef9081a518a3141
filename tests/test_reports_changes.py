"""What counts as a change between two runs: real shifts and moved thresholds do, noise does not."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from awq_core.judging.evidence import Scale, Threshold, Verdict
from awq_core.judging.intervals import cluster_estimate
from awq_core.judging.verdicts import verdict_of
from claims.support.claim import REGISTRY, Setting
from claims.support.judge import judge
from claims.support.readers import exactly
from reports.compare.changes import FLAGGED, Kind, change, comparable, contrast, difference
from tests.estimating import set_channel_everywhere
from tests.hand_made import ROLES, hand_made
from tests.schema_1 import through_schema_1
from tests.synthetic_claim import synthetic_claim, synthetic_interval
from tests.two_runs import around

PAIRS = 200
EIGHT_DEGREES = 3.355 / 2.776
"""Two intervals over 5 blocks: the 99% quantile for their difference over the 95% one for each."""
CLAIMS = {
    # What is resampled, how many, the truth, spread of one cluster, whether the interval is logarithmic, threshold.
    "few blocks": ("blocks", 5, 1.05, 0.03, False, 1.02),
    "many blocks": ("blocks", 24, 1.05, 0.1, False, 1.02),
    "a ratio": ("blocks", 6, 0.7, 0.3, True, 2.0),
    "windows": ("windows", 64, 0.005, 0.02, False, 0.005),
}


def simulated(resampled, clusters, truth, spread, logarithmic, threshold, seed):
    """One run's evidence on data of its own: the clusters are drawn anew around one truth."""
    values = np.random.default_rng(seed).normal(truth, spread, clusters)
    estimate = cluster_estimate(
        lambda index: values[index].mean(axis=-1), clusters, resampled=resampled, seed=seed, logarithmic=logarithmic
    )
    registered = Threshold(lower=threshold)
    return synthetic_claim(
        verdict_of(estimate.interval, registered),
        estimate=estimate.value,
        interval=estimate.interval,
        threshold=registered,
    )


@pytest.fixture(scope="module")
def simulations():
    """For each claim, what became of it in 200 pairs of runs of one truth."""
    return {
        name: [
            change(simulated(*design, seed=2 * pair), simulated(*design, seed=2 * pair + 1)) for pair in range(PAIRS)
        ]
        for name, design in CLAIMS.items()
    }


@pytest.mark.parametrize("name", CLAIMS)
def test_two_runs_of_one_truth_are_rarely_flagged(simulations, name):
    assert sum(found.flagged for found in simulations[name]) < 0.05 * PAIRS


def test_verdicts_drift_within_noise_without_a_flag(simulations):
    # The truth of "windows" lies on its threshold: its verdict passes between undecided and decided.
    drifting = [found for found in simulations["windows"] if found.kinds == (Kind.DRIFT,)]
    assert len(drifting) > 0.02 * PAIRS
    assert not any(found.flagged for found in drifting)


@pytest.mark.parametrize("name", ["few blocks", "many blocks", "windows"])
def test_a_real_shift_is_flagged(name):
    resampled, clusters, truth, spread, logarithmic, threshold = CLAIMS[name]
    moved = truth + 8 * spread / math.sqrt(clusters) * math.sqrt(2)
    found = [
        change(
            simulated(resampled, clusters, truth, spread, logarithmic, threshold, 2 * pair),
            simulated(resampled, clusters, moved, spread, logarithmic, threshold, 2 * pair + 1),
        )
        for pair in range(20)
    ]
    assert sum(Kind.ESTIMATE in one.kinds for one in found) >= 18


@pytest.mark.parametrize("n", [5, 24, 10_001])
def test_the_test_is_welchs_at_99_percent(n):
    quantile = stats.t.ppf(0.975, n - 1)
    spreads = [half / quantile * math.sqrt(n) for half in (0.03, 0.04)]
    for value in np.linspace(1.0, 1.12, 13):
        found = difference(synthetic_claim(**around(1.0, 0.03, n)), synthetic_claim(**around(value, 0.04, n)))
        reference = stats.ttest_ind_from_stats(1.0, spreads[0], n, value, spreads[1], n, equal_var=False)
        assert found.p_value == pytest.approx(reference.pvalue)
        assert found.beyond_noise == (reference.pvalue < 0.01)


def learned_channels(shift):
    """A claim against three untrained twins: blocks are alike, so that 2 degrees of freedom stand behind its error."""
    twins = tuple(hand_made(name="twin") for _ in range(3))
    measured = replace(hand_made(), twins=twins)
    sizes = [10 * math.exp(shift), 2, 3, 4]
    for one, size in zip((measured, *twins), sizes, strict=True):
        for role in ROLES:
            set_channel_everywhere(one, role, {0: size})
    return judge(REGISTRY["learned.channels"], measured, Setting(seed=1)).as_dict()


def test_a_shift_against_the_twins_is_seen_with_the_degrees_of_freedom_of_their_seeds(tmp_path):
    error = np.log([2, 3, 4]).std(ddof=1) / math.sqrt(3)
    before, now = (learned_channels(shift) for shift in (0, 6.8 * error))
    assert before["interval"]["standard_error"] == pytest.approx(error)
    assert before["interval"]["degrees_of_freedom"] == pytest.approx(2)
    assert difference(before, now).noise == pytest.approx(stats.t.ppf(0.995, 4) * math.sqrt(2) * error)  # 6.51 errors
    assert change(before, now).kinds == (Kind.ESTIMATE,)
    # Over n - 1 = 3 degrees, as schema 1 had it, noise was allowed 7.09 errors.
    assert change(*(through_schema_1(tmp_path, claim) for claim in (before, now))).kinds == ()


def test_noise_is_not_flagged_where_two_variances_have_more_degrees_of_freedom_than_clusters(tmp_path):
    # learned.channels on embedded-tiny: 5 blocks and the seeds, 5.275 degrees. Noise is up to 4.43 errors; over n - 1
    # degrees it was 4.32.
    half = float(stats.t.ppf(0.975, 5.275))
    interval = {"standard_error": 1.0, "degrees_of_freedom": 5.275}
    before, now = (
        synthetic_claim(estimate=value, interval=replace(synthetic_interval(value - half, value + half), **interval))
        for value in (10, 14.37)
    )
    assert change(before, now).kinds == ()
    assert change(*(through_schema_1(tmp_path, claim) for claim in (before, now))).kinds == (Kind.ESTIMATE,)


def test_an_estimate_made_on_the_logarithm_is_held_against_one_that_was_not():
    ratio = synthetic_claim(estimate=10.0, interval=synthetic_interval(8.0, 12.5, scale=Scale.LOGARITHM))
    found = difference(ratio, synthetic_claim(**around(11.0, 1.0)))
    assert not found.logarithmic
    errors = 10 * math.log(1.25) / 2.776, 1 / 2.776
    degrees = (errors[0] ** 2 + errors[1] ** 2) ** 2 / ((errors[0] ** 4 + errors[1] ** 4) / 4)
    assert found.noise == pytest.approx(stats.t.ppf(0.995, degrees) * math.hypot(*errors), rel=1e-3)


def test_estimates_made_on_the_logarithm_are_compared_there():
    def ratio(value, factor):
        interval = synthetic_interval(value / factor, value * factor, scale=Scale.LOGARITHM)
        return synthetic_claim(estimate=value, interval=interval)

    found = difference(ratio(10.0, 1.5), ratio(22.0, 1.5))
    assert found.logarithmic
    assert found.noise == pytest.approx(EIGHT_DEGREES * math.sqrt(2) * math.log(1.5), rel=1e-3)
    assert found.beyond_noise  # by a factor of 2.2 where noise allows 2.0; as they stand, 12 where it allows 15
    assert not difference(ratio(10.0, 1.5), ratio(17.0, 1.5)).beyond_noise


def exact(value, **fields):
    return synthetic_claim(estimate=value, interval=exactly(value, "weights", 10).interval, **fields)


@pytest.mark.parametrize(
    ("before", "now", "flagged"),
    [
        (3.72, 3.72, False),
        (3.72, 3.72 * (1 + 1e-12), False),
        (3.72, 3.60, True),
        (0.0, 1.0, True),
        (1e-9, 3e-9, False),  # rounding, far from the threshold
    ],
)
def test_exact_estimates_differ_beyond_rounding(before, now, flagged):
    threshold = Threshold(lower=3.5) if before > 1 else Threshold(upper=1)
    assert change(exact(before, threshold=threshold), exact(now, threshold=threshold)).flagged is flagged


def test_an_exact_estimate_and_one_with_an_interval_share_its_noise():
    wide = synthetic_claim(**around(1.0, 0.1))
    assert not difference(exact(1.16), wide).beyond_noise  # 0.1 * 4.604 / 2.776 is 0.166
    assert difference(exact(1.17), wide).beyond_noise


def test_a_flip_is_flagged_and_drift_is_not():
    supported = synthetic_claim(**around(1.1, 0.1))
    flipped = change(supported, synthetic_claim(Verdict.REFUTED, **around(1.05, 0.1)))
    assert flipped.kinds == (Kind.FLIPPED,)
    assert flipped.says == "refuted, was supported"
    drift = change(supported, synthetic_claim(Verdict.INCONCLUSIVE, **around(1.05, 0.1)))
    assert drift.kinds == (Kind.DRIFT,)
    assert not drift.flagged


def test_a_moved_threshold_and_version_are_flagged_by_name():
    before = synthetic_claim(**around(1.3, 0.1))
    moved = change(before, synthetic_claim(**around(1.3, 0.1), threshold=Threshold(lower=1.05), version=2))
    assert moved.kinds == (Kind.VERSION, Kind.THRESHOLD)
    assert moved.says == "version 1 → 2; threshold above 1.02 → above 1.05"


def test_new_removed_and_unjudged_claims_are_flagged():
    judged, lacking = synthetic_claim(), synthetic_claim(Verdict.NOT_APPLICABLE)
    assert change(None, judged).kinds == (Kind.NEW,)
    assert change(judged, None).kinds == (Kind.REMOVED,)
    assert change(None, None).kinds == ()
    gone = change(judged, lacking)
    assert gone.kinds == (Kind.UNJUDGED,)
    assert gone.says == "not applicable, was supported; needs a gate"
    assert change(lacking, judged).kinds == (Kind.JUDGED,)
    assert change(lacking, synthetic_claim(Verdict.INSUFFICIENT)).kinds == ()
    assert {Kind.NEW, Kind.REMOVED, Kind.JUDGED, Kind.UNJUDGED} <= FLAGGED


def test_a_reported_quantity_never_changes():
    reported = [
        synthetic_claim(Verdict.REPORTED, estimate=value, interval=None, threshold=None) for value in (0.2, 0.9)
    ]
    assert change(*reported).kinds == ()


def test_another_linear_is_named():
    before, now = (synthetic_claim(**around(value, 0.1), linear=name) for name, value in (("a", 1.3), ("b", 2.3)))
    assert change(before, now).says.endswith("linear b, was a")


def test_a_claim_about_other_sizes_is_not_compared():
    before = synthetic_claim(models=("tiny", "small"), **around(1.3, 0.1))
    now = synthetic_claim(Verdict.REFUTED, models=("small", "large"), **around(0.3, 0.1))
    found = change(before, now)
    assert found.kinds == (Kind.OTHER_SIZES,)
    assert not found.flagged


def test_a_pair_s_claim_asked_of_one_size_is_no_change():
    before = synthetic_claim(models=("tiny", "small"), **around(1.3, 0.1))
    now = synthetic_claim(Verdict.NOT_APPLICABLE, models=("tiny",))
    for found in (change(before, now), change(now, before)):
        assert found.kinds == (Kind.OTHER_SIZES,)
        assert not found.flagged


def test_between_models_nothing_is_a_change():
    supported, refuted = synthetic_claim(), synthetic_claim(Verdict.REFUTED)
    found = contrast(supported, refuted)
    assert found.kinds == (Kind.DIFFERS,)
    assert not found.flagged
    assert contrast(supported, supported).kinds == ()
    assert contrast(supported, None).kinds == ()
    assert comparable(supported, refuted)
    assert not comparable(supported, synthetic_claim(Verdict.NOT_APPLICABLE))
    pair = synthetic_claim(models=("tiny", "small"))
    assert not comparable(pair, pair)
