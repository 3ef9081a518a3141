"""The measurement cache: what makes an entry stale, what damages one, and that none is ever half-written."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import awq_core
import fixtures.cache.store
from fixtures.cache.store import READERS, MeasurementCache, instrument_version, instruments, key_of
from fixtures.errors import UserError

NAMES = ("channels", "errors")
KEY = "ab" * 32


def datasets():
    values = np.array([[1.0, np.nan, -np.inf], [2.5, 1e-300, 0.1]])
    channels = xr.Dataset(
        {
            "magnitude": (("site", "channel"), values),
            "counts": (("site",), np.array([3, 2**40])),
            "site_role": (("site",), ["attention_in", "mlp_out"]),
        },
        {"site": ["block 0 attention_in", "block 0 mlp_out"], "site_block": ("site", [0, 0])},
        attrs={"search": json.dumps({"awq-block-4": {"block 0 mlp_in": 0.35}}), "tokens": 7},
    )
    return channels, xr.Dataset({"error": (("bits",), np.array([0.25, 0.5]))}, {"bits": [4, 3]})


class Instrument:
    """Measures, and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return datasets()


@pytest.fixture
def measure():
    return Instrument()


@pytest.fixture
def cache(tmp_path, lines):
    return MeasurementCache(tmp_path / "cache", report=lines.append)


def entry(cache: MeasurementCache) -> Path:
    return cache.folder / "measurements" / KEY[:2] / KEY


def files(cache: MeasurementCache) -> list[str]:
    return sorted(path.name for path in entry(cache).iterdir())


WHOLE = ["channels.nc", "checksums.json", "errors.nc"]


def test_what_was_stored_comes_back_as_it_was(cache, measure):
    measured = cache.datasets(KEY, NAMES, measure)
    read = cache.datasets(KEY, NAMES, measure)
    assert measure.calls == 1
    for before, after in zip(measured, read, strict=True):
        xr.testing.assert_identical(before, after)
    assert read[0]["magnitude"].dtype == np.float64
    assert read[0]["site_role"].values.tolist() == ["attention_in", "mlp_out"]
    assert json.loads(read[0].attrs["search"])["awq-block-4"] == {"block 0 mlp_in": 0.35}
    assert files(cache) == WHOLE


def test_every_part_of_a_key_matters_and_their_order_does_not():
    parts = {"weights": "a", "tokens": "b", "seed": 0, "settings": {"bits": (4, 3)}}
    key = key_of(**parts)
    others = [
        key_of(**{**parts, name: value})
        for name, value in {"weights": "c", "tokens": "a", "seed": 1, "settings": {"bits": (4,)}, "more": None}.items()
    ]
    assert len({key, *others}) == 6
    assert key_of(**dict(reversed(parts.items()))) == key


ROOT = Path(awq_core.__file__).parents[1]
INSTRUMENTS = [path.relative_to(ROOT).as_posix() for path in instruments()]


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """A folder with copies of the code, which a test may change: the version, which a process takes once, is theirs."""
    before = instrument_version()
    for package in ("awq_core", "fixtures"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("embedded", "*.pyc"))
    monkeypatch.setattr(fixtures.cache.store.awq_core, "__file__", str(tmp_path / "awq_core" / "__init__.py"))
    monkeypatch.setattr(fixtures.cache.store, "__file__", str(tmp_path / "fixtures" / "cache" / "store.py"))
    assert version_taken_anew() == before
    yield tmp_path
    instrument_version.cache_clear()


def version_taken_anew() -> str:
    instrument_version.cache_clear()
    return instrument_version()


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_a_changed_instrument_changes_every_key(name, copies):
    before, key = instrument_version(), key_of(stage="layers")
    with (copies / name).open("a") as source:
        source.write("CHANGED = True\n")
    assert key_of(stage="layers") == key  # this process has loaded the code as it was
    assert version_taken_anew() != before
    assert key_of(stage="layers") != key


