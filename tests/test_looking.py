"""Scoring look by look on a small model: the same scores as all at once, nothing that is not wanted, and resuming."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from awq_core.model_level import ModelTokens, calibrate_model, measure_model_level
from awq_core.on_demand import OnDemand
from fixtures.looking import LossesByLook, Wanted, looks_at

from awq_core.looks import CALIBRATION_COSTS, Looks
from awq_core.measured import Measured
from fixtures.cache import MeasurementCache
from fixtures.errors import NotMeasuredError
from fixtures.progress import MeasurementProgress
from tests.structured_model import LLAMA, measured_layers, structured_model, tokens

TOKENS = ModelTokens(tokens(16), tokens(4, seed=7), tokens(12, seed=1))
LOOKS = Looks((3, 6, 12), 12, 2, 1, None)
SEED = 3


@pytest.fixture(scope="module")
def model() -> Any:
    return structured_model(2, "qwen2")


@pytest.fixture(scope="module")
def layers(model: Any) -> Measured:
    return measured_layers(model, TOKENS.calibration, TOKENS.heldout)


@pytest.fixture(scope="module")
def at_once(model: Any, layers: Measured) -> xr.Dataset:
    """What scoring everything gives."""
    found = calibrate_model(model, LLAMA, TOKENS, torch.float64)
    return measure_model_level(model, LLAMA, layers.channels, layers.errors, found, TOKENS, SEED)


@pytest.fixture
def calibrations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], tuple[str, ...], int]]:
    """Every calibration that is made: its bits, methods and sequences."""
    from awq_core import on_demand

    made = []
    genuine = on_demand.calibrate

    def calibrate(model: Any, architecture: Any, ids: np.ndarray, bits: Any, methods: Any, **further: Any) -> Any:
        made.append((bits, methods, len(ids)))
        return genuine(model, architecture, ids, bits, methods, **further)

    monkeypatch.setattr(on_demand, "calibrate", calibrate)
    return made


Make = Callable[..., LossesByLook]


def maker(folder: Path, model: Any, layers: Measured) -> Make:
    def losses(wanted: Wanted | None = None, looks: Looks = LOOKS, **of_cache: Any) -> LossesByLook:
        cache = MeasurementCache(folder, **of_cache)
        cache.prepare()
        return LossesByLook(
            "tiny",
            looks,
            {"seed": SEED},
            lambda: OnDemand(model, LLAMA, layers.channels, layers.errors, TOKENS, torch.float64, SEED),
            lambda found: Measured("tiny", None, 0, layers.channels, layers.errors, found, {}, {}),
            wanted,
            cache,
            MeasurementProgress(None),
        )

    return losses


@pytest.fixture
def make(tmp_path: Path, model: Any, layers: Measured) -> Make:
    """Losses by look, all with one empty cache."""
    return maker(tmp_path, model, layers)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, model: Any, layers: Measured) -> xr.Dataset:
    """Every strategy scored at every look."""
    return maker(tmp_path_factory.mktemp("everything"), model, layers)().measure()


def asking(*answers: Mapping[str, int]) -> Wanted:
    """Wants one thing after another, then nothing."""
    left: Iterator[Mapping[str, int]] = iter(answers)
    return lambda measured: next(left, {})


def scored(losses: xr.Dataset) -> dict[str, int]:
    """On how many windows each strategy was scored."""
    counts = losses["window_loss"].notnull().sum("window")
    return dict(zip(map(str, losses["strategy"].values), counts.values.tolist(), strict=True))


UNCALIBRATED = {"full": 3, "rtn-2": 3, "rtn-3": 3, "rtn-4": 3}


def test_everything_look_by_look_is_everything_at_once(everything: xr.Dataset, at_once: xr.Dataset) -> None:
    losses = everything
    assert losses["strategy"].values.tolist() == at_once["strategy"].values.tolist()
    for name in ("window_loss", "window_kl"):
        np.testing.assert_allclose(losses[name], at_once[name], rtol=1e-9, atol=1e-12)
    for name in ("strategy_method", "strategy_bits", "strategy_deploys", "strategy_needs"):
        assert losses[name].values.tolist() == at_once[name].values.tolist()
    assert losses.attrs["folding"] == at_once.attrs["folding"]
    assert losses.attrs["calibration_sequences"] == at_once.attrs["calibration_sequences"]


def test_what_is_chosen_is_kept_as_at_once(everything: xr.Dataset, at_once: xr.Dataset) -> None:
    losses = everything
    assert json.loads(losses.attrs["search"]) == json.loads(at_once.attrs["search"])


def test_what_calibrating_takes_is_timed_where_a_claim_asks_and_once(make: Make, calibrations: list[Any]) -> None:
    by_look = make(asking({CALIBRATION_COSTS: 0}))
    losses = by_look.measure()
    assert scored(losses) == UNCALIBRATED
    assert calibrations == [((4,), ("awq-block", "gptq"), 16)] * 2  # the first is not counted
    assert make(asking({CALIBRATION_COSTS: 0})).is_cached()
    again = make(asking({CALIBRATION_COSTS: 0})).measure()
    assert again.attrs["cost"] == losses.attrs["cost"]
    assert len(calibrations) == 2
    reading = make(asking())
    reading.cache.only_reads = True
    assert reading.measure().attrs["cost"] == losses.attrs["cost"]
    assert "cost" not in make(asking()).measure().attrs


def test_what_calibrating_takes_is_seen_on_the_first_blocks_at_one_precision(
    everything: xr.Dataset, at_once: xr.Dataset
) -> None:
    """Of two blocks here both, and at one precision of two about half of what both take."""
    whole, some = json.loads(at_once.attrs["cost"]), json.loads(everything.attrs["cost"])
    assert json.loads(at_once.attrs["costed"]) == {"bits": [3, 4], "blocks": 2}
    assert json.loads(everything.attrs["costed"]) == {"bits": [4], "blocks": 2}
    for method in ("awq-block", "gptq"):
        assert 0.3 < some[method]["operations"] / whole[method]["operations"] < 0.9
        assert some[method]["seconds"] > 0


def test_what_nothing_wants_is_neither_calibrated_nor_scored(make: Make, calibrations: list[Any]) -> None:
    by_look = make(asking())
    assert scored(by_look.measure()) == UNCALIBRATED
    assert not calibrations
    assert by_look.record()["strategies_at_look"] == [4, 0, 0]
    assert by_look.record()["stopped"] == "no claim needed another look"


def test_a_strategy_is_scored_as_far_as_it_is_wanted(make: Make, calibrations: list[Any], at_once: xr.Dataset) -> None:
    first = {"awq-block-clip-3": 0, "gptq-foreign-4": 1, "keep-weight-4": 0}
    by_look = make(asking(first, {"keep-weight-4": 2}))
    losses = by_look.measure()
    expected = UNCALIBRATED | {"full": 12, "awq-block-clip-3": 3, "gptq-foreign-4": 6, "keep-weight-4": 12}
    assert scored(losses) == expected
    assert sorted(calibrations) == [((3,), ("awq-block", "awq-block-clip"), 16), ((4,), ("gptq",), 4)]
    there = losses["window_loss"].notnull()
    same = at_once["window_loss"].sel(strategy=losses["strategy"]).where(there)
    np.testing.assert_allclose(losses["window_loss"], same, rtol=1e-9)
    assert by_look.record()["stopped"] == "the last look was reached"
    for look in range(3):  # nested windows
        at = losses["window_look"].values <= look
        assert at.sum() == LOOKS.windows[look]
        assert there.sel(strategy="full").values[at].all()


def test_round_to_nearest_comes_before_what_must_be_calibrated(make: Make, calibrations: list[Any]) -> None:
    asked: list[dict[str, int]] = []

    def wanted(measured: Measured) -> dict[str, int]:
        assert measured.losses is not None
        asked.append(scored(measured.losses))
        return {"rtn-4": 1, "awq-block-3": 0} if len(asked) == 1 else {}

    assert scored(make(wanted).measure())["rtn-4"] == 6
    assert len(asked) == 2
    assert asked[1]["awq-block-3"] == 0
    assert not calibrations


def test_a_stopped_run_goes_on_with_the_next_strategy(
    make: Make, tmp_path: Path, calibrations: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["awq-half-3", "awq-block-3", "keep-weight-3", "keep-activation-3"]
    wanted: dict[str, int] = dict.fromkeys(names, 1)
    genuine, writes = LossesByLook.keep, []

    def keep(self: LossesByLook, name: str, look: int, arrays: Any) -> None:
        writes.append((name, look))
        if len(writes) == 8:
            raise KeyboardInterrupt
        genuine(self, name, look, arrays)

    monkeypatch.setattr(LossesByLook, "keep", keep)
    with pytest.raises(KeyboardInterrupt):
        make(asking(wanted)).measure()
    assert any(tmp_path.rglob("calibration*/*.npz"))  # what was found is kept until all is scored
    done, writes[:] = writes[:7], []
    calibrations.clear()
    losses = make(asking(wanted)).measure()
    assert not set(writes) & set(done)
    assert {*writes, *done} == {(name, look) for name in names for look in (0, 1)} | {
        *((name, 0) for name in UNCALIBRATED),
        ("full", 1),
    }
    assert len(calibrations) <= 1
    assert not any(tmp_path.rglob("*.npz"))
    monkeypatch.undo()
    again = make(asking(wanted))
    again._make = None  # type: ignore[assignment]
    assert again.is_cached()
    xr.testing.assert_identical(make(asking(wanted)).measure(), losses)


def test_another_selection_takes_what_is_there(make: Make, calibrations: list[Any]) -> None:
    make(asking({"gptq-3": 1})).measure()
    assert make(asking({"gptq-3": 0})).is_cached()
    assert not make(asking({"gptq-3": 2})).is_cached()
    assert not make(asking({"gptq-3": 1}), refresh=True).is_cached()
    assert not make(asking({"gptq-3": 0}), looks=Looks((4, 12), 12, 2, 1, None)).is_cached()
    calibrations.clear()
    assert scored(make(asking({"gptq-3": 0})).measure())["gptq-3"] == 3
    assert not calibrations


def test_a_cache_that_only_reads_gives_what_it_has(make: Make) -> None:
    with pytest.raises(NotMeasuredError):
        reading(make(asking())).measure()
    make(asking({"rtn-4": 1})).measure()
    assert scored(reading(make()).measure()) == UNCALIBRATED | {"full": 6, "rtn-4": 6}


def reading(losses: LossesByLook) -> LossesByLook:
    losses.cache.only_reads = True
    return losses


def test_operations_are_counted_by_parameters_strategies_and_tokens() -> None:
    heldout = np.zeros((64, 512), dtype=int)
    looks = looks_at(heldout, 1_000_000, 10, None)
    assert looks.operations == 2 * 1_000_000 * 56 * 64 * 512
    assert looks.windows == (16, 32, 64)
