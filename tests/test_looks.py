"""Looks: which windows are scored when, what is read at each, and claims judged look by look on hand-made losses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from awq_core.judging.evidence import WITH_CLIPPING, Evidence, Interval, Verdict
from awq_core.judging.intervals import cluster_estimate
from awq_core.judging.metrics import mean_loss, window_differences
from awq_core.judging.verdicts import verdict_of
from awq_core.measure.methods.looks import (
    Looks,
    NotScoredError,
    at_look,
    count_of,
    is_last,
    on_common_windows,
    registered_looks,
)
from awq_core.measured import Measured
from claims.support.catalogue import whole_catalogue
from claims.support.claim import Setting
from claims.support.judge import judge
from claims.support.outcome import failure_message
from claims.support.undecided import claims_about_models, still_wanted
from fixtures.texts.effort import EFFORTS
from reports.answer import METHODS
from tests.hand_made import hand_made

WINDOWS = 64
LOOKS = registered_looks(WINDOWS, operations=10, most=None)
CATALOGUE = whole_catalogue()


@pytest.mark.parametrize(
    ("windows", "operations", "most", "expected"),
    [
        (64, 10, 20, (16, 32, 64)),
        (64, 10**9, None, (16, 32, 64)),  # no limit
        (128, 11, 11, (16, 32, 64, 128)),
        (146, 11, None, (16, 32, 64, 146)),  # 128 and 146 would be two looks at nearly the same
        (64, 40, 20, (16, 32)),  # half of the windows are affordable
        (64, 40, 14, (22,)),
        (64, 4000, 20, (16,)),  # the first look is made in any case
        (20, 11, None, (20,)),
        (5, 11, None, (5,)),
        (24, 11, None, (16, 24)),
    ],
)
def test_looks_follow_from_counts_alone(
    windows: int, operations: int, most: int | None, expected: tuple[int, ...]
) -> None:
    looks = registered_looks(windows, operations, most)
    assert looks.windows == expected
    assert looks == Looks(expected, windows, operations, most)
    new = [set(looks.new_windows(look).tolist()) for look in range(looks.count)]
    assert [len(found) for found in new] == np.diff([0, *expected]).tolist()
    assert len(set.union(*new)) == expected[-1]  # no window twice
    at = looks.window_look()
    assert all(set(np.flatnonzero(at == look)) == found for look, found in enumerate(new))
    assert (at == looks.count).sum() == windows - expected[-1]


def test_the_first_look_lies_spread_over_the_text() -> None:
    first = np.sort(LOOKS.new_windows(0))
    assert np.diff([-1, *first, WINDOWS]).max() <= 2 * WINDOWS / len(first)


def operations(parameters: float, heldout_tokens: int) -> int:
    return int(2 * parameters * 56 * heldout_tokens)


def test_every_model_is_read_at_all_looks_unless_it_is_large() -> None:
    quick = EFFORTS["quick"].most_operations
    for parameters, expected in ((2e6, (16, 32, 64)), (494e6, (16, 32, 64)), (7e9, (16,))):
        assert registered_looks(64, operations(parameters, 16_384), quick).windows == expected
    assert EFFORTS["paper"].most_operations is None


# reading


def looked(gaps: dict[str, float], through: dict[str, int] | int = 2, spread: float = 0.02) -> Measured:
    """Measurements whose losses were scored look by look.

    Args:
        gaps: by strategy, its mean loss beyond full precision's; others lose nothing.
        through: the last look, from 0, at which each strategy was scored (-1: at none); or one for all.
        spread: standard deviation over windows of every strategy's gap, nats.
    """
    measured = hand_made()
    assert measured.losses is not None
    names = [str(name) for name in measured.losses["strategy"].values]
    rng = np.random.default_rng(0)
    full = rng.normal(3.0, 0.5, WINDOWS)
    noise = rng.normal(0, spread, (len(names), WINDOWS))
    loss = full + noise + np.array([[gaps.get(name, 0.0)] for name in names])
    loss[names.index("full")] = full
    at = LOOKS.window_look()
    for row, name in enumerate(names):
        last = through if isinstance(through, int) else through.get(name, -1)
        loss[row, at > last] = np.nan
    searched = {
        name: {"seconds": 1.0, "operations": 1}
        for name, row in zip(names, loss, strict=True)
        if not np.isnan(row).all()
    }
    losses = xr.Dataset(
        {"window_loss": (("strategy", "window"), loss), "window_kl": (("strategy", "window"), abs(loss - full))},
        {"strategy": names, "window_look": ("window", at)},
        {**measured.losses.attrs, "cost": json.dumps(searched), "looks": json.dumps(LOOKS.as_dict())},
    )
    return replace(measured, losses=losses)


def test_a_look_has_its_windows_and_those_before() -> None:
    losses = looked({"rtn-4": 0.1}).losses
    assert losses is not None
    assert count_of(losses) == 3
    assert [at_look(losses, look).sizes["window"] for look in range(3)] == [16, 32, 64]
    assert [is_last(at_look(losses, look)) for look in range(3)] == [False, False, True]
    assert is_last(losses)
    single = hand_made().losses
    assert single is not None
    assert at_look(single, 0) is single
    assert (count_of(single), is_last(single), count_of(None)) == (1, True, 1)


def test_strategies_are_read_on_the_windows_that_both_have() -> None:
    measured = looked({"rtn-4": 0.1, "awq-block-4": 0.05}, {"full": 2, "rtn-4": 1, "awq-block-4": 0})
    losses = measured.losses
    assert losses is not None
    assert [len(found) for found in on_common_windows(losses, ["full", "rtn-4"], "window_loss")] == [32, 32]
    assert len(window_differences(measured, "awq-block-4")) == 16
    with pytest.raises(NotScoredError, match="not scored at look 3: full, gptq-4"):
        on_common_windows(losses, ["full", "gptq-4"], "window_loss")
    # A claim at one look needs all of its windows: what lacks some is named.
    with pytest.raises(NotScoredError) as lack:
        on_common_windows(at_look(losses, 1), ["full", "rtn-4", "awq-block-4", "gptq-4"], "window_loss")
    assert (lack.value.strategies, lack.value.look) == (("awq-block-4", "gptq-4"), 1)
    assert len(on_common_windows(at_look(losses, 0), ["awq-block-4"], "window_loss")[0]) == 16


def test_a_mean_loss_does_not_hang_on_which_windows_were_scored() -> None:
    measured = looked({"rtn-4": 0.1}, {"full": 2, "rtn-4": 0}, spread=0.001)
    assert measured.losses is not None
    full = float(measured.losses["window_loss"].sel(strategy="full").mean())
    on_its_own = float(measured.losses["window_loss"].sel(strategy="rtn-4").mean())
    assert mean_loss(measured, "full") == pytest.approx(full)
    assert mean_loss(measured, "rtn-4") == pytest.approx(full + 0.1, abs=0.001)
    assert abs(on_its_own - full - 0.1) > 0.01


# intervals


def test_each_look_has_a_wider_interval_and_the_p_value_goes_with_it() -> None:
    values = np.random.default_rng(1).normal(0.02, 0.05, 32)

    def estimate(looks: int) -> Interval:
        return cluster_estimate(
            lambda index: values[index].mean(axis=-1), 32, resampled="windows", seed=0, looks=looks
        ).interval

    one, three = estimate(1), estimate(3)
    assert (one.level, one.looks, one.in_words) == (0.95, 1, "95% interval")
    assert three.level == pytest.approx(1 - 0.05 / 3)
    assert three.in_words == "98.33% interval (95% over 3 looks)"
    assert three.lower < one.lower < one.upper < three.upper


@pytest.mark.parametrize("looks", [1, 3, 4])
@pytest.mark.parametrize("mean", [0.0, 0.01, 0.02, 0.03, 0.05])
def test_a_verdict_stands_exactly_where_its_p_value_is_below_five_percent(looks: int, mean: float) -> None:
    threshold = CATALOGUE["payoff.perplexity"].threshold
    assert threshold is not None
    values = np.random.default_rng(2).normal(mean, 0.05, 32)
    estimate = cluster_estimate(lambda index: values[index].mean(axis=-1), 32, resampled="windows", seed=0, looks=looks)
    decided = verdict_of(estimate.interval, threshold) is not Verdict.INCONCLUSIVE
    assert decided == (estimate.p_value(threshold) < 0.05)


# judging


def judged(name: str, measured: Measured, bits: int | None = 4) -> Evidence:
    return judge(CATALOGUE[name], measured, Setting(bits), beside=False)


CLEAR = {"rtn-4": 0.3, "awq-block-4": 0.1, "awq-block-clip-4": 0.1, "awq-linear-4": 0.1}


def test_a_clear_claim_is_decided_at_the_first_look_whatever_else_was_scored() -> None:
    early, all_of_it = (judged("payoff.two-to-five", looked(CLEAR, through)) for through in (0, 2))
    assert early == all_of_it
    assert early.verdict is Verdict.SUPPORTED
    assert early.interval is not None
    assert (early.interval.n, early.interval.look, early.interval.looks) == (16, 1, 3)
    with_clipping = early.variants[WITH_CLIPPING].interval
    assert with_clipping is not None
    assert (with_clipping.n, with_clipping.look) == (16, 1)
    assert early == Evidence.from_dict(early.as_dict())


def test_an_undecided_claim_goes_on_to_the_last_look() -> None:
    unclear = CLEAR | {"awq-block-4": 0.295}
    evidence = judged("payoff.perplexity", looked(unclear))
    assert evidence.verdict is Verdict.INCONCLUSIVE
    assert evidence.interval is not None
    assert (evidence.interval.n, evidence.interval.look, evidence.interval.looks) == (64, 3, 3)
    assert "98.33% interval (95% over 3 looks) [" in failure_message(evidence)
    with pytest.raises(NotScoredError) as lack:
        judged("payoff.perplexity", looked(unclear, 0))
    assert lack.value.look == 1
    assert set(lack.value.strategies) == {"full", "rtn-4"}  # the precondition, at this look too


def test_every_reading_of_windows_is_at_the_look_s_level() -> None:
    gaps = {f"{method}-{bits}": 0.3 for method in ("rtn", "awq-block") for bits in (3, 4)}
    measured = looked(gaps, spread=0.2)
    for claim in CATALOGUE.values():
        if claim.level == "model" and "losses" in claim.reads:
            for bits in claim.bits or (None,):
                evidence = judged(claim.id, measured, bits)
                if evidence.interval is not None and evidence.interval.resampled == "windows":
                    assert evidence.interval.looks == 3, claim.id
                    assert evidence.interval.n in LOOKS.windows


# what is still wanted

ABOUT_MODELS = claims_about_models(
    (claim, Setting(bits)) for claim in CATALOGUE.values() for bits in claim.bits or (None,)
)


ALWAYS = {"awq-block-3", "awq-block-clip-3", "awq-block-4", "awq-block-clip-4", "gptq-4"}
"""What claims about quality, and about how long searches take, read whatever there is to recover."""


def test_only_round_to_nearest_is_wanted_before_it_is_known_to_cost_something() -> None:
    nothing = still_wanted(ABOUT_MODELS)(looked({}, -1))
    assert set(nothing) - {"full", "rtn-3", "rtn-4"} <= ALWAYS
    undecided = looked({"rtn-3": 0.01, "rtn-4": 0.01}, {"full": 0, "rtn-3": 0, "rtn-4": 0}, spread=0.05)
    wanted = still_wanted(ABOUT_MODELS)(undecided)
    assert {wanted[name] for name in ("full", "rtn-3", "rtn-4")} == {1}
    assert not any(name.startswith("keep") for name in wanted)


def test_nothing_is_wanted_where_there_is_nothing_to_recover() -> None:
    through = {"full": 0, "rtn-3": 0, "rtn-4": 0}
    measured = looked({"rtn-3": 0.5, "rtn-4": 0.002}, through, spread=0.002)
    wanted = still_wanted(ABOUT_MODELS)(measured)
    assert {name for name in wanted if name.endswith("-3")} >= {"awq-block-3", "keep-random2-3", "gptq-foreign-3"}
    assert {name for name in wanted if name.endswith("-4")} <= ALWAYS
    assert judged("payoff.perplexity", measured).verdict is Verdict.INSUFFICIENT


def test_a_precondition_that_no_look_settles_is_settled_by_the_last() -> None:
    measured = looked(CLEAR | {"rtn-4": 0.008}, spread=0.03)
    evidence = judged("payoff.perplexity", measured)
    assert evidence.verdict is not Verdict.INSUFFICIENT
    assert evidence.interval is not None
    assert (evidence.interval.n, evidence.interval.look, evidence.interval.looks) == (64, 3, 3)


def scored_as_wanted(gaps: dict[str, float], spread: float) -> dict[str, int]:
    """Through which look each strategy is scored, once everything that is wanted has been."""
    through: dict[str, int] = {}
    wanted_of = still_wanted(ABOUT_MODELS)
    while wanted := wanted_of(looked(gaps, through, spread)):
        # A claim that is decided is not asked again: asked anew, all claims want the same.
        assert wanted == still_wanted(ABOUT_MODELS)(looked(gaps, through, spread))
        assert all(through.get(name, -1) < look for name, look in wanted.items())  # never what is there
        through |= wanted
    return through


def test_only_what_an_undecided_claim_reads_is_scored_further() -> None:
    clear = {f"{method}-{bits}": 0.3 for method in ("rtn", "awq-constant-everywhere") for bits in (3, 4)}
    clear |= {
        f"keep-{choice}-{bits}": 0.3 for choice in ("weight", *(f"random{i}" for i in range(9))) for bits in (3, 4)
    }
    unclear = scored_as_wanted(clear | {"awq-block-4": 0.295}, spread=0.01)
    assert {unclear[name] for name in ("full", "rtn-4", "awq-block-4", "awq-block-clip-4", "awq-linear-4")} == {2}
    assert {look for name, look in unclear.items() if name.startswith("keep")} == {0}
    assert unclear["awq-constant-everywhere-3"] == 0
    assert "awq-half-4" not in unclear  # no claim reads it


def test_what_the_answer_compares_is_scored_on_all_windows_once_its_claim_has_a_verdict() -> None:
    asked = [(CATALOGUE["payoff.perplexity"], Setting(4))]
    through = dict.fromkeys(("full", "rtn-4", "awq-block-4", "awq-linear-4"), 0)
    assert still_wanted(asked)(looked(CLEAR, through)) == dict.fromkeys(["full", *METHODS], 2)
    assert still_wanted(asked)(looked(CLEAR)) == {}
    assert still_wanted(asked)(looked({"rtn-4": 0.002}, through, spread=0.002)) == {}  # nothing to recover


def test_a_comparison_of_two_sizes_asks_for_every_claim_about_a_model() -> None:
    asked = claims_about_models([(CATALOGUE["replication.verdicts"], Setting())])
    assert {claim.id for claim, _ in asked} == {claim.id for claim in CATALOGUE.values() if claim.level == "model"}
    assert claims_about_models([(CATALOGUE["replication.profile"], Setting())]) == []
