"""Kill a run at random moments, and compare its final result with that of an uninterrupted run.

    python -m benchmarks.interruptions embedded-tiny --kills 10 --seed 0

Each kill is a SIGKILL, at a moment drawn uniformly over the duration of the uninterrupted run; the next run resumes
from the cache. A run that ends before its moment is compared, and the next run begins with an empty cache. After the
last kill, one run is left to end. Evidence and per-layer record must be equal bit for bit, except for times.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fixtures.cache.store import CACHE_VARIABLE
from reports.command import Parser

RECORDS = ("evidence.json", "diagnostic.json")
"""Files that are compared."""
TIMED_CLAIMS = ("gptq.slower",)
"""Claims about durations, whose estimate and details are times."""
TIMES = ("generated", "seconds")
"""Keys of dates and durations anywhere in a record."""
ENDED = (0, 1)
"""Exit statuses of a run that judged all claims; 1 means that a verdict is not registered."""


@dataclass
class Runs:
    """Runs of one model in separate processes.

    Attributes:
        model: value of `--model`.
        folder: folder of caches and reports, empty at first.
        claims: files or node ids of claims.
        options: further options of pytest.
        environment: variables to set in the processes, in addition to this process's.
    """

    model: str
    folder: Path
    claims: Sequence[str] = ("claims",)
    options: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, moment: float | None = None) -> float | None:
        """Run once.

        Args:
            name: name of the run's cache and reports.
            moment: time after the start at which to kill the run, in seconds; None to let it end.

        Returns:
            Duration of the run in seconds, or None if it was killed.

        Raises:
            RuntimeError: if the run ends with an unexpected exit status; the message has its last lines of output.
        """
        command = [sys.executable, "-m", "pytest", *self.claims, "--model", self.model, "-q", *self.options]
        environment = os.environ | self.environment | {CACHE_VARIABLE: str(self.folder / f"cache-{name}")}
        began = time.monotonic()
        with (self.folder / f"{name}.txt").open("w+") as output:
            process = subprocess.Popen(
                [*command, f"--output={self.folder / f'out-{name}'}"],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # so that a kill includes the processes that it started
            )
            try:
                status = process.wait(moment)
            except subprocess.TimeoutExpired:
                return None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            if status not in ENDED:
                output.seek(0)
                last = "".join(output.readlines()[-15:])
                raise RuntimeError(f"a run ended with exit status {status}:\n{last}")
        return time.monotonic() - began

    def records(self, name: str) -> dict[str, Any]:
        """Read a run's records without times, by file."""
        (folder,) = (self.folder / f"out-{name}").iterdir()
        return {file: without_times(json.loads((folder / file).read_text(encoding="utf-8"))) for file in RECORDS}

    def found(self, name: str) -> str:
        """Describe the contents of a killed run's cache, in words."""
        measurements = self.folder / f"cache-{name}" / "measurements"
        entries = len(list(measurements.glob("*/*/checksums.json")))
        blocks = len(list(measurements.glob("*/*/blocks/*/*.npz")))
        half = len(list(measurements.rglob("*.tmp")))
        return f"{entries} entries whole, {blocks} blocks kept, {half} files half written"


def without_times(record: Any) -> Any:
    """Remove dates and durations from a record."""
    if isinstance(record, list):
        return [without_times(item) for item in record]
    if not isinstance(record, dict):
        return record
    timed = record.get("id") in TIMED_CLAIMS
    return {
        key: without_times(value)
        for key, value in record.items()
        if key not in TIMES and not (timed and key in ("estimate", "details"))
    }


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Iterate over the differences of two records, such as `evidence.json claims 3 estimate: 1.25, was 1.5`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from differences(before.get(key), after.get(key), f"{where} {key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (mine, theirs) in enumerate(zip(before, after, strict=True)):
            yield from differences(mine, theirs, f"{where} {index}")
    elif before != after:
        yield f"{where.strip()}: {str(after)[:200]}, was {str(before)[:200]}"


def interrupted(runs: Runs, kills: int, seed: int) -> Iterator[str]:
    """Kill runs `kills` times, and yield lines about them; a line about a difference begins with `DIFFERENT`.

    Raises:
        RuntimeError: if a run ends with an unexpected exit status.
    """
    generator = random.Random(seed)
    whole = runs.run("uninterrupted")
    assert whole is not None
    expected = runs.records("uninterrupted")
    yield f"uninterrupted: {whole:.1f} s, {len(expected['evidence.json']['claims'])} verdicts"
    lineage, killed = 0, 0
    while killed < kills:
        name, moment = f"killed-{lineage}", generator.uniform(0, whole)
        took = runs.run(name, moment)
        if took is None:
            killed += 1
            yield f"kill {killed} of {kills} after {moment:.1f} s: {runs.found(name)}"
        else:
            yield f"ended after {took:.1f} s, before its moment at {moment:.1f} s; the next begins with an empty cache"
            yield from _compared(expected, runs.records(name))
            lineage += 1
    name = f"killed-{lineage}"
    took = runs.run(name)
    yield f"left to end: {took:.1f} s; {runs.found(name)}"
    yield from _compared(expected, runs.records(name))


def _compared(expected: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    different = list(differences(expected, found))
    if not different:
        yield f"{' and '.join(RECORDS)} are those of the uninterrupted run"
    yield from (f"DIFFERENT {line}" for line in different)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 1 if records differ, 4 if a run could not be made."""
    parser = Parser(prog="python -m benchmarks.interruptions", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="alias, hub id or folder")
    parser.add_argument("--kills", type=int, default=10, help="how many; default: 10")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default: 0")
    parser.add_argument("--claims", nargs="+", default=["claims"], help="files or node ids; default: all claims")
    given = parser.parse_args(arguments)
    if given.kills < 1:
        parser.error(f"--kills {given.kills}: give at least one")
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            runs = Runs(given.model, Path(folder), given.claims, ("--ignore=claims/quantizer_math",))
            for line in interrupted(runs, given.kills, given.seed):
                print(line, flush=True)
                status = 1 if line.startswith("DIFFERENT") else status
        except RuntimeError as problem:
            parser.error(str(problem))
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the current run is killed too
    sys.exit(main())
