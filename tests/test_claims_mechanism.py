"""Mechanism and bits on measurements made by hand, where every estimate is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from awq_core.judging.evidence import WITH_CLIPPING, Threshold, Verdict
from awq_core.judging.verdicts import verdict_of
from awq_core.measured import Measured
from claims.support.claim import REGISTRY, NotApplicableError, Setting
from claims.support.judge import judge
from claims.support.worked_examples import EXAMPLES
from tests.estimating import OF_QUALITY, damaged, estimate, verdict
from tests.hand_made import ROLES, WINDOWS, hand_made, set_attribute, set_errors, set_gap, set_losses, set_mechanism


def test_equivalence_is_the_difference_over_what_the_dtype_allows() -> None:
    measured = hand_made()
    set_attribute(measured, "folding", largest_difference=2e-4, tolerance=1e-3, dtype="float32", tokens=512)
    got = estimate("mechanism.equivalence", measured)
    assert got.value == pytest.approx(0.2)
    assert (got.interval.lower, got.interval.upper, got.interval.n) == (got.value, got.value, 512)
    assert got.readings == {"largest difference over the largest logit": 2e-4, "what float32 allows": 1e-3}
    assert verdict("mechanism.equivalence", measured) is Verdict.SUPPORTED
    set_attribute(measured, "folding", largest_difference=2e-3)
    assert verdict("mechanism.equivalence", measured) is Verdict.REFUTED


def test_direction_holds_scaling_down_against_both() -> None:
    measured = hand_made()
    set_errors(measured, 0.8, alpha=0.5, bits=3, quantizer="asym-g128")
    set_mechanism(measured, "inverse_error", 1.3, judged_bits=3, inverse_alpha=0.5, split="heldout")
    set_mechanism(measured, "inverse_error", 9.0, judged_bits=3, inverse_alpha=1.0)  # another exponent
    set_mechanism(measured, "inverse_error", 99.0, linear="0.q", judged_bits=3)  # one linear moves no median
    parts = estimate("mechanism.direction", measured, 3)
    assert {name: part.value for name, part in parts.items()} == {
        "RTN, with 2% to spare": pytest.approx(math.log(1.3 / 1.02)),
        "scaled up": pytest.approx(math.log(1.3 / 0.8)),
    }
    assert parts["scaled up"].readings == {"median e(1/s) / e(RTN)": 1.3, "median e(s) / e(RTN)": 0.8}
    assert verdict("mechanism.direction", measured, 3) is Verdict.SUPPORTED
    set_mechanism(measured, "inverse_error", 1.01, judged_bits=3, inverse_alpha=0.5)  # worse, but within 2%
    assert verdict("mechanism.direction", measured, 3) is Verdict.REFUTED
    set_mechanism(measured, "inverse_error", 1.3, judged_bits=3, inverse_alpha=0.5)
    set_errors(measured, 1.5, alpha=0.5, bits=3, quantizer="asym-g128")  # scaling up is worse still
    assert verdict("mechanism.direction", measured, 3) is Verdict.REFUTED


def test_step_stays_is_the_share_at_the_factor_two() -> None:
    measured = hand_made()
    set_mechanism(measured, "step_changed", 0.9, factor=4.0)
    set_mechanism(measured, "step_changed", 0.1, factor=2.0)
    for block in range(4):
        set_mechanism(measured, "step_changed", 0.45, factor=2.0, linear=f"{block}.down")
    assert estimate("mechanism.step-stays", measured).value == pytest.approx((6 * 0.1 + 0.45) / 7)
    assert verdict("mechanism.step-stays", measured) is Verdict.SUPPORTED
    set_mechanism(measured, "step_changed", 0.4, factor=2.0)
    assert verdict("mechanism.step-stays", measured) is Verdict.REFUTED
    assert verdict("mechanism.step-stays", hand_made()) is Verdict.SUPPORTED  # none changed at all


def with_factors(calibration: dict[float, float], heldout: dict[float, float]) -> Measured:
    measured = hand_made()
    for split, errors in (("calibration", calibration), ("heldout", heldout)):
        for factor, error in errors.items():
            set_mechanism(measured, "factor_error", error, judged_bits=4, factor=factor, split=split)
    return measured


def test_the_sweet_spot_is_chosen_on_calibration_and_judged_on_held_out_tokens() -> None:
    measured = with_factors({1.25: 0.95, 1.5: 0.7, 2.0: 0.8, 4.0: 0.1}, {1.5: 0.9, 2.0: 0.5, 4.0: 1.2})
    parts = estimate("mechanism.sweet-spot", measured, 4)
    assert {name: part.value for name, part in parts.items()} == {
        "against 1": pytest.approx(1 / 0.9),
        "against 4": pytest.approx(1.2 / 0.9),
    }
    assert parts["against 1"].readings["inner factor, chosen on calibration tokens"] == 1.5
    assert verdict("mechanism.sweet-spot", measured, 4) is Verdict.SUPPORTED
    assert verdict("mechanism.sweet-spot", measured, 3) is Verdict.REFUTED  # all factors alike
    the_end_is_best = with_factors({2.0: 0.8, 4.0: 0.5}, {2.0: 0.8, 4.0: 0.5})
    assert verdict("mechanism.sweet-spot", the_end_is_best, 4) is Verdict.REFUTED


@pytest.mark.parametrize("claim", ["direction", "sweet-spot"])
def test_the_mechanism_is_measured_under_the_deployed_quantizer_alone(claim: str) -> None:
    with pytest.raises(NotApplicableError, match="under asym-g128 alone"):
        REGISTRY[f"mechanism.{claim}"].estimate(hand_made(), Setting(3, quantizer="sym-channel"))


def test_uniform_counts_weights() -> None:
    measured = hand_made()
    assert verdict("mechanism.uniform-is-nothing", measured) is Verdict.SUPPORTED
    set_mechanism(measured, "uniform_changed", 3, linear="1.o")
    got = estimate("mechanism.uniform-is-nothing", measured)
    assert got.value == 3
    assert got.interval.n == 4 * 64 * (6 * 64 + 200)
    assert got.summarised["1.o"] == 3
    assert verdict("mechanism.uniform-is-nothing", measured) is Verdict.REFUTED


def test_no_overhead_counts_modules_parameters_and_operations() -> None:
    measured = hand_made()
    assert estimate("mechanism.no-overhead", measured).value == 0
    changes = {"modules_changed": 2, "parameters_changed": 3, "operations_changed": 4}
    set_attribute(measured, "folding", **changes, foldable_linears=24, linears=28)
    got = estimate("mechanism.no-overhead", measured)
    assert got.value == 9
    assert got.readings == {"linears whose scale an operation absorbs": "24 of 28"}
    assert verdict("mechanism.no-overhead", measured) is Verdict.REFUTED


def test_the_worked_examples_are_the_lesson_s() -> None:
    assert [example.expected for example in EXAMPLES] == [4.0, 0.6, 2.0, 0.05, 1]
    assert all(example.holds() for example in EXAMPLES)
    got = estimate("mechanism.traffic-arithmetic", hand_made())
    assert (got.value, got.interval.n) == (0, 5)
    assert next(iter(got.readings.values())) == "4, as the lesson says"


@pytest.mark.parametrize("claim", ["equivalence", "no-overhead"])
def test_without_losses_there_is_no_folding_to_check(claim: str) -> None:
    assert verdict(f"mechanism.{claim}", replace(hand_made(), losses=None)) is Verdict.NOT_APPLICABLE


# bits


def by_bits(per_bit: float) -> Measured:
    measured = hand_made()
    for bits in (2, 3, 4, 6, 8):
        set_errors(measured, 1e-4 * per_bit ** (8 - bits), bits=bits, alpha=0.0)
    return measured


@pytest.mark.parametrize(
    ("per_bit", "expected"), [(4.0, Verdict.SUPPORTED), (2.9, Verdict.REFUTED), (6.0, Verdict.REFUTED)]
)
def test_four_per_bit_is_the_fifth_root_from_8_to_3(per_bit: float, expected: Verdict) -> None:
    measured = by_bits(per_bit)
    set_errors(measured, 1e3, bits=4)  # between the two it may be anything
    set_errors(measured, 1e3, bits=3, families=("o",))  # one family moves no median
    got = estimate("bits.four-per-bit", measured)
    assert got.value == pytest.approx(per_bit)
    assert got.readings["median error at 3 bits"] == pytest.approx(1e-4 * per_bit**5)
    assert verdict("bits.four-per-bit", measured) is expected


def test_a_twin_has_no_eight_bits() -> None:
    measured = hand_made()
    twin = replace(measured, errors=measured.errors.sel(bits=[4, 3]))
    assert verdict("bits.four-per-bit", twin) is Verdict.NOT_APPLICABLE


def test_the_cliff_is_what_the_error_s_growth_does_not_explain() -> None:
    measured = damaged(rtn_gap=0.1)
    set_errors(measured, 4.5, bits=3, alpha=0.0)
    windows = np.linspace(0.58, 0.62, WINDOWS)
    set_gap(measured, "rtn-3", windows)
    got = estimate("bits.cliff", measured, 3)
    assert got.value == pytest.approx(0.6 - 4.5 * 0.1)
    assert got.readings == {
        "gap at 3 bits": pytest.approx(0.6),
        "gap at 4 bits": pytest.approx(0.1),
        "median error ratio": pytest.approx(4.5),
    }
    assert verdict("bits.cliff", measured, 3) is Verdict.SUPPORTED
    set_gap(measured, "rtn-3", 0.4)
    assert verdict("bits.cliff", measured, 3) is Verdict.REFUTED
    # How surely the error's growth is known widens the interval.
    set_gap(measured, "rtn-3", windows)
    for block, ratio in enumerate((4.0, 4.4, 4.6, 5.0)):
        set_errors(measured, ratio, bits=3, alpha=0.0, block=block)
    unsure = estimate("bits.cliff", measured, 3).interval
    assert unsure.upper - unsure.lower > 2 * (got.interval.upper - got.interval.lower)


def test_two_percent_is_asked_of_perplexity() -> None:
    measured = damaged(rtn_gap=0.1)
    for strategy, loss in (("full", 2.0), ("rtn-4", 2.1), ("awq-block-4", 2.015), ("awq-block-clip-4", 2.03)):
        set_losses(measured, strategy, loss)
    got = estimate("bits.two-percent", measured, 4)
    assert got.value == pytest.approx(math.exp(2.015) - 1.02 * math.exp(2.0))
    assert got.readings["excess"] == "1.51%"
    assert verdict_of(got.variants[WITH_CLIPPING].interval, Threshold(upper=0)) is Verdict.REFUTED
    assert verdict("bits.two-percent", measured, 4) is Verdict.SUPPORTED
    set_losses(measured, "awq-block-4", 2.021)
    assert verdict("bits.two-percent", measured, 4) is Verdict.REFUTED


@pytest.mark.parametrize(
    ("claim", "strategy", "loss", "value"),
    [
        ("bits.near-lossless", "rtn-4", 2.015, math.exp(2.015) - 1.02 * math.exp(2.0)),
        ("gptq.two-percent", "gptq-4", 2.015, math.exp(2.015) - 1.02 * math.exp(2.0)),
        ("bits.awq-degrades", "awq-block-3", 2.06, math.exp(2.06) - 1.05 * math.exp(2.0)),
    ],
)
def test_quality_is_judged_whatever_there_is_to_recover(claim: str, strategy: str, loss: float, value: float) -> None:
    measured, bits = damaged(rtn_gap=0.001), int(strategy[-1])
    set_losses(measured, "full", 2.0)
    set_losses(measured, strategy, loss)
    assert estimate(claim, measured, bits).value == pytest.approx(value)
    assert verdict(claim, measured, bits) is Verdict.SUPPORTED
    set_losses(measured, strategy, 2.021 if bits == 4 else 2.04)
    assert verdict(claim, measured, bits) is Verdict.REFUTED


@pytest.mark.parametrize("claim", sorted(OF_QUALITY))
def test_a_model_that_only_guesses_has_no_quality_to_lose(claim: str) -> None:
    bits = REGISTRY[claim].bits[0]
    guesses = replace(damaged(), provenance={"vocabulary": 7})  # ln 7 is 1.95, and the loss 2 nats
    evidence = judge(REGISTRY[claim], guesses, Setting(bits))
    assert evidence.verdict is Verdict.NOT_APPLICABLE
    assert "guessing among 7 tokens gives 1.946" in evidence.reason
    knows = replace(guesses, provenance={"vocabulary": 20_000})
    assert judge(REGISTRY[claim], knows, Setting(bits)).estimate is not None


def test_bytes_are_counted_with_steps_and_zero_points() -> None:
    wide = dict.fromkeys(ROLES, 128)
    got = estimate("bits.four-times-smaller", hand_made(widths=wide), 4)
    assert got.value == pytest.approx(16 / (4 + 20 / 128))
    assert list(got.summarised.values()) == [pytest.approx(got.value)] * 28
    assert verdict("bits.four-times-smaller", hand_made(widths=wide), 4) is Verdict.SUPPORTED
    narrow = dict.fromkeys(ROLES, 32)  # a step for every 32 weights
    got = estimate("bits.four-times-smaller", hand_made(widths=narrow), 4)
    assert got.value == pytest.approx(16 / (4 + 20 / 32))
    assert verdict("bits.four-times-smaller", hand_made(widths=narrow), 4) is Verdict.REFUTED


def test_the_whole_model_holds_what_is_not_quantized_in_fp16() -> None:
    quantized = 4 * 7 * 64 * 128
    measured = hand_made(parameters=2 * quantized, widths=dict.fromkeys(ROLES, 128))  # as much again
    ratio = 2 / (1 + (4 + 20 / 128) / 16)
    details = estimate("bits.four-times-smaller", measured, 4).readings
    assert details["the whole model, embeddings and norms in FP16"] == f"{ratio:.3g} times smaller"
