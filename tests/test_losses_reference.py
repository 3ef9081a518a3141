"""Window losses and divergences against whole logits, and the model-level instrument end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from awq_core.calibrated import METHODS, Calibrated, calibrate
from awq_core.losses import measure_losses
from awq_core.model_level import ModelTokens, calibrate_model, measure_model_level
from awq_core.strategies import Strategies, Strategy, applied

from awq_core import losses
from awq_core.kept_blocks import Arrays
from awq_core.measured import JUDGED_BITS
from awq_core.moments import MeasurementError
from tests.structured_model import LLAMA, SHAPE, measured_layers, structured_model, tokens

CALIBRATED = ("awq-block", "awq-duo", "awq-grouped", "awq-block-clip", "gptq", "gptq-order")
SCALED = ("awq-linear", "awq-constant", "awq-half")


@pytest.fixture(scope="module")
def model() -> Any:
    return structured_model(2, "qwen2")


@pytest.fixture(scope="module")
def listed(model: Any) -> list[Strategy]:
    measured = measured_layers(model, tokens(6), tokens(16, seed=1))
    found = calibrate(model, LLAMA, tokens(6), (3, 4), METHODS)
    return Strategies(model, LLAMA, measured.channels, measured.errors).standard((3, 4), found)


def test_losses_and_divergences_agree_with_whole_logits_in_float64(model: Any, listed: list[Strategy]) -> None:
    heldout = tokens(5, seed=3)
    dataset = measure_losses(model, listed, heldout, {"searched": 1})
    ids = torch.from_numpy(heldout)

    def log_probabilities() -> torch.Tensor:
        with torch.no_grad():
            return torch.log_softmax(model(input_ids=ids, use_cache=False).logits.double(), dim=-1)[:, :-1]

    full = log_probabilities()
    each = [f"{method}-{bits}" for bits in (3, 4) for method in ("rtn", *SCALED, *CALIBRATED)]
    assert dataset["strategy"].values.tolist() == ["full", "rtn-2", *each]
    for strategy in listed:
        with applied(model, strategy.parameters()):
            log_p = log_probabilities()
        loss = -log_p.gather(2, ids[:, 1:, None])[..., 0].mean(dim=1)
        kl = (full.exp() * (full - log_p)).sum(dim=-1).mean(dim=1)
        at = dataset.sel(strategy=strategy.name)
        np.testing.assert_allclose(at["window_loss"], loss, rtol=1e-6)
        np.testing.assert_allclose(at["window_kl"], kl, rtol=1e-4, atol=1e-7)
        assert (float(at["window_kl"].mean()) > 1e-4) == (strategy.method != "full")
        assert at["strategy_bits"] == strategy.bits
        assert at["strategy_method"] == strategy.method
        assert at["strategy_needs"] == strategy.needs
        assert at["strategy_deploys"] == (strategy.needs == "")
    assert json.loads(dataset.attrs["searched"]) == 1


def test_a_large_vocabulary_in_pieces_gives_the_same_losses(
    model: Any, listed: list[Strategy], monkeypatch: pytest.MonkeyPatch
) -> None:
    heldout = tokens(5, seed=3)
    whole = measure_losses(model, listed[:3], heldout, {})
    monkeypatch.setattr("awq_core.losses.LOGIT_ELEMENTS", 7 * SHAPE["vocab_size"])
    monkeypatch.setattr("awq_core.losses.BATCH_TOKENS", 64)
    pieces = measure_losses(model, listed[:3], heldout, {})
    for name in ("window_loss", "window_kl"):
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("elements", [1, 3 * SHAPE["vocab_size"]])
def test_logits_in_slices_give_the_same_losses(
    model: Any, listed: list[Strategy], monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    heldout = tokens(3, seed=3)
    whole = measure_losses(model, listed[:3], heldout, {})
    monkeypatch.setattr("awq_core.losses.ROW_ELEMENTS", elements)
    slices = measure_losses(model, listed[:3], heldout, {})
    for name in ("window_loss", "window_kl"):
        np.testing.assert_allclose(slices[name], whole[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("together", [1, 2, 4])
def test_without_room_for_full_precision_s_predictions_it_is_asked_again(
    model: Any, listed: list[Strategy], monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    heldout = tokens(3, seed=3)
    whole = measure_losses(model, listed[:6], heldout, {})
    monkeypatch.setattr("awq_core.losses.REFERENCE_BYTES", 0)
    if together > 1:
        monkeypatch.setattr(losses._Reference, "strategies", together)
    asked = []
    genuine = losses.log_probabilities
    monkeypatch.setattr(losses, "log_probabilities", lambda *given: asked.append(1) or genuine(*given))
    again = measure_losses(model, listed[:6], heldout, {})
    assert len(asked) == 3 * {1: 6, 2: 3, 4: 2}[together]  # once for each window and few strategies
    for name in ("window_loss", "window_kl"):
        np.testing.assert_array_equal(again[name], whole[name])


class Kept:
    """Results in memory."""

    def __init__(self) -> None:
        self.results: dict[int, Arrays] = {}

    def read(self, index: int) -> Arrays | None:
        return self.results.get(index)

    def write(self, index: int, arrays: Arrays) -> None:
        self.results[index] = arrays


def test_what_was_scored_before_a_stop_is_not_scored_again(model: Any, listed: list[Strategy]) -> None:
    heldout, kept = tokens(3, seed=3), Kept()
    whole = measure_losses(model, listed[:6], heldout, {})

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_losses(model, listed[:6], heldout, {}, stop, kept)
    assert set(kept.results) == {0, 1, 2, 3}

    def refuse() -> Any:
        raise AssertionError("scored again")

    left = [listed[0], *(replace(strategy, parameters=refuse) for strategy in listed[1:4]), *listed[4:6]]
    steps: list[int] = []
    again = measure_losses(model, left, heldout, {}, lambda done, total: steps.append(done), kept)
    xr.testing.assert_identical(again, whole)
    assert steps == [4, 5, 6]


def test_losses_need_full_precision_first(model: Any, listed: list[Strategy]) -> None:
    with pytest.raises(ValueError, match="first strategy must be full precision"):
        measure_losses(model, listed[1:], tokens(2), {})


def test_a_strategy_without_numbers_is_named() -> None:
    model = structured_model()
    name = "model.layers.0.mlp.down_proj.weight"
    broken = Strategy("rtn", 3, lambda: {name: torch.full_like(model.get_parameter(name), float("nan"))})
    with pytest.raises(MeasurementError, match="strategy rtn-3: a window's loss is NaN or infinite"):
        measure_losses(model, [Strategy("full", 0, dict), broken], tokens(2), {})


# the whole instrument

ELSEWHERE = ModelTokens(tokens(16), tokens(4, seed=7), tokens(16, seed=1))


@pytest.fixture(scope="module")
def found(model: Any) -> dict[str, Calibrated]:
    return calibrate_model(model, LLAMA, ELSEWHERE, torch.float64)


@pytest.fixture(scope="module")
def model_level(model: Any, found: dict[str, Calibrated]) -> xr.Dataset:
    measured = measured_layers(model, ELSEWHERE.calibration, ELSEWHERE.heldout)
    return measure_model_level(model, LLAMA, measured.channels, measured.errors, found, ELSEWHERE, seed=3)


def test_fewer_sequences_are_spread_over_all() -> None:
    np.testing.assert_array_equal(ELSEWHERE.few, ELSEWHERE.calibration[[0, 8]])
    np.testing.assert_array_equal(ELSEWHERE.matched, ELSEWHERE.calibration[[0, 4, 8, 12]])
    assert len(ModelTokens(tokens(3), tokens(3), tokens(1)).few) == 1


@pytest.mark.parametrize(
    ("suffix", "ids", "method"),
    [
        ("", ELSEWHERE.calibration, "awq-block"),
        ("-few", ELSEWHERE.few, "awq-block"),
        ("-foreign", ELSEWHERE.foreign, "awq-block"),
        ("-foreign", ELSEWHERE.foreign, "gptq"),
        ("-matched", ELSEWHERE.matched, "awq-block"),
        ("-matched", ELSEWHERE.matched, "gptq"),
    ],
)
def test_every_suffix_was_calibrated_on_its_own_tokens(
    model: Any, found: dict[str, Calibrated], suffix: str, ids: np.ndarray, method: str
) -> None:
    alone = calibrate(model, LLAMA, ids, (3,), (method,), arithmetic=torch.float64)
    if method == "gptq":
        for name, weight in alone.weights[method, 3].items():
            assert torch.equal(found[suffix].weights[method, 3][name], weight)
    else:
        pairs = zip(alone.scales[method, 3], found[suffix].scales[method, 3], strict=True)
        assert all(torch.equal(one.scales, other.scales) for one, other in pairs)


def test_a_foreign_text_of_the_same_length_is_matched_by_the_usual_calibration(model: Any) -> None:
    same = ModelTokens(tokens(4), tokens(4, seed=7), tokens(2))
    found = calibrate_model(model, LLAMA, same, torch.float64, methods=("awq-block", "gptq", "gptq-order"))
    assert set(found) == {"", "-few", "-foreign", "-matched"}
    assert found["-matched"].scales.keys() == {("awq-block", bits) for bits in JUDGED_BITS}
    assert found["-matched"].weights.keys() == {("gptq", bits) for bits in JUDGED_BITS}
    assert found["-matched"].scales["awq-block", 3] is found[""].scales["awq-block", 3]
    assert set(calibrate_model(model, LLAMA, same, torch.float64, methods=("awq-block",), elsewhere=False)) == {""}


def test_every_strategy_is_scored(model_level: xr.Dataset) -> None:
    kept = ("keep-activation", "keep-weight", *(f"keep-random{choice}" for choice in range(10)))
    elsewhere = ("awq-block-few", "awq-block-foreign", "gptq-foreign", "awq-block-matched", "gptq-matched")
    methods = ("rtn", *SCALED, *CALIBRATED, *kept, *elsewhere)
    expected = {"full", "rtn-2"} | {f"{method}-{bits}" for method in methods for bits in (3, 4)}
    assert set(model_level["strategy"].values) == expected
    assert model_level.sizes["strategy"] == len(expected)


def test_the_attributes_are_what_claims_read(model_level: xr.Dataset, found: dict[str, Calibrated]) -> None:
    assert set(model_level.attrs) == {"search", "cost", "costed", "folding", "calibration_sequences"}
    search = json.loads(model_level.attrs["search"])
    assert set(search) == {f"{method}-{bits}" for method in ("awq-block", "awq-duo", "awq-grouped") for bits in (3, 4)}
    for entry in found[""].scales["awq-block", 4]:
        assert search["awq-block-4"][f"block {entry.block} {entry.fold.name}"] == entry.alpha
    cost = json.loads(model_level.attrs["cost"])
    assert set(cost) == set(CALIBRATED)
    assert all(entry.keys() == {"seconds", "operations"} for entry in cost.values())
    folding = json.loads(model_level.attrs["folding"])
    assert folding["largest_difference"] < 1e-12
    assert folding["dtype"] == "float64"
    assert (folding["foldable_linears"], folding["linears"]) == (12, 14)
    assert json.loads(model_level.attrs["calibration_sequences"]) == {"own": 16, "few": 2, "foreign": 4}


def test_progress_counts_all_calibrations_as_one(model: Any) -> None:
    steps: list[tuple[int, int]] = []
    calibrate_model(
        model, LLAMA, ELSEWHERE, torch.float64, lambda *step: steps.append(step), methods=("awq-block", "gptq")
    )
    assert steps == [(i, 8) for i in range(1, 9)]  # four calibrations of two blocks
