"""What is kept of a stage while it is being measured: whole or not at all, and gone once the stage is whole."""

import os

import numpy as np
import pytest
import xarray as xr

import fixtures.cache.checkpoints
from fixtures.cache.checkpoints import CheckpointsOnDisk
from fixtures.cache.store import MeasurementCache

KEY = "ab" * 32
ARRAYS = {
    "error": np.array([[1.0, np.nan, -np.inf], [2.5, 1e-300, 0.1]]),
    "half": np.array([1, 2, 3], dtype=np.float16),
    "names": np.array(["model.layers.0.mlp.down_proj", "\N{GREEK SMALL LETTER ALPHA}"]),
    "file": np.array(7),
    "nothing": np.zeros((0, 3), dtype=bool),
}
NUMBERS = (xr.Dataset({"x": 42}),)


@pytest.fixture
def blocks(tmp_path, lines):
    return CheckpointsOnDisk(tmp_path / "entry" / "blocks" / "layers", lines.append)


def assert_same(found, expected):
    assert found is not None
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def files(blocks):
    return sorted(blocks.folder.iterdir())


def test_what_was_written_is_read_to_the_last_bit(blocks):
    assert blocks.read(0) is None
    assert not blocks.folder.exists()
    blocks.write(0, ARRAYS)
    blocks.write(10, {"other": np.ones(2)})
    assert_same(blocks.read(0), ARRAYS)
    assert_same(blocks.read(10), {"other": np.ones(2)})
    assert blocks.read(1) is None
    with np.load(files(blocks)[0], allow_pickle=False) as archive:  # an ordinary archive
        assert set(archive.files) == set(ARRAYS)


def test_a_block_that_is_written_again_replaces_itself(blocks):
    blocks.write(0, ARRAYS)
    blocks.write(0, {"other": np.ones(2)})
    assert_same(blocks.read(0), {"other": np.ones(2)})
    assert len(files(blocks)) == 1


def test_objects_are_refused_and_leave_nothing(blocks):
    with pytest.raises(ValueError, match="allow_pickle"):
        blocks.write(0, {"object": np.array([{}], dtype=object)})
    assert files(blocks) == []


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-9], lambda data: b"", lambda data: data[:40] + b"x" + data[41:]],
    ids=["truncated", "empty", "byte"],
)
def test_a_damaged_block_is_reported_and_measured_again(blocks, lines, damage):
    blocks.write(3, ARRAYS)
    (path,) = files(blocks)
    path.write_bytes(damage(path.read_bytes()))
    assert blocks.read(3) is None
    (line,) = lines
    assert line.startswith("block 3 of layers in cache entry entry is damaged (its checksum does not match); ")
    blocks.write(3, ARRAYS)
    assert_same(blocks.read(3), ARRAYS)


@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_stop_while_writing_leaves_nothing_half(blocks, lines, monkeypatch, end):
    def stops(*_, **__):
        raise end

    blocks.write(0, ARRAYS)
    with monkeypatch.context() as patch:
        patch.setattr(fixtures.cache.checkpoints.np.lib.format, "write_array", stops)
        if isinstance(end, OSError):
            blocks.write(1, ARRAYS)  # the run goes on, and has them
            blocks.write(2, ARRAYS)
            assert_same(blocks.read(2), ARRAYS)
        else:
            with pytest.raises(KeyboardInterrupt):
                blocks.write(1, ARRAYS)
    assert len(files(blocks)) == 1
    assert CheckpointsOnDisk(blocks.folder, pytest.fail).read(1) is None
    assert_same(blocks.read(0), ARRAYS)
    told = "blocks of layers in cache entry entry cannot be kept (No space left on device); if stopped, they are lost"
    assert lines == ([told] if isinstance(end, OSError) else [])


def test_what_a_killed_process_was_writing_is_not_taken_for_a_block(blocks, lines):
    blocks.write(0, ARRAYS)
    (blocks.folder / "0123.tmp").write_bytes(b"half")
    os.rename(files(blocks)[0], blocks.folder / "0.npz")
    assert blocks.read(0) is None
    assert lines == []


def stopped(cache, key=KEY):
    """A measurement that keeps two blocks and ends in Ctrl-C."""

    def measure():
        checkpoints = cache.checkpoints(key, "layers")
        for index in range(2):
            if checkpoints.read(index) is None:
                checkpoints.write(index, {"x": np.array(index)})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.datasets(key, ("a",), measure)


def resumed(cache, key=KEY):
    """Which of its blocks a measurement finds."""
    found = []

    def measure():
        checkpoints = cache.checkpoints(key, "layers")
        found.extend(index for index in range(3) if checkpoints.read(index) is not None)
        return NUMBERS

    (dataset,) = cache.datasets(key, ("a",), measure)
    assert dataset["x"].item() == 42
    return found


def test_a_stopped_measurement_finds_its_blocks_and_a_whole_entry_has_none(tmp_path):
    stopped(MeasurementCache(tmp_path))
    assert not MeasurementCache(tmp_path).holds(KEY)
    assert resumed(MeasurementCache(tmp_path)) == [0, 1]
    assert sorted(path.name for path in tmp_path.rglob("measurements/**/*") if path.is_file()) == [
        "a.nc",
        "checksums.json",
    ]
    assert list(tmp_path.rglob("blocks")) == []


def test_blocks_belong_to_one_key_and_one_stage(tmp_path):
    stopped(MeasurementCache(tmp_path))
    assert resumed(MeasurementCache(tmp_path), "cd" * 32) == []
    assert MeasurementCache(tmp_path).checkpoints(KEY, "losses").read(0) is None
    assert resumed(MeasurementCache(tmp_path)) == [0, 1]


def test_a_refresh_begins_without_the_blocks_of_earlier_runs(tmp_path):
    stopped(MeasurementCache(tmp_path))
    assert resumed(MeasurementCache(tmp_path, refresh=True)) == []


def test_a_refresh_that_was_killed_goes_on_only_without_the_option(tmp_path):
    refresh = MeasurementCache(tmp_path, refresh=True)
    stopped(refresh)
    again = MeasurementCache(tmp_path, refresh=True)
    stopped(again)
    assert again.checkpoints(KEY, "layers").read(1) is not None  # its own
    assert resumed(MeasurementCache(tmp_path)) == [0, 1]
    # Where an older entry is whole, it is read, and the refresh's blocks are dropped.
    stopped(MeasurementCache(tmp_path, refresh=True))
    assert list(tmp_path.rglob("blocks")) != []
    MeasurementCache(tmp_path).datasets(KEY, ("a",), pytest.fail)
    assert list(tmp_path.rglob("blocks")) == []
