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

import fixtures.cache.checkpoints
from awq_core.architectures.block_stream import Blocks
from awq_core.measure.methods.block_rounding import LayerFindings
from awq_core.measure.methods.looks import Looks
from awq_core.measure.methods.losses import Scores
from awq_core.measure.methods.one_pass import MethodPass
from awq_core.measure.methods.searches import Calibration
from awq_core.measure.methods.table import METHODS, strategies
from awq_core.measured import JUDGED_BITS, Measured
from fixtures.cache.checkpoints import CheckpointsOnDisk
from fixtures.cache.store import MeasurementCache
from fixtures.measuring.losses_by_look import LARGEST_CHANGE, LossesByLook, Wanted, looks_at
from fixtures.measuring.losses_dataset import losses_dataset
from fixtures.progress import MeasurementProgress
from fixtures.texts.calibration import calibration_texts
from fixtures.texts.tokens import token_hash
from tests.structured_model import LLAMA, measured_layers, structured_model, tokens

CALIBRATION, FOREIGN, HELDOUT = tokens(16), tokens(4, seed=7), tokens(12, seed=1)
LOOKS = Looks((3, 6, 12), 12, 2, None)
SEED = 3
UNCALIBRATED = {"full": 3, "rtn-3": 3, "rtn-4": 3}
"""Windows of what every model is scored under."""


@pytest.fixture(scope="module")
def model() -> Any:
    return structured_model(2, "qwen2")


@pytest.fixture(scope="module")
def layers(model: Any) -> Measured:
    return measured_layers(model, CALIBRATION, HELDOUT)


def method_pass(model: Any, layers: Measured) -> MethodPass:
    findings = LayerFindings.of(layers.channels, layers.errors, JUDGED_BITS, SEED)
    return MethodPass(Blocks(model, LLAMA), calibration_texts(CALIBRATION, FOREIGN), findings, torch.float64)


@pytest.fixture(scope="module")
def at_once(model: Any, layers: Measured) -> xr.Dataset:
    """What scoring everything in one pass gives."""
    made, listed = method_pass(model, layers), strategies(model, LLAMA, JUDGED_BITS, all_methods=True)
    return losses_dataset(listed, made.score(listed, HELDOUT), made, HELDOUT, SEED)


Make = Callable[..., LossesByLook]


