"""Whole sessions in which the losses are scored look by look: the verdicts of one look, for less, and what is said."""

import json

import numpy as np
import pytest

from tests.suite_sessions import assert_no_traceback, text

CLEAR = tuple(f"claims/test_salience.py::test_{name}" for name in ("one_percent", "ninety_nine", "weight_is_chance"))
"""Claims that one look decides on embedded-tiny, and that need no calibration."""


@pytest.fixture
def looking(suite):
    """Sessions, with what is recorded of their looks."""

    def run(*options, **settings):
        result = suite.run(*options, **settings)
        assert_no_traceback(result)
        content = json.loads((suite.output / settings.get("model", "tiny") / "evidence.json").read_text())
        return result, content["model"]["looks"], {claim["key"]: claim for claim in content["claims"]}

    return run


def test_clear_claims_stop_at_the_first_look_with_the_verdicts_of_all_windows(looking):
    settings = {"model": "embedded-tiny", "texts": False}
    result, looks, claims = looking(claims=CLEAR, **settings)
    shown = " then ".join(map(str, looks["windows"]))
    result.stdout.fnmatch_lines([f"*losses look by look, as far as claims need them: {shown} of 128 windows"])
    assert result.ret == 0, "a verdict differs from the registered one, which all windows gave"
    assert (looks["windows"], looks["level"]) == ([16, 32, 64, 128], 0.9875)
    # Full precision, round-to-nearest, and of kept channels those by activation, by weight and three random choices.
    assert looks["strategies_at_look"] == [3 + 2 * 5, 0, 0, 0]
    assert looks["stopped"] == "no claim needed another look"
    assert len(claims) == 5
    for claim in claims.values():
        assert [claim["interval"][name] for name in ("n", "look", "looks")] == [16, 1, 4]

    # A claim that is asked alone has the same evidence, and finds it in the cache.
    result, _, alone = looking(claims=CLEAR[:1], **settings)
    result.stdout.fnmatch_lines(["*measured before: judged from the cache"])
    for key, claim in alone.items():
        assert {name: claim[name] for name in ("estimate", "interval")} == {
            name: claims[key][name] for name in ("estimate", "interval")
        }


def test_where_rounding_costs_nothing_nothing_else_is_scored(looking, tmp_path):
    """A random model loses nothing by rounding: no method is searched, but for the seconds that are compared."""
    longer = tmp_path / "longer.txt"
    longer.write_text(text(1000, seed=5), encoding="utf-8")
    claims = ("claims/test_payoff.py", "claims/test_bits.py", "claims/test_gptq.py", "claims/test_calibration.py")
    _, looks, found = looking("--heldout-text", longer, "-k", "not traffic", claims=claims)
    assert looks["strategies_at_look"] == [3 + 2, *[0] * (looks["count"] - 1)]  # awq-block-4 and gptq-4
    waiting = {"payoff.perplexity@4", "bits.cliff@3", "gptq.close@4", "calibration.robust@3", "calibration.robust@4"}
    assert {found[key]["verdict"] for key in waiting} == {"insufficient data"}
    assert found["gptq.slower"]["readings"]["what is counted"].startswith("4 bits, all blocks")
    assert found["gptq.slower"]["estimate"] > 0


def test_one_look_is_all_windows_at_the_whole_level(looking, suite, tmp_path):
    shorter = tmp_path / "shorter.txt"
    shorter.write_text(text(230, seed=1), encoding="utf-8")
    result, looks, _ = looking("--heldout-text", shorter, "-k", "logits", claims=("claims/test_payoff.py",))
    windows = np.load(suite.output / "tiny" / "tokens.npz")["heldout"].shape[0]
    assert 16 < windows < 24, "so few that a second look would not be worth its share of the level"
    assert (looks["rule"], looks["count"], looks["level"]) == ("one look", 1, 0.95)
    result.stdout.fnmatch_lines([f"*losses look by look, as far as claims need them: {windows} of {windows} windows"])
