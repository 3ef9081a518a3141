"""What searches found: as plain arrays and back, and a pass that was stopped goes on with its checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from awq_core.measure.checkpoints import Arrays, Checkpoints, CheckpointsInMemory
from awq_core.measure.methods import calibrated_blocks
from awq_core.measure.methods.block_rounding import LayerFindings
from awq_core.measure.methods.losses import Scores
from awq_core.measure.methods.search_results import SearchResults, from_arrays, to_arrays
from awq_core.measure.methods.table import Strategy, strategies
from awq_core.quantization.codes import CodedWeight
from fixtures.cache.checkpoints import CheckpointsOnDisk
from tests.structured_model import LLAMA, layer_findings, method_pass, structured_model, tokens

HELDOUT = tokens(3, seed=3)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


class StoppedError(Exception):
    pass


class Case:
    """A model of some dtype, and every method's scores on it."""

    def __init__(self, dtype: torch.dtype) -> None:
        model = structured_model(2, "qwen2", num_hidden_layers=3)
        self.layers: LayerFindings = layer_findings(model)
        self.model = model.to(dtype)
        self.listed: list[Strategy] = strategies(model, LLAMA, (3,), all_methods=True)
        self.listed += [Strategy(s.method, 3, draw=1) for s in self.listed if s.method.draws_searched]
        self.checkpoints: defaultdict[str, Checkpoints] = defaultdict(CheckpointsInMemory)
        self.whole = self.score(self.checkpoints.__getitem__)

    def score(self, checkpoints: Callable[[str], Checkpoints], **options: Any) -> list[Scores]:
        made = method_pass(self.model, self.layers, arithmetic=torch.float32, checkpoints=checkpoints, exhaustive=False)
        return made.score(self.listed, HELDOUT, **options)

    @property
    def searches(self) -> list[Strategy]:
        return list(dict.fromkeys(search for strategy in self.listed for search in strategy.searches()))


@pytest.fixture(scope="module")
def cases() -> Callable[[torch.dtype], Case]:
    made: dict[torch.dtype, Case] = {}
    return lambda dtype: made.setdefault(dtype, made.get(dtype) or Case(dtype))


def assert_same(first: SearchResults, second: SearchResults) -> None:
    """To the last bit, in order."""

    def same(one: torch.Tensor, other: torch.Tensor) -> bool:
        return one.dtype == other.dtype and torch.equal(one, other)

    for entry, other in zip(first.scales, second.scales, strict=True):
        assert (entry.block, entry.fold, entry.alpha) == (other.block, other.fold, other.alpha)
        assert (entry.losses, entry.tried) == (other.losses, other.tried)
        assert same(entry.scales, other.scales)
        assert same(entry.magnitude, other.magnitude)
    for one, another in ((first.sites, second.sites), (first.limits, second.limits)):
        assert list(one) == list(another)
        assert all(same(tensor, another[name]) for name, tensor in one.items())
    assert list(first.weights) == list(second.weights)
    for name, coded in first.weights.items():
        restored: CodedWeight = second.weights[name]
        assert (coded.packed, coded.dtype) == (restored.packed, restored.dtype)
        assert same(coded.codes, restored.codes)
        assert same(coded.dequantize(), restored.dequantize())
    assert (first.seconds, first.operations) == (second.seconds, second.operations)


@DTYPES
def test_what_is_kept_is_plain_and_comes_back_whole(
    dtype: torch.dtype, cases: Callable[[torch.dtype], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every method, as the searches handed it over: what a pass reads back is what it found."""
    case = cases(dtype)
    written: list[tuple[SearchResults, Arrays]] = []

    def watched(found: SearchResults) -> Arrays:
        arrays = to_arrays(found)
        written.append((found, arrays))
        return arrays

    monkeypatch.setattr(calibrated_blocks, "to_arrays", watched)
    case.score(defaultdict(CheckpointsInMemory).__getitem__)
    assert len(written) == 3 * len(case.searches)
    kinds = set()
    for found, arrays in written:
        assert {array.dtype.kind for array in arrays.values()} <= set("fiubU")
        block = found.scales[0].block if found.scales else 0
        restored = from_arrays(arrays, LLAMA, block)
        assert_same(found, restored)
        again = to_arrays(restored)
        assert {n: a.tobytes() for n, a in again.items()} == {n: a.tobytes() for n, a in arrays.items()}
        kinds |= {kind for kind in ("scales", "sites", "limits", "weights") if getattr(found, kind)}
    assert kinds == {"scales", "sites", "limits", "weights"}


def refused(*_: Any) -> Any:
    raise AssertionError("searched again")


def assert_scores_are(found: list[Scores], expected: list[Scores]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.loss, other.loss)
        np.testing.assert_array_equal(one.divergence, other.divergence)


@DTYPES
def test_what_was_kept_is_not_searched_again(
    dtype: torch.dtype, cases: Callable[[torch.dtype], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is any calibration text run through the model."""
    case = cases(dtype)
    monkeypatch.setattr(calibrated_blocks.Searching, "_search", refused)
    monkeypatch.setattr(calibrated_blocks, "BlockInputs", refused)
    monkeypatch.setattr(calibrated_blocks, "BlockStream", refused)
    assert_scores_are(case.score(case.checkpoints.__getitem__), case.whole)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_stopped_after_any_block_it_goes_on_there(
    stop: int, cases: Callable[[torch.dtype], Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks on disk; sequential GPTQ too goes on from what it made of the blocks before."""
    case = cases(torch.float32)

    def checkpoints(search: str) -> Checkpoints:
        return CheckpointsOnDisk(tmp_path / search, pytest.fail)

    def interrupt(done: int, total: int) -> None:
        if done == stop:
            raise StoppedError

    with pytest.raises(StoppedError):
        case.score(checkpoints, progress=interrupt)
    searched = []
    genuine = calibrated_blocks.Searching._search
    monkeypatch.setattr(
        calibrated_blocks.Searching,
        "_search",
        lambda self, search, block, inputs: (
            searched.append((search.name, block)) or genuine(self, search, block, inputs)
        ),
    )
    assert_scores_are(case.score(checkpoints), case.whole)
    assert set(searched) == {(search.name, block) for search in case.searches for block in range(stop, 3)}
    assert len(searched) == len(set(searched))


def test_a_search_that_was_not_made_is_not_found(cases: Callable[[torch.dtype], Case]) -> None:
    case = cases(torch.float32)
    made = method_pass(case.model, case.layers)
    with pytest.raises(LookupError, match="awq-block-3 has not been searched in block 1"):
        made.found(next(search for search in case.searches if search.name == "awq-block-3"), 1)


def test_searches_know_what_they_cost(cases: Callable[[torch.dtype], Case]) -> None:
    case = cases(torch.float32)
    made = method_pass(case.model, case.layers, checkpoints=case.checkpoints.__getitem__)
    for search in case.searches:
        found = made.found(search, 1)
        assert found.seconds > 0
        assert (found.operations > 0) == (search.method.name not in ("rtn-clip", "awq-block-clip", "awq-site"))
    names = [search.name for search in case.searches]
    assert len(set(names)) == len(names)  # each has a place of its own
