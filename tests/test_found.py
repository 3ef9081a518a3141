"""Calibrating that was stopped goes on after the blocks it kept, and finds the same to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from awq_core.calibrated import BLOCK, CLIP, GPTQ, GPTQ_ORDER, METHODS, Calibrated, calibrate
from awq_core.calibration_results import block_arrays, restored_block

from awq_core.kept_blocks import Arrays
from awq_core.streaming import BlockStream
from fixtures.kept_blocks import BlocksOnDisk
from tests.structured_model import LLAMA, structured_model, tokens


class StoppedError(Exception):
    pass


def assert_same(first: Calibrated, second: Calibrated) -> None:
    """Everything but the seconds."""
    assert first.scales.keys() == second.scales.keys()
    for key, entries in first.scales.items():
        for entry, other in zip(entries, second.scales[key], strict=True):
            assert (entry.block, entry.fold, entry.alpha) == (other.block, other.fold, other.alpha)
            assert (entry.losses, entry.tried) == (other.losses, other.tried)
            assert entry.scales.dtype == other.scales.dtype
            assert torch.equal(entry.scales, other.scales)
    assert first.limits.keys() == second.limits.keys()
    for bits, limits in first.limits.items():
        assert list(limits) == list(second.limits[bits])
        assert all(torch.equal(limit, second.limits[bits][name]) for name, limit in limits.items())
    assert first.weights.keys() == second.weights.keys()
    for key, weights in first.weights.items():
        assert list(weights) == list(second.weights[key])
        for name, weight in weights.items():
            assert weight.dtype == second.weights[key][name].dtype
            assert torch.equal(weight, second.weights[key][name])
    assert first.costs.keys() == second.costs.keys()
    assert [cost.operations for cost in first.costs.values()] == [cost.operations for cost in second.costs.values()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_stopped_after_any_block_it_finds_the_same(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks on disk, every method, grouped queries: an averaged fold is among the scales."""
    model, ids = structured_model(2, "qwen2", num_hidden_layers=3).to(dtype), tokens(4)
    whole = calibrate(model, LLAMA, ids, (3, 4), METHODS)
    assert {key for key, _ in whole.weights} == {GPTQ, GPTQ_ORDER}
    begun: list[int] = []
    begin = BlockStream.begin
    monkeypatch.setattr(BlockStream, "begin", lambda stream, block: (begun.append(block), begin(stream, block))[1])
    for stop in (1, 2, 3):
        kept = BlocksOnDisk(tmp_path / str(stop), pytest.fail)

        def interrupt(done: int, total: int, stop: int = stop) -> None:
            if done == stop:
                raise StoppedError

        with pytest.raises(StoppedError):
            calibrate(model, LLAMA, ids, (3, 4), METHODS, kept=kept, progress=interrupt)
        begun.clear()
        resumed = calibrate(model, LLAMA, ids, (3, 4), METHODS, kept=kept)
        assert begun == list(range(stop, 3))  # the others were not measured again
        assert_same(resumed, whole)


def test_what_is_kept_is_plain_and_comes_back_whole() -> None:
    blocks: dict[int, Arrays] = {}

    class InMemory:
        def read(self, index: int) -> Arrays | None:
            return None

        def write(self, index: int, arrays: Arrays) -> None:
            blocks[index] = arrays

    found = calibrate(structured_model(), LLAMA, tokens(2), (3,), (BLOCK, CLIP, GPTQ), kept=InMemory())
    assert list(blocks) == [0, 1]
    assert {array.dtype.kind for arrays in blocks.values() for array in arrays.values()} <= set("fiubU")
    restored = Calibrated()
    for block, arrays in blocks.items():
        restored.add(restored_block(arrays, LLAMA, block))
    assert_same(restored, found)
    assert restored.costs == found.costs
    again = block_arrays(restored_block(blocks[1], LLAMA, 1))
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in blocks[1].items()
    }
