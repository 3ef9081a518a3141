"""Errors under other traffic against replayed tokens: calibrated as usual, on the kind's passages, on random tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from awq_core.architectures.block_stream import BlockStream
from awq_core.measure.layers import exponent_race
from awq_core.measure.layers.moments import MeasurementError
from awq_core.measure.layers.traffic import TrafficSettings, measure_traffic
from awq_core.measured import TRAFFIC_KINDS, Measured
from tests import reference_diagnostic as reference
from tests.structured_model import LLAMA, measured_layers, structured_model, tokens

USUAL, HELDOUT = tokens(7), tokens(16, length=24, seed=1)
RANDOM = tokens(5, seed=2)


def some_of_few(seed: int, length: int = 16) -> np.ndarray:
    """A kind of its own: it uses a tenth of the vocabulary."""
    known = tokens(1, length=10, seed=seed)[0]
    return known[np.random.default_rng(seed).integers(0, 10, (4, length))]


SPLITS = {"calibration": USUAL, "heldout": HELDOUT, "random": RANDOM} | {
    f"{kind} {split}": some_of_few(100 + 10 * i + j, length=48 if kind == "long-prompts" else 16)
    for i, kind in enumerate(TRAFFIC_KINDS)
    for j, split in enumerate(("calibration", "heldout"))
}


@pytest.fixture(scope="module")
def model() -> Any:
    return structured_model(2, "qwen2")


@pytest.fixture(scope="module")
def measured(model: Any) -> Measured:
    return measured_layers(model, USUAL, HELDOUT)


def stream_of(model: Any) -> BlockStream:
    return BlockStream(model, LLAMA, SPLITS, groups=1)


@pytest.fixture(scope="module")
def steps() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def traffic(model: Any, measured: Measured, steps: list[tuple[int, int]]) -> xr.Dataset:
    stream = stream_of(model)
    return measure_traffic(
        stream, measured.channels, measured.errors, TrafficSettings(), lambda *step: steps.append(step)
    )


def magnitude_of(x: np.ndarray) -> np.ndarray:
    return np.abs(x).mean(axis=0)


def tuned(weight: np.ndarray, x: np.ndarray, bits: int) -> np.ndarray:
    """`Q(W s) / s` with the scales and the exponent that are best on given tokens."""
    tried = [reference.awq(weight, magnitude_of(x), alpha, "asym-g128", bits) for alpha in reference.ALPHAS]
    return tried[int(np.argmin([reference.replayed_error(weight, other, x) for other in tried]))]


@pytest.mark.parametrize("kind", ["languages", "long-prompts"])
def test_the_errors_of_a_kind_are_those_of_its_replayed_tokens(traffic: xr.Dataset, model: Any, kind: str) -> None:
    usual = reference.captured_inputs(model, USUAL)
    calibration, heldout = (
        reference.captured_inputs(model, SPLITS[f"{kind} {split}"]) for split in ("calibration", "heldout")
    )
    unlike = 0
    for bits in (3, 4):
        table = traffic["kind_error"].sel(kind=kind, judged_bits=bits)
        assert table["calibrated_on"].values.tolist() == ["rtn", "usual", "own"]
        for name, weight in reference.weights_of(model).items():
            candidates = (
                reference.quantized(weight, "asym-g128", bits),
                tuned(weight, usual[name], bits),
                tuned(weight, calibration[name], bits),
            )
            expected = [reference.replayed_error(weight, other, heldout[name]) for other in candidates]
            np.testing.assert_allclose(table.sel(linear=name), expected, rtol=1e-8)
            unlike += not np.isclose(expected[1], expected[2])
    assert unlike > 14  # it matters which text calibrates


def test_random_and_usual_calibration_are_judged_on_the_same_held_out_text(traffic: xr.Dataset, model: Any) -> None:
    heldout = reference.captured_inputs(model, HELDOUT)
    for calibrated_on, ids in (("random", RANDOM), ("usual", USUAL)):
        calibration = reference.captured_inputs(model, ids)
        for bits in (3, 4):
            for name, weight in reference.weights_of(model).items():
                expected = reference.replayed_error(weight, tuned(weight, calibration[name], bits), heldout[name])
                found = float(traffic[f"{calibrated_on}_error"].sel(linear=name, judged_bits=bits))
                assert found == pytest.approx(expected, rel=1e-8)


def test_a_twin_is_not_calibrated_on_the_kinds(model: Any, measured: Measured, traffic: xr.Dataset) -> None:
    settings = TrafficSettings(own=False)
    splits = {name: SPLITS[name] for name in settings.splits()}
    assert not any(name.endswith(" calibration") for name in splits)
    found = measure_traffic(BlockStream(model, LLAMA, splits, groups=1), measured.channels, measured.errors, settings)
    assert found["kind_error"].sel(calibrated_on="own").isnull().all()
    xr.testing.assert_equal(found.sel(calibrated_on=["rtn", "usual"]), traffic.sel(calibrated_on=["rtn", "usual"]))


def test_raced_exponents_are_the_exhaustive_ones(
    model: Any, measured: Measured, traffic: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or within what the race tolerates on calibration tokens; a first round has fewer rows than usual."""
    monkeypatch.setattr("awq_core.measure.layers.exponent_race.FIRST_ROWS", 8)
    dropped = []
    genuine = exponent_race.survivors

    def survivors(losses: np.ndarray, every: int, chance: float) -> np.ndarray:
        found = genuine(losses, every, chance)
        dropped.append(len(losses) - len(found))
        return found

    monkeypatch.setattr(exponent_race, "survivors", survivors)
    stream = stream_of(model)
    found = measure_traffic(stream, measured.channels, measured.errors, TrafficSettings(raced=True))
    assert sum(dropped) > 20 * 14  # of two blocks' 14 linears nearly every exponent, more than once
    for variable in ("kind_error", "random_error", "usual_error"):
        alike = np.isclose(found[variable], traffic[variable], rtol=1e-9)
        assert alike.mean() > 0.95
        assert float(abs(np.log(found[variable] / traffic[variable])).max()) < 0.1


