"""Every claim, held against the controls: never supported where nothing is, supported where its effect was planted.

They are measured once, into the folder that tests measure into (`tests/conftest.py`): minutes the first time.
"""

import numpy as np
import pytest
import xarray as xr

from awq_core.judging.evidence import Evidence, Verdict
from claims.support.catalogue import whole_catalogue
from claims.support.claim import REGISTRY, Setting
from claims.support.deviations import FOLDER, read_deviations
from claims.support.judge import judge
from fixtures.cache.store import MeasurementCache
from fixtures.controls.designs import BLOCKS, SCENARIO_OF_CLAIM, null_design, planted_designs
from fixtures.controls.measuring import ControlMeasurement
from fixtures.controls.synthetic import SyntheticSource
from fixtures.models.registry import GROUPS, NULL_CONTROL, PLANTED_CONTROL
from fixtures.options import Options
from fixtures.progress import MeasurementProgress
from fixtures.session import ClaimsSession
from tests.suite_sessions import EVERY_CLAIM, assert_no_traceback

CONTROLS = (*GROUPS[NULL_CONTROL], *GROUPS[PLANTED_CONTROL])
CASES = {
    f"{claim.id}@{bits}" if bits else claim.id: (claim, bits)
    for claim in whole_catalogue().values()
    for bits in claim.bits or (None,)
}
STRUCTURAL = [key for key, (claim, _) in CASES.items() if claim.kind == "structural" and claim.threshold is not None]

Evidences = dict[tuple[str, str], list[Evidence]]


@pytest.fixture(scope="module")
def controls(measurements):
    """The four controls, measured as a session measures them."""
    options = Options([NULL_CONTROL, PLANTED_CONTROL], *[None] * 3, 0, False, *[None] * 4)
    session = ClaimsSession.start(options)
    session.open()
    return {name: session.measure(name) for name in CONTROLS}


@pytest.fixture(scope="module")
def evidence(controls) -> Evidences:
    """By control and claim, the evidence on both sizes, or on the pair."""
    found = {}
    for group in (NULL_CONTROL, PLANTED_CONTROL):
        sizes = [controls[name] for name in GROUPS[group]]
        for key, (claim, bits) in CASES.items():
            subjects = [tuple(sizes)] if claim.level == "pair" else sizes
            found[group, key] = [judge(claim, subject, Setting(bits)) for subject in subjects]
    return found


def described(items: list[Evidence]) -> str:
    return "; ".join(
        f"{e.models[-1]}: {e.verdict} {e.estimate} {e.interval}, needs {e.threshold} {e.reason}" for e in items
    )


def test_the_structural_claims_are_here():
    assert len(STRUCTURAL) >= 50


@pytest.mark.parametrize("key", STRUCTURAL)
def test_no_structural_claim_is_supported_on_the_null(key, evidence):
    items = evidence[NULL_CONTROL, key]
    assert all(item.verdict is not Verdict.SUPPORTED for item in items), f"{key} on the null: {described(items)}"


@pytest.mark.parametrize("key", STRUCTURAL)
def test_every_structural_claim_is_supported_where_its_effect_is_planted(key, evidence):
    items = evidence[PLANTED_CONTROL, key]
    assert all(item.verdict is Verdict.SUPPORTED for item in items), f"{key} on the planted: {described(items)}"


def test_what_is_only_reported_gets_no_verdict(evidence):
    reported = [key for key, (claim, _) in CASES.items() if claim.threshold is None]
    assert "replication.verdicts" in reported
    for group in (NULL_CONTROL, PLANTED_CONTROL):
        for key in reported:
            assert {item.verdict for item in evidence[group, key]} == {Verdict.REPORTED}


def test_two_sizes_of_the_planted_control_agree(evidence):
    (item,) = evidence[PLANTED_CONTROL, "replication.verdicts"]
    assert item.estimate == 1.0
    compared = [key for key, (claim, _) in CASES.items() if claim.threshold is not None and claim.level != "pair"]
    assert item.readings["claims compared"] == len(compared)


@pytest.mark.parametrize("name", CONTROLS)
def test_every_verdict_is_the_registered_one(name, controls, evidence):
    """What `pytest claims --model null-control` and `--model planted-control` judge by: each size has its own file."""
    assert (FOLDER / f"{name}.toml").is_file(), "python -m claims.register writes it"
    deviations = read_deviations(name)
    provenance = controls[name].provenance
    if not deviations.conditions_met(provenance):
        pytest.skip(f"drawn otherwise on this machine: {', '.join(deviations.unmet(provenance))} differ")
    group = NULL_CONTROL if name in GROUPS[NULL_CONTROL] else PLANTED_CONTROL
    changed = {
        key: f"registered as {registered['verdict']}, now {item.verdict}"
        for key in CASES
        for item in evidence[group, key]
        # A claim about two sizes is registered with the larger one.
        if item.models[-1] == name and item.verdict is not Verdict.REPORTED
        if not (registered := deviations.registration(item, provenance))["matches"]
    }
    assert changed == {}


