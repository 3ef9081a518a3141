"""How verdicts are worded, and what the answer's sentence says."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from awq_core.judging.evidence import Threshold, Verdict
from claims.support.readers import exactly
from reports.answer import METHODS, answer, perplexity_words
from reports.false_verdicts import trust, with_holm
from reports.plugin import status
from reports.verdict_words import catalogue_order, interval_text, number, words
from tests.hand_made import lifelike
from tests.synthetic_claim import synthetic_claim, synthetic_interval


def report_of(claim, outcome, *, xfail=False):
    report = SimpleNamespace(
        user_properties=[("claim", claim)] if claim else [],
        when="call",
        passed=outcome == "passed",
        failed=outcome == "failed",
        skipped=outcome == "skipped",
    )
    if xfail:
        report.wasxfail = "registered"
    return report


@pytest.mark.parametrize(
    ("verdict", "registered", "outcome", "xfail", "expected"),
    [
        (Verdict.SUPPORTED, None, "passed", False, ("passed", ".", "SUPPORTED")),
        (Verdict.SUPPORTED, "supported", "passed", False, ("passed", ".", "SUPPORTED")),
        (Verdict.SUPPORTED, "refuted", "failed", False, ("failed", "F", "SUPPORTED (registered as refuted)")),
        (Verdict.REFUTED, None, "failed", False, ("failed", "F", "REFUTED")),
        (Verdict.REFUTED, "refuted", "passed", False, ("registered", "r", "REFUTED (registered)")),
        (Verdict.REFUTED, "refuted", "skipped", True, ("xfailed", "x", "REFUTED (registered)")),
        (Verdict.INCONCLUSIVE, None, "passed", False, ("inconclusive", "?", "INCONCLUSIVE")),
        (Verdict.INCONCLUSIVE, None, "failed", False, ("failed", "F", "INCONCLUSIVE")),
        (Verdict.INCONCLUSIVE, "refuted", "failed", False, ("failed", "F", "INCONCLUSIVE (registered as refuted)")),
        (Verdict.INSUFFICIENT, None, "skipped", False, ("skipped", "s", "NO VERDICT")),
        (Verdict.NOT_APPLICABLE, None, "skipped", False, ("skipped", "s", "NO VERDICT")),
        (Verdict.REPORTED, None, "passed", False, ("reported", "i", "REPORTED")),
    ],
)
def test_the_terminal_says_the_verdict(verdict, registered, outcome, xfail, expected):
    assert status(report_of(synthetic_claim(verdict, registered=registered), outcome, xfail=xfail)) == expected


def test_other_tests_keep_pytests_own_words_and_reports_say_why_there_is_no_verdict():
    assert status(report_of(None, "passed")) is None
    lacking = [synthetic_claim(verdict) for verdict in (Verdict.INSUFFICIENT, Verdict.NOT_APPLICABLE)]
    assert [words(claim) for claim in lacking] == ["INSUFFICIENT DATA", "NOT APPLICABLE"]


def test_numbers_keep_four_digits_and_a_true_minus():
    assert [number(value) for value in (None, 0.0, 1.23456, -0.00214, 12345.6, 3.14e-6)] == [
        "", "0", "1.235", "−0.00214", "12,346", "3.14e−06",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lower", "upper", "text"),
    [
        (1.0, 1.04, "[1, 1.04]"),
        (1.0189, 1.0201, "[1.019, 1.0201]"),
        (1.02, 1.5, "[1.02, 1.5]"),  # on the threshold is on the threshold
        (1.02000001, 2.0, "[1.02, 2]"),  # as near as makes no difference
    ],
)
def test_an_end_of_an_interval_is_seen_apart_from_the_threshold(lower, upper, text):
    claim = synthetic_claim(interval=synthetic_interval(lower, upper), threshold=Threshold(lower=1.02))
    assert interval_text(claim, 3) == text


def test_the_catalogue_gives_the_order_and_the_deployed_precision_comes_first():
    keys = [("constant-alpha.half", 4), ("payoff.layers", 3), ("payoff.layers", 4), ("concentration.few-large", None)]
    claims = sorted((synthetic_claim(id=id, bits=bits) for id, bits in keys), key=catalogue_order)
    assert [claim["key"] for claim in claims] == [
        "concentration.few-large", "payoff.layers@4", "payoff.layers@3", "constant-alpha.half@4",
    ]  # fmt: skip


def test_holm_marks_what_survives_over_all_claims_judged():
    marked = with_holm(
        [
            synthetic_claim(p_value=0.001),
            synthetic_claim(Verdict.REFUTED, id="payoff.honest", p_value=0.02),
            synthetic_claim(id="payoff.most-layers", p_value=0.04),
            synthetic_claim(Verdict.INSUFFICIENT, id="payoff.logits"),
        ]
    )
    # 0.001 <= 0.05/3, 0.02 <= 0.05/2, 0.04 <= 0.05/1.
    assert [claim["survives_holm"] for claim in marked] == [True, True, True, None]
    marked = with_holm([*marked, synthetic_claim(Verdict.INCONCLUSIVE, id="payoff.one-layer", p_value=0.6)])
    assert [claim["survives_holm"] for claim in marked] == [True, False, False, None, False]


def test_the_sentence_on_trust_counts_what_was_judged():
    claims = with_holm([synthetic_claim(id=f"payoff.c{i}", p_value=1e-6) for i in range(40)])
    assert trust(claims).sentence == (
        "With 40 claims judged by 95% intervals, up to about 2 may come out false by chance; 40 of 40 decided verdicts "
        "survive Holm's correction."
    )
    assert trust([synthetic_claim(Verdict.INSUFFICIENT)]).sentence == "No claim was judged."


def test_exact_values_are_no_matter_of_chance():
    exact = exactly(3.8, "linears", 35).interval
    size = synthetic_claim(id="bits.four-times-smaller", p_value=0.0, interval=exact)
    judged = synthetic_claim(id="payoff.honest", p_value=0.04)
    claims = with_holm([size, judged])
    assert [claim["survives_holm"] for claim in claims] == [None, True]  # 0.04 <= 0.05 / 1
    assert trust(claims).sentence == (
        "With 1 claim judged by 95% intervals, up to one may come out false by chance; 1 of 1 decided verdicts survive "
        "Holm's correction. Another 1 claim is exact: computed, not sampled."
    )
    assert trust([size]).sentence == "No claim was judged by an interval; 1 claim is exact: computed, not sampled."
    assert trust([size, size]).sentence.endswith("2 claims are exact: computed, not sampled.")


def answered(measured, claims):
    return answer(measured.name, measured, claims)


def decisive(verdict, id="payoff.perplexity", **fields):
    threshold = {"lower": 0.004, "upper": None, "text": "above 0.004"}
    return synthetic_claim(verdict, id=id, bits=4, threshold=threshold, **fields)


@pytest.mark.parametrize(
    ("verdict", "last_words"),
    [
        (Verdict.SUPPORTED, "AWQ's scales are worth it on this model: they improve the loss by more than 0.004 nats."),
        (
            Verdict.REFUTED,
            "AWQ's scales are not worth it on this model: they improve the loss by less than 0.004 nats.",
        ),
        (Verdict.INCONCLUSIVE, "cannot be told from this much text."),
        (Verdict.INSUFFICIENT, "could not be judged: 3 blocks measured, at least 4 needed."),
    ],
)
def test_the_claim_on_perplexity_decides_the_answer(verdict, last_words):
    measured = lifelike()
    got = answered(measured, [decisive(verdict)])
    assert last_words in got.sentence
    losses = measured.losses["window_loss"].mean("window")
    mean = {str(name): float(losses.sel(strategy=name)) for name in losses["strategy"].values}
    assert f"perplexity {np.exp(mean['full']):.2f} in full precision: " in got.sentence
    lost = mean["rtn-4"] - mean["full"]
    for strategy, method in METHODS.items():
        assert f"{np.exp(mean[strategy]):.2f} with {method}" in got.sentence
        cost = got.costs[strategy]
        assert cost.perplexity == pytest.approx(np.exp(mean[strategy]))
        assert cost.gap == pytest.approx(mean[strategy] - mean["full"])
        if strategy != "rtn-4":
            assert cost.won_back == pytest.approx((mean["rtn-4"] - mean[strategy]) / lost)
            assert f"{cost.won_back:.0%} by {method}" in got.sentence


def test_every_method_is_held_against_the_others_on_the_windows_of_all():
    """However much better a method is elsewhere."""
    measured = lifelike()
    loss = measured.losses["window_loss"]
    half = loss.sizes["window"] // 2
    some = {"window": slice(half)}
    full, rtn = (loss.sel(strategy=name).values.copy() for name in ("full", "rtn-4"))
    loss.loc[{"strategy": "rtn-4", "window": slice(half, None)}] += 0.01
    loss.loc[{"strategy": "awq-block-clip-4"}] = rtn - 0.3 * (rtn - full)
    loss.loc[{"strategy": "awq-block-clip-4", "window": slice(half, None)}] = np.nan
    measured = replace(measured, losses=measured.losses.assign_attrs(looks='{"count": 2}'))
    got = answered(measured, [])
    assert got.costs["awq-block-clip-4"].won_back == pytest.approx(0.3)
    assert got.full == pytest.approx(np.exp(full[:half].mean()))
    assert got.costs["gptq-4"].perplexity == pytest.approx(np.exp(loss.sel(strategy="gptq-4").isel(some).mean()))
    assert f", on the {half} of {loss.sizes['window']} windows that all were scored on." in got.sentence


def advised(**gaps):
    """The advice where methods cost so many nats beyond full precision, with noise where a pair is given."""
    measured = lifelike()
    loss = measured.losses["window_loss"]
    signs = np.resize([1.0, -1.0], loss.sizes["window"])
    for method, gap in zip(METHODS, (gaps[name] for name in ("rtn", "clip", "scales", "both", "gptq")), strict=True):
        mean, noise = gap if isinstance(gap, tuple) else (gap, 0.0)
        loss.loc[{"strategy": method}] = loss.sel(strategy="full") + mean + noise * signs
    return answered(measured, []).sentence


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        (
            {"rtn": 0.10, "clip": 0.06, "scales": 0.08, "both": 0.04, "gptq": 0.05},
            "AWQ as published (both) loses least here, 0.0100 nats [0.0100, 0.0100] less than GPTQ. "
            "Advice: AWQ as published (both).",
        ),
        (
            {"rtn": 0.10, "clip": 0.042, "scales": 0.08, "both": 0.04, "gptq": 0.05},
            "Advice: clipping alone, the simplest that is surely within 0.005 nats of it.",
        ),
        ({"rtn": 0.10, "clip": 0.15, "scales": 0.05, "both": 0.09, "gptq": 0.09}, "Advice: AWQ's scales."),
        ({"rtn": 0.05, "clip": 0.03, "scales": 0.07, "both": 0.06, "gptq": 0.052}, "Advice: clipping alone."),
        (
            {"rtn": 0.004, "clip": 0.003, "scales": 0.002, "both": 0.001, "gptq": 0.002},
            "Advice: rounding to nearest (RTN), the simplest that is surely",
        ),
        (
            {"rtn": 0.10, "clip": (0.047, 0.02), "scales": 0.08, "both": 0.04, "gptq": 0.05},
            "Advice: AWQ as published (both); whether clipping alone would do as well cannot be told",
        ),
    ],
)
def test_the_advice_is_the_simplest_checkpoint_that_is_as_good(gaps, words):
    assert words in advised(**gaps)


def test_without_all_methods_there_is_no_advice():
    measured = lifelike()
    some = replace(measured, losses=measured.losses.drop_sel(strategy=["gptq-4"]))
    assert "Advice" in answered(measured, []).sentence
    assert "Advice" not in answered(some, []).sentence


@pytest.mark.parametrize("losses", [True, False])
def test_the_answer_says_that_the_weights_were_dequantized(losses):
    measured = lifelike()
    if not losses:
        measured = replace(measured, losses=None)
    claims = [decisive(Verdict.SUPPORTED)]
    rounded = replace(measured, provenance={**measured.provenance, "dequantized": "Q4_1 in 3 of 4 tensors"})
    plain, said = (answered(one, claims).sentence for one in (measured, rounded))
    assert said == f"{plain} Its weights were rounded before (Q4_1 in 3 of 4 tensors) and dequantized."
    unrounded = replace(measured, provenance={**measured.provenance, "dequantized": ""})
    assert answered(unrounded, claims).sentence == plain


def test_the_answer_where_rounding_costs_next_to_nothing():
    measured = lifelike(rtn_gap=0.004)
    words = "RTN costs less than 0.01 nats here: nothing worth recovering."
    assert words in answered(measured, [decisive(Verdict.INSUFFICIENT)]).sentence


@pytest.mark.parametrize(
    ("rtn_gap", "verdict", "reason", "words"),
    [
        (0.004, Verdict.INSUFFICIENT, "", "RTN costs less than 0.01 nats here: nothing worth recovering."),
        (-0.004, Verdict.INSUFFICIENT, "", "RTN costs less than 0.01 nats here: nothing worth recovering."),
        (0.02, Verdict.INSUFFICIENT, "RTN may cost nothing", "could not be judged: RTN may cost nothing."),
        (0.1, None, "", "Whether AWQ's scales are worth it was not judged in this run."),
        (0.004, None, "", "Whether AWQ's scales are worth it was not judged in this run."),
    ],
)
def test_the_answer_where_awq_was_not_scored(rtn_gap, verdict, reason, words):
    measured = lifelike(rtn_gap=abs(rtn_gap))
    assert measured.losses is not None
    loss = measured.losses["window_loss"]
    loss.loc[{"strategy": "rtn-4"}] = loss.sel(strategy="full") + rtn_gap
    calibrated = [name for name in METHODS if name != "rtn-4"]
    without = replace(measured, losses=measured.losses.drop_sel(strategy=calibrated))
    claims = [] if verdict is None else [{**decisive(verdict), "reason": reason}]
    got = answer(measured.name, without, claims)
    assert got.sentence.endswith(words)
    assert got.full is not None
    assert list(got.costs) == ["rtn-4"]
    assert got.costs["rtn-4"].perplexity == pytest.approx(got.full * np.exp(rtn_gap))
    assert ("RTN costs nothing here" in got.sentence) == (rtn_gap <= 0)


def test_a_model_that_is_worse_than_guessing_is_not_told_that_rounding_is_free():
    measured = lifelike(rtn_gap=0.004)
    perplexity = answered(measured, []).full
    assert perplexity is not None
    warning = f"above the vocabulary's {int(perplexity):,} tokens is worse than guessing"
    for vocabulary, warned in ((int(perplexity), True), (int(perplexity) + 1, False), (None, False)):
        known = replace(measured, provenance={**measured.provenance, "vocabulary": vocabulary})
        for losses in (measured.losses, measured.losses.sel(strategy=["full", "rtn-4"])):
            assert (warning in answer(known.name, replace(known, losses=losses), []).sentence) == warned


def test_the_answer_says_on_how_many_windows_where_not_on_all():
    measured = lifelike()
    assert " windows" not in answered(measured, []).sentence
    losses = measured.losses
    some = losses.assign(window_loss=losses["window_loss"].where(losses["window"] < 16))
    some = some.assign_attrs(looks='{"count": 2}')
    for strategies in (losses["strategy"].values, ["full", "rtn-4"]):
        found = answer(measured.name, replace(measured, losses=some.sel(strategy=strategies)), [])
        assert f", on the 16 of {losses.sizes['window']} windows that all were scored on." in found.sentence


def test_the_answer_says_so_where_awq_makes_it_worse():
    measured = lifelike()
    loss = measured.losses["window_loss"]
    loss.loc[{"strategy": "awq-block-4"}] = loss.sel(strategy="rtn-4") + 0.01
    assert "lost on top: " in answered(measured, [decisive(Verdict.REFUTED)]).sentence


def test_the_answer_without_losses_or_verdict_says_that_too():
    measured = lifelike(with_losses=False)
    assert "perplexity was not measured on synthetic-small" in answered(measured, []).sentence
    assert "perplexity was not measured" in answer("gone", None, []).sentence
    assert "was not judged in this run." in answer("synthetic-small", lifelike(), []).sentence


def test_perplexities_have_sensible_digits():
    assert [perplexity_words(value) for value in (1.2345678, 15.849, 12345.6, np.inf)] == [
        "1.2346", "15.85", "12,346", "beyond measure",
    ]  # fmt: skip