def test_what_judges_measurements_leaves_them_valid(copies):
    before = instrument_version()
    places = [copies / place for place in READERS]
    readers = [path for place in places for path in (place.glob("*.py") if place.is_dir() else [place])]
    assert {"verdicts.py", "metrics.py", "intervals.py", "quantized_model.py"} <= {path.name for path in readers}
    for path in readers:
        path.write_text(f"{path.read_text()}\nCHANGED = True\n")
    assert version_taken_anew() == before


def test_prose_and_layout_leave_measurements_valid(copies):
    before = instrument_version()
    for name in INSTRUMENTS:
        reworded = (copies / name).read_text().replace('"""', '"""Reworded. ', 1)
        (copies / name).write_text(f"{reworded}\n\n# a comment\n'a string that says something'\n")
    assert version_taken_anew() == before


def test_no_instrument_imports_what_only_judges():
    """Otherwise a change there would leave measurements in the cache that today's code would not make."""
    assert {"awq_core/measured.py", "awq_core/measure/methods/one_pass.py", "fixtures/measuring/model.py"} <= {
        *INSTRUMENTS
    }
    assert not any(name.startswith(READERS) for name in INSTRUMENTS)
    for name in INSTRUMENTS:
        source = (ROOT / name).read_text()
        assert not re.search(r"import .*\bjudging\b|from awq_core\.(judging|quantized_model)", source), name


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("errors.nc", flipped),
        ("channels.nc", halved),
        ("checksums.json", lambda data: data[:20]),
        ("errors.nc", None),
        ("errors.nc", lambda data: b""),
        ("checksums.json", lambda data: b"{}"),
        ("checksums.json", lambda data: b"[]"),
        ("checksums.json", lambda data: b"\xff\xfe\x00"),
    ],
    ids=["byte", "truncated", "checksums cut", "missing", "empty", "no checksum", "no table", "no text"],
)
def test_a_damaged_entry_is_reported_and_measured_again(name, damage, cache, measure, lines):
    cache.datasets(KEY, NAMES, measure)
    path = entry(cache) / name
    path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
    read = cache.datasets(KEY, NAMES, measure)
    assert measure.calls == 2
    xr.testing.assert_identical(read[0], datasets()[0])
    (line,) = lines
    assert line.startswith(f"cache entry {KEY[:12]} is damaged (")
    assert line.endswith("); measuring again")
    assert "\n" not in line
    cache.datasets(KEY, NAMES, measure)
    assert measure.calls == 2
    assert len(lines) == 1
    assert files(cache) == WHOLE


def test_a_measurement_that_fails_leaves_nothing(cache, measure):
    def fails():
        raise RuntimeError("infinite activations")

    with pytest.raises(RuntimeError, match="infinite"):
        cache.datasets(KEY, NAMES, fails)
    assert not entry(cache).exists()
    assert not cache.holds(KEY)
    cache.datasets(KEY, NAMES, measure)
    assert measure.calls == 1


@pytest.mark.parametrize("survived", [0, 1, 2], ids=["first file", "second file", "checksums"])
@pytest.mark.parametrize("earlier", [False, True], ids=["new entry", "over an older one"])
@pytest.mark.parametrize("end", [OSError("disk full"), KeyboardInterrupt()], ids=["disk full", "ctrl-c"])
def test_a_stop_between_two_files_leaves_no_entry(survived, earlier, end, tmp_path, measure, lines, monkeypatch):
    folder = tmp_path / "cache"
    if earlier:
        MeasurementCache(folder).datasets(KEY, NAMES, measure)
    real = fixtures.cache.store.os.replace
    renamed = []

    def stops(source, target):
        if len(renamed) == survived:
            raise end
        renamed.append(target)
        real(source, target)

    cache = MeasurementCache(folder, refresh=True)
    with monkeypatch.context() as patch:
        patch.setattr(fixtures.cache.store.os, "replace", stops)
        with pytest.raises(type(end)):
            cache.datasets(KEY, NAMES, measure)
    assert not [name for name in files(cache) if name.endswith(".tmp")]
    after = MeasurementCache(folder, report=lines.append)
    assert not after.holds(KEY)
    calls = measure.calls
    xr.testing.assert_identical(after.datasets(KEY, NAMES, measure)[0], datasets()[0])
    assert measure.calls == calls + 1
    assert lines == []