def test_some_rows_say_about_what_all_would(
    model: Any, measured: Measured, traffic: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("awq_core.measure.layers.row_errors.WHOLE_ROWS", 0)
    stream = stream_of(model)
    found = measure_traffic(stream, measured.channels, measured.errors, TrafficSettings(torch.float32, row_share=0.1))
    families = traffic["linear_family"].values
    some = np.isin(families, ["gate", "up"])  # 64 of 96 rows; of the others all
    ratio = np.log(found["usual_error"] / traffic["usual_error"]).values
    assert abs(ratio[~some]).max() < 1e-3 < np.median(abs(ratio[some]))
    assert abs(ratio[some]).max() < 0.3


def test_the_magnitudes_of_a_kind_are_those_of_its_held_out_passages(traffic: xr.Dataset, model: Any) -> None:
    readers = {"attention_in": "self_attn.q_proj", "attention_out": "self_attn.o_proj"}
    readers |= {"mlp_in": "mlp.up_proj", "mlp_out": "mlp.down_proj"}
    for kind in TRAFFIC_KINDS:
        inputs = reference.captured_inputs(model, SPLITS[f"{kind} heldout"])
        for block in range(2):
            for role, path in readers.items():
                found = traffic["kind_magnitude"].sel(kind=kind, site=f"block {block} {role}").values
                expected = magnitude_of(inputs[f"model.layers.{block}.{path}"])
                np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-9)
                assert np.isnan(found[len(expected) :]).all()


def test_its_labels_are_the_layer_level_ones(
    traffic: xr.Dataset, measured: Measured, steps: list[tuple[int, int]]
) -> None:
    assert traffic["kind"].values.tolist() == list(TRAFFIC_KINDS)
    assert traffic["judged_bits"].values.tolist() == [4, 3]
    for name in ("linear", "site", "linear_block", "linear_family", "linear_site", "site_block", "site_role"):
        assert traffic[name].values.tolist() == measured.channels[name].values.tolist()
    assert steps == [(1, 2), (2, 2)]


@pytest.mark.parametrize("split", ["random", "code calibration", "languages heldout", "heldout"])
def test_a_nan_is_named_and_no_error(model: Any, measured: Measured, split: str) -> None:
    """It must not pass for an error of zero, nor for a magnitude that asks for no scales."""
    stream = stream_of(model)
    group, hidden = stream.hidden[split][0]
    stream.hidden[split][0] = group, torch.where(torch.arange(hidden.shape[2]) == 3, torch.nan, hidden)
    with pytest.raises(MeasurementError, match=f"block 0, attention_in: NaN or infinite activations on {split} tokens"):
        measure_traffic(stream, measured.channels, measured.errors, TrafficSettings())