@pytest.mark.parametrize("seed", [1, 2])
def test_another_draw_of_the_null_supports_nothing_either(seed, measurements):
    cache = MeasurementCache(measurements)
    null = ControlMeasurement("null-control-tiny", seed, cache, MeasurementProgress(None)).measure({})
    supported = {
        key: described([item])
        for key in STRUCTURAL
        for claim, bits in [CASES[key]]
        if claim.level != "pair" and (item := judge(claim, null, Setting(bits))).verdict is Verdict.SUPPORTED
    }
    assert supported == {}


def test_the_planted_controls_twin_is_the_null(controls):
    for small, planted in zip(GROUPS[NULL_CONTROL], GROUPS[PLANTED_CONTROL], strict=True):
        for mine, null in zip(controls[planted].twins, controls[small].twins, strict=True):
            xr.testing.assert_identical(mine.errors, null.errors)


def test_every_scenario_named_for_a_claim_is_planted_for_a_claim_that_exists(controls):
    assert set(SCENARIO_OF_CLAIM) <= set(REGISTRY)
    for name in GROUPS[PLANTED_CONTROL]:
        for claim_id, scenario in SCENARIO_OF_CLAIM.items():
            assert controls[name].for_claim(claim_id) is controls[name].scenarios[scenario]


def test_text_of_the_models_own_is_predicted_best_by_the_model_itself(controls):
    """So every loss above full precision's is damage: on sampled text no rounding can win by luck for long."""
    for name in GROUPS[PLANTED_CONTROL]:
        losses = [controls[name].losses, *(s.losses for s in controls[name].scenarios.values() if s.losses is not None)]
        for measured in losses:
            means = measured["window_loss"].mean("window")
            assert means["strategy"].values[means.values.argmin()] == "full"
            assert float(means.sel(strategy="rtn-3") - means.sel(strategy="full")) > 0.01
    for name in GROUPS[NULL_CONTROL]:
        loss = float(controls[name].losses["window_loss"].sel(strategy="full").mean())
        assert loss == pytest.approx(np.log(256), abs=0.1)  # nothing is known of uniform tokens


def test_drawn_inputs_are_a_function_of_the_seed_alone():
    def drawn(seed, split="calibration", block=0):
        return next(iter(SyntheticSource(null_design("tiny"), seed).passes(block, split)))[1]["mlp_out"].numpy()

    np.testing.assert_array_equal(drawn(0), drawn(0))
    for other in (drawn(1), drawn(0, "heldout"), drawn(0, block=1)):
        assert abs(np.corrcoef(drawn(0)[:256].ravel(), other[:256].ravel())[0, 1]) < 0.05


def test_the_planted_channels_are_as_large_as_designed(controls):
    for name, size in zip(GROUPS[PLANTED_CONTROL], ("tiny", "small"), strict=True):
        magnitude = controls[name].channels["magnitude"].sel(split="heldout")
        spread = (magnitude.max("channel") / magnitude.median("channel")).values.reshape(BLOCKS, 4)
        design = planted_designs(size)["large-channels"]
        for column, role in enumerate(("attention_in", "attention_out", "mlp_in", "mlp_out")):
            planted = design.sites[role]

            def at(values, block):
                return values[block % len(values)]

            # A share of values four times as wide raises the mean of a channel's absolute values by three shares.
            expected = [
                at(planted.factor, b) * (1 + 3 * at(planted.salient_tails, b)) / (1 + 3 * at(planted.tails, b))
                for b in range(BLOCKS)
            ]
            np.testing.assert_allclose(spread[:, column], expected, rtol=0.06)


def test_a_session_on_the_controls_ends_as_registered(monkeypatch, suite, measurements):
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(measurements))
    result = suite.run("--model", PLANTED_CONTROL, model=NULL_CONTROL, texts=False, claims=EVERY_CLAIM)
    assert result.ret == 0
    assert_no_traceback(result)
    result.stdout.fnmatch_lines(["null-control-tiny: a control, made from seed 0; cpu, float32, groups of 128"])
    assert sorted(path.name for path in suite.output.iterdir()) == sorted(CONTROLS)