def test_what_a_killed_process_left_is_cleared_away(cache, measure):
    entry(cache).mkdir(parents=True)
    (entry(cache) / "channels.0123.tmp").write_bytes(b"half")
    (entry(cache) / "channels.nc").write_bytes(b"whole, but without its checksum")
    assert not cache.holds(KEY)
    cache.datasets(KEY, NAMES, measure)
    assert files(cache) == WHOLE


def test_a_refresh_measures_again_once_in_a_run(tmp_path, measure):
    MeasurementCache(tmp_path).datasets(KEY, NAMES, measure)
    again = MeasurementCache(tmp_path, refresh=True)
    assert not again.holds(KEY)
    for _ in range(3):
        again.datasets(KEY, NAMES, measure)
    assert measure.calls == 2


def test_of_several_that_want_the_same_only_one_measures(tmp_path):
    # A file lock of each cache object's own excludes other threads as it does other processes.
    started = threading.Barrier(4)
    calls = []

    def slow():
        calls.append(threading.get_ident())
        time.sleep(0.2)
        return datasets()

    def wants(_):
        cache = MeasurementCache(tmp_path)
        started.wait(timeout=10)
        return cache.datasets(KEY, NAMES, slow)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(wants, range(4)))
    assert len(calls) == 1
    for result in results:
        xr.testing.assert_identical(result[0], datasets()[0])


def test_another_process_waits_for_the_one_that_measures(tmp_path):
    program = """
import sys
from fixtures.cache.store import MeasurementCache
import xarray as xr
def unwanted(): raise SystemExit("measured twice")
print("ready", flush=True)
sys.stdin.readline()
(found,) = MeasurementCache().datasets("cd" * 32, ("a",), unwanted)
print(found["x"].item())
"""
    root = Path(fixtures.cache.store.__file__).resolve().parent.parent
    environment = {**os.environ, "AWQ_CLAIMS_CACHE": str(tmp_path), "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "ready\n"

        def measure():
            process.stdin.write("go\n")  # it asks for the same while this one measures
            process.stdin.flush()
            time.sleep(0.5)
            assert process.poll() is None
            return (xr.Dataset({"x": 42}),)

        MeasurementCache(tmp_path).datasets("cd" * 32, ("a",), measure)
        output, _ = process.communicate(timeout=30)
    assert output == "42\n"
    assert process.returncode == 0


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(tmp_path / "mine"))
    assert MeasurementCache().folder == tmp_path / "mine"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", "~/mine")
    assert MeasurementCache().folder == tmp_path / "mine"
    assert MeasurementCache(tmp_path / "other").folder == tmp_path / "other"
    monkeypatch.delenv("AWQ_CLAIMS_CACHE")
    assert MeasurementCache().folder.name == "awq-claims"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"the cache folder '.*taken' cannot be written \(.*\); set AWQ_CLAIMS_CACHE"):
        MeasurementCache(tmp_path / "taken").prepare()
    MeasurementCache(tmp_path / "new" / "folder").prepare()
    assert list((tmp_path / "new" / "folder" / "locks").iterdir()) == []


def test_what_is_known_is_read_and_nothing_is_measured(cache, measure, lines):
    assert cache.known(KEY, NAMES) is None
    measured = cache.datasets(KEY, NAMES, measure)
    for before, after in zip(measured, cache.known(KEY, NAMES), strict=True):
        xr.testing.assert_identical(before, after)
    refresh = MeasurementCache(cache.folder, refresh=True)
    assert refresh.known(KEY, NAMES) is None
    refresh.datasets(KEY, NAMES, measure)
    assert refresh.known(KEY, NAMES) is not None  # its own
    path = entry(cache) / "channels.nc"
    path.write_bytes(halved(path.read_bytes()))
    assert cache.known(KEY, NAMES) is None
    assert cache.known(KEY, NAMES) is None
    assert len(lines) == 1  # said once
    assert measure.calls == 2
