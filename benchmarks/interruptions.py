"""Kill a run at random moments, and hold what it ends up with against a run that was left alone.

    python -m benchmarks.interruptions embedded-tiny --kills 10 --seed 0

Every kill is SIGKILL, at a moment drawn uniformly over the time that the uninterrupted run took; the next run goes on
from what is in the cache. A run that ends before its moment is compared, and the next one begins with an empty cache.
After the last kill a run is left to end. Evidence and per-layer record must be the same to the last bit, but for times.
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
TIMED_CLAIMS = ("gptq.slower",)
"""Claims about seconds: their estimate and readings are times."""
TIMES = ("generated", "seconds")
"""What a record calls a date and measured seconds, wherever it stands."""
ENDED = (0, 1)
"""Exit statuses of a run that judged everything: 1 where a verdict is not registered."""


@dataclass
class Runs:
    """Runs of one model in processes of their own.

    Attributes:
        model: what `--model` is given.
        folder: for caches and reports; empty at first.
        claims: files or node ids.
        options: further ones of pytest.
        environment: variables to set in the processes, beside this one's.
    """

    model: str
    folder: Path
    claims: Sequence[str] = ("claims",)
    options: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, moment: float | None = None) -> float | None:
        """Run; the seconds that it took, or None where it was killed at `moment`.

        Args:
            name: of its cache and its reports.
            moment: seconds after the start; None for a run that is left alone.

        Raises:
            RuntimeError: if it ends in any other way, with the last lines that it wrote.
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
                start_new_session=True,  # so that a kill takes the processes that it started, too
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
        """What a run left of the model, without times, by file."""
        (folder,) = (self.folder / f"out-{name}").iterdir()
        return {file: without_times(json.loads((folder / file).read_text(encoding="utf-8"))) for file in RECORDS}

    def found(self, name: str) -> str:
        """What a killed run left in its cache, in words."""
        measurements = self.folder / f"cache-{name}" / "measurements"
        entries = len(list(measurements.glob("*/*/checksums.json")))
        blocks = len(list(measurements.glob("*/*/blocks/*/*.npz")))
        half = len(list(measurements.rglob("*.tmp")))
        return f"{entries} entries whole, {blocks} blocks kept, {half} files half written"


def without_times(record: Any) -> Any:
    """A record without dates and measured seconds."""
    if isinstance(record, list):
        return [without_times(item) for item in record]
    if not isinstance(record, dict):
        return record
    timed = record.get("id") in TIMED_CLAIMS
    return {
        key: without_times(value)
        for key, value in record.items()
        if key not in TIMES and not (timed and key in ("estimate", "readings"))
    }


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Where two records differ, a line each: `evidence.json claims 3 estimate: 1.25, was 1.5`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from differences(before.get(key), after.get(key), f"{where} {key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (mine, theirs) in enumerate(zip(before, after, strict=True)):
            yield from differences(mine, theirs, f"{where} {index}")
    elif before != after:
        yield f"{where.strip()}: {str(after)[:200]}, was {str(before)[:200]}"


def interrupted(runs: Runs, kills: int, seed: int) -> Iterator[str]:
    """Kill runs so many times; lines that say how it went, those about a difference beginning with `DIFFERENT`.

    Raises:
        RuntimeError: if a run ends otherwise than it should.
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
    """Command line: the exit status is 1 where something differs, 4 where a run could not be made."""
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # not without the run that it started
    sys.exit(main())