@pytest.fixture
def make(tmp_path: Path, model: Any, layers: Measured, lines: list[str]) -> Make:
    """Losses by look, all with one empty cache."""

    def losses(
        wanted: Wanted | None = None,
        looks: Looks = LOOKS,
        heldout: np.ndarray = HELDOUT,
        *,
        all_methods: bool = False,
        **of_cache: Any,
    ) -> LossesByLook:
        cache = MeasurementCache(tmp_path, report=lines.append, **of_cache)
        cache.prepare()
        return LossesByLook(
            "tiny",
            looks,
            {"seed": SEED, "heldout": token_hash(heldout)},
            {"calibration": "this"},
            lambda: method_pass(model, layers),
            heldout,
            lambda found: Measured("tiny", None, 0, layers.channels, layers.errors, found, {}, {}),
            wanted,
            cache,
            MeasurementProgress(None),
            all_methods=all_methods,
        )

    return losses


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What searches find: the search and the block, in order."""
    written: list[tuple[str, int]] = []
    genuine = CheckpointsOnDisk.write

    def write(self: CheckpointsOnDisk, index: int, arrays: Any) -> None:
        genuine(self, index, arrays)
        written.append((self.folder.name, index))

    monkeypatch.setattr(CheckpointsOnDisk, "write", write)
    return written


def asking(*answers: Mapping[str, int]) -> Wanted:
    """Wants one thing after another, then nothing."""
    left: Iterator[Mapping[str, int]] = iter(answers)
    return lambda measured: next(left, {})


def always(**wanted: int) -> Wanted:
    """Wants the same whatever was measured: `awq_block_3=1`."""
    return lambda measured: {name.replace("_", "-"): look for name, look in wanted.items()}


def scored(losses: xr.Dataset) -> dict[str, int]:
    """On how many windows each strategy was scored."""
    counts = losses["window_loss"].notnull().sum("window")
    return dict(zip(map(str, losses["strategy"].values), counts.values.tolist(), strict=True))


def assert_same_scores(losses: xr.Dataset, expected: xr.Dataset, rtol: float = 0.0) -> None:
    there = losses["window_loss"].notnull()
    for name in ("window_loss", "window_kl"):
        same = expected[name].sel(strategy=losses["strategy"]).where(there)
        np.testing.assert_allclose(losses[name], same, rtol=rtol, atol=rtol * 1e-3)


def without_seconds(record: str) -> dict[str, int]:
    return {name: cost["operations"] for name, cost in json.loads(record).items()}


def refuse(*_: Any) -> None:
    raise AssertionError("nothing should be searched")


LATER = Looks((3, 12), 12, 2, None)


def test_all_methods_are_scored_at_the_first_look_and_everything_is_everything_at_once(
    make: Make, at_once: xr.Dataset
) -> None:
    shown = {name for name, method in METHODS.items() if method.shown}
    first = make(asking({"rtn-3": 1}), LATER, all_methods=True).measure()
    assert scored(first) == dict.fromkeys(at_once["strategy"].values, 3) | {"full": 12, "rtn-3": 12}
    assert set(first["strategy_method"].values) >= shown
    assert not shown & set(make(asking(), LATER).measure()["strategy_method"].values)

    losses = make(None, LATER, all_methods=True).measure()
    assert losses["strategy"].values.tolist() == at_once["strategy"].values.tolist()
    assert set(scored(losses).values()) == {12}
    assert_same_scores(losses, at_once, rtol=1e-9)
    for name in ("strategy_method", "strategy_bits", "strategy_deploys", "strategy_needs"):
        assert losses[name].values.tolist() == at_once[name].values.tolist()
    for name in ("folding", "calibration_sequences", "search"):
        assert json.loads(losses.attrs[name]) == json.loads(at_once.attrs[name]), name
    assert without_seconds(losses.attrs["cost"]) == without_seconds(at_once.attrs["cost"])
    assert json.loads(losses.attrs["calibration_sequences"]) == {"own": 16, "few": 2, "foreign": 4}


def test_what_nothing_wants_is_neither_searched_nor_scored(make: Make, found: list[Any]) -> None:
    by_look = make(asking())
    assert scored(by_look.measure()) == UNCALIBRATED
    assert not found
    assert by_look.record()["strategies_at_look"] == [3, 0, 0]
    assert by_look.record()["stopped"] == "no claim needed another look"


def test_a_strategy_is_scored_as_far_as_it_is_wanted(make: Make, found: list[Any], at_once: xr.Dataset) -> None:
    first = {"awq-block-clip-3": 0, "gptq-foreign-4": 1, "keep-weight-4": 0}
    by_look = make(asking(first, {"keep-weight-4": 2}))
    losses = by_look.measure()
    assert scored(losses) == UNCALIBRATED | {
        **{"full": 12, "awq-block-clip-3": 3},
        **{"gptq-foreign-4": 6, "keep-weight-4": 12},
    }
    searches = ("awq-block-3", "awq-block-clip-3", "gptq-foreign-4")
    assert sorted(found) == sorted((name, block) for name in searches for block in (0, 1))
    assert_same_scores(losses, at_once, rtol=1e-9)
    assert by_look.record()["stopped"] == "the last look was reached"
    for look in range(3):  # nested windows
        at = losses["window_look"].values <= look
        assert at.sum() == LOOKS.windows[look]
        assert losses["window_loss"].notnull().sel(strategy="full").values[at].all()


def test_what_searching_takes_is_kept_with_the_scores_and_timed_once(make: Make) -> None:
    losses = make(asking({"awq-block-4": 0, "gptq-4": 0})).measure()
    costs = json.loads(losses.attrs["cost"])
    assert set(costs) == {"awq-block-4", "gptq-4"}
    assert all(cost["seconds"] > 0 and cost["operations"] > 0 for cost in costs.values())
    assert make(asking({"awq-block-4": 1, "gptq-4": 1})).measure().attrs["cost"] == losses.attrs["cost"]


def test_round_to_nearest_comes_before_what_must_be_searched(make: Make, found: list[Any]) -> None:
    asked: list[dict[str, int]] = []

    def wanted(measured: Measured) -> dict[str, int]:
        assert measured.losses is not None
        asked.append(scored(measured.losses))
        assert len(asked) > 1 or not found
        return {"rtn-4": 1, "awq-block-3": 0} if len(asked) == 1 else {}

    make(wanted).measure()
    first, second = asked
    assert first["rtn-4"] == first["full"] == 3
    assert first["awq-block-3"] == 0
    assert (second["rtn-4"], second["awq-block-3"]) == (6, 3)


def test_a_look_at_the_cache_takes_the_same_steps(make: Make) -> None:
    """Where rounding costs nothing a claim needs no other method, which it asked for before it knew."""

    def wanted(measured: Measured) -> dict[str, int]:
        assert measured.losses is not None
        return {} if scored(measured.losses)["rtn-4"] else {"rtn-4": 0, "gptq-4": 0}

    assert not make(wanted).is_cached()
    assert scored(make(wanted).measure()) == UNCALIBRATED
    assert make(wanted).is_cached()


def test_a_run_that_was_stopped_between_scores_searches_nothing_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = always(awq_half_3=1, awq_block_3=1, gptq_3=1, keep_weight_3=1)
    genuine, kept = LossesByLook._keep, []

    def keep(self: LossesByLook, strategy: Any, look: int, *given: Any) -> None:
        kept.append((strategy.name, look))
        if len(kept) == 6:
            raise KeyboardInterrupt
        genuine(self, strategy, look, *given)

    monkeypatch.setattr(LossesByLook, "_keep", keep)
    with pytest.raises(KeyboardInterrupt):
        make(wanted).measure()
    done, kept[:] = kept[:5], []
    monkeypatch.setattr(
        LossesByLook, "_keep", lambda self, s, look, *g: (kept.append((s.name, look)), genuine(self, s, look, *g))
    )
    monkeypatch.setattr(Calibration, "timed", refuse)
    losses = make(wanted).measure()
    assert not set(kept) & set(done)
    assert scored(losses) == UNCALIBRATED | {"full": 6, "awq-block-3": 6, "gptq-3": 6, "keep-weight-3": 6}
    monkeypatch.setattr(LossesByLook, "_methods", refuse)
    assert make(wanted).is_cached()
    xr.testing.assert_identical(make(wanted).measure(), losses)


@pytest.mark.parametrize("stopped_at", [("awq-block-3", 0), ("gptq-3", 0), ("gptq-3", 1)])
def test_a_run_that_was_stopped_while_searching_goes_on_with_what_is_missing(
    make: Make, at_once: xr.Dataset, stopped_at: tuple[str, int], found: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, counted = always(awq_block_3=0, gptq_3=0), CheckpointsOnDisk.write

    def write(self: CheckpointsOnDisk, index: int, arrays: Any) -> None:
        counted(self, index, arrays)
        if (self.folder.name, index) == stopped_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointsOnDisk, "write", write)
        with pytest.raises(KeyboardInterrupt):
            make(wanted).measure()
    done = list(found)
    losses = make(wanted).measure()
    assert found[: len(done)] == done
    assert sorted(found) == [(name, block) for name in ("awq-block-3", "gptq-3") for block in (0, 1)]
    assert_same_scores(losses, at_once, rtol=1e-9)


def test_more_windows_are_judged_on_what_was_found(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    more, looks, wanted = tokens(30, seed=1), Looks((10, 30), 30, 2, None), always(awq_block_clip_3=1, gptq_4=0)
    make(wanted).measure()
    monkeypatch.setattr(Calibration, "timed", refuse)
    assert not make(wanted, looks, more).is_cached()
    assert scored(make(wanted, looks, more).measure())["awq-block-clip-3"] == 30
    with pytest.raises(AssertionError, match="nothing should be searched"):
        make(always(gptq_3=0), looks, more).measure()


def test_a_refresh_searches_and_scores_anew_and_once(make: Make, found: list[Any]) -> None:
    wanted = always(awq_block_3=1)
    losses = make(wanted).measure()
    before = list(found)
    assert before
    refreshed = make(wanted, refresh=True)
    assert not refreshed.is_cached()
    assert_same_scores(refreshed.measure(), losses)
    assert found == before * 2
    make(wanted).measure()
    assert found == before * 2


def test_another_selection_takes_what_is_there(make: Make, found: list[Any]) -> None:
    make(asking({"gptq-3": 1})).measure()
    assert make(always(gptq_3=0)).is_cached()
    assert not make(always(gptq_3=2)).is_cached()
    assert not make(always(gptq_3=0), looks=Looks((4, 12), 12, 2, None)).is_cached()
    found.clear()
    assert scored(make(always(gptq_3=0)).measure())["gptq-3"] == 3
    assert not found


def test_a_damaged_block_of_a_search_is_found_again_and_no_other(
    make: Make, tmp_path: Path, found: list[Any], lines: list[str]
) -> None:
    losses = make(always(gptq_3=0)).measure()
    (path,) = tmp_path.rglob("gptq-3/1.*.npz")
    path.write_bytes(path.read_bytes()[:-20])
    found.clear()
    further = make(always(gptq_3=1)).measure()
    assert found == [("gptq-3", 1)]
    (line,) = lines
    assert line.startswith("block 1 of gptq-3 in cache entry ")
    assert_same_scores(further.isel(window=further["window_look"] == 0), losses.isel(window=losses["window_look"] == 0))
    assert scored(further)["gptq-3"] == 6


def test_damaged_scores_are_said_once_and_scored_again(make: Make, tmp_path: Path, lines: list[str]) -> None:
    wanted = always(keep_weight_3=0)
    losses = make(wanted).measure()
    for path in tmp_path.rglob("scores.nc"):
        path.write_bytes(path.read_bytes()[:-20])
    assert not make(wanted).is_cached()
    xr.testing.assert_identical(make(wanted).measure(), losses)
    assert len(lines) == len(set(lines)) == len(scored(losses))
    assert make(wanted).is_cached()


def test_a_full_disk_costs_what_a_kill_would_and_nothing_else(
    make: Make, at_once: xr.Dataset, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fixtures.cache.checkpoints.np.lib.format, "write_array", full)
    assert_same_scores(make(always(awq_block_3=1)).measure(), at_once, rtol=1e-9)
    (line,) = lines
    assert "awq-block-3" in line
    assert "cannot be kept (No space left on device)" in line


TRIAL = [(["rtn-3"], 4, "tried")]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], int, bool | str]]:
    """Passes on a processor with products of bfloat16: methods, windows, and whether those are used.

    They give zeros, and a trial gives `CHANGE`.
    """
    made: list[tuple[list[str], int, bool | str]] = []

    def score(self: MethodPass, listed: Any, windows: Any, *_: Any, bfloat16: bool = False) -> list[Scores]:
        made.append(([strategy.name for strategy in listed], len(windows), bfloat16))
        zeros = np.zeros(len(windows))
        return [Scores(zeros, zeros) for _ in listed]

    def bfloat16_change(self: MethodPass, strategy: Any, windows: Any) -> float:
        made.append(([strategy.name], len(windows), "tried"))
        return CHANGE["trial"]

    monkeypatch.setattr("fixtures.measuring.losses_by_look.multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr(MethodPass, "score", score)
    monkeypatch.setattr(MethodPass, "bfloat16_change", bfloat16_change)
    return made


CHANGE = {"trial": 0.0}


@pytest.mark.parametrize(("change", "used"), [(0.9, True), (1.1, False)])
def test_products_in_bfloat16_are_tried_and_used_where_they_change_little(
    change: float, used: bool, make: Make, passes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHANGE, "trial", change * LARGEST_CHANGE)
    losses = make(asking({"rtn-4": 1})).measure()
    assert passes[:1] == TRIAL
    assert {bfloat16 for *_, bfloat16 in passes[1:]} == {used}
    record = json.loads(losses.attrs["bfloat16_products"])
    assert record == {"used": used, "largest_change": CHANGE["trial"], "allowed": LARGEST_CHANGE}
    # A later run does as was decided, and tries nothing again.
    del passes[:]
    make(asking({"rtn-4": 2})).measure()
    assert [windows for _, windows, _ in passes] == [6]
    assert {bfloat16 for *_, bfloat16 in passes} == {used}


def test_where_there_are_none_nothing_is_tried(make: Make, passes: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fixtures.measuring.losses_by_look.multiplies_bfloat16", lambda device: False)
    losses = make(asking()).measure()
    assert passes == [(["rtn-3", "rtn-4", "full"], 3, False)]
    assert json.loads(losses.attrs["bfloat16_products"]) == {"used": False}


def test_the_same_is_tried_whichever_methods_are_scored(make: Make, passes: list[Any]) -> None:
    with pytest.raises(LookupError):  # these passes search nothing
        make(all_methods=True).measure()
    assert passes[:1] == TRIAL


def test_operations_are_counted_by_parameters_methods_and_tokens() -> None:
    heldout = np.zeros((64, 512), dtype=int)
    looks = looks_at(heldout, 1_000_000, 10, None)
    assert looks.operations == 2 * 1_000_000 * 10 * 64 * 512
    assert looks.windows == (16, 32, 64)
