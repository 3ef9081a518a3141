"""Growth of costs with calibration tokens, width and depth: measured on scaled shapes, stored as JSON, drawn as PNG.

    python -m benchmarks.curves measure curves.json --clock processor
    python -m benchmarks.curves draw curves.json docs/images

Each point is a new model with random weights, and random tokens, on which the suite's block search and the replay of
the official search run at 3 bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from awq_core.architectures.block_stream import Blocks
from awq_core.architectures.model import architecture_of
from benchmarks.clock import Clock
from benchmarks.comparison import compare_searches
from benchmarks.curve_figure import draw
from benchmarks.machine import load_average, machine
from benchmarks.shapes import random_model, scaled
from reports.command import Parser
from reports.evidence_file import json_bytes
from reports.writing import write_whole

SCHEMA_VERSION = 1
BITS_SEARCHED = 3
LENGTH = 512
ARITHMETIC = torch.float32
"""Dtype of second moments, as for models of more than 50M parameters."""


@dataclass(frozen=True)
class Point:
    """Width, number of blocks and number of calibration tokens of one point of a curve."""

    width: int
    blocks: int
    tokens: int


CURVES: dict[str, tuple[Point, ...]] = {
    "tokens": tuple(Point(256, 1, tokens) for tokens in (4096, 8192, 16_384, 32_768, 65_536)),
    "width": tuple(Point(width, 1, 8192) for width in (64, 128, 256, 512, 896)),
    "depth": tuple(Point(128, blocks, 8192) for blocks in (1, 2, 4, 8)),
}


def measure_point(point: Point, clock: Clock) -> dict[str, float]:
    """Measure the costs at one point, in seconds by name.

    Args:
        point: size of the model and number of tokens.
        clock: clock of the durations.
    """
    model = random_model(scaled(point.width, point.blocks))
    ids = np.random.default_rng(0).integers(0, 1024, (point.tokens // LENGTH, LENGTH))
    found = compare_searches(Blocks(model, architecture_of("qwen2")), ids, (BITS_SEARCHED,), ARITHMETIC, clock)
    return {
        "official": found.official_gathering + found.official_searching,
        "suite": found.gathering + found.searching,
        "gathering": found.gathering,
    }


def measure(clock: Clock, names: list[str], report: Callable[[str], None]) -> dict[str, Any]:
    """Measure curves, and make their record.

    Args:
        clock: clock of the durations.
        names: names of the curves.
        report: called with a line for each point.
    """
    load = [load_average()]
    measure_point(Point(64, 1, 1024), clock)  # warms up, so that no point pays for setting up
    curves: dict[str, list[dict[str, float]]] = {}
    for name in names:
        for point in CURVES[name]:
            seconds = measure_point(point, clock)
            curves.setdefault(name, []).append({**asdict(point), **seconds})
            report(f"{name}: {point.tokens} tokens, width {point.width}, {point.blocks} blocks: {seconds}")
    return {
        "schema": SCHEMA_VERSION,
        "generated": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(clock.device),
        "clock": clock.kind,
        "load": [*load, load_average()],
        "curves": curves,
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: measure curves, or draw the curves of a record."""
    parser = Parser(prog="python -m benchmarks.curves", description="Costs against tokens, width and depth.")
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("record", type=Path)
    measuring.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES))
    measuring.add_argument("--device", default="cpu")
    measuring.add_argument("--threads", type=int)
    measuring.add_argument("--clock", choices=["wall", "processor"], default="wall")
    drawing = commands.add_parser("draw")
    drawing.add_argument("record", type=Path)
    drawing.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    if given.command == "measure":
        if given.threads is not None:
            torch.set_num_threads(given.threads)
        clock = Clock(given.clock, torch.device(given.device))
        write_whole(given.record, json_bytes(measure(clock, given.curves, lambda line: print(line, flush=True))))
        return
    for name, drawing_of_curve in draw(json.loads(given.record.read_text(encoding="utf-8"))).items():
        write_whole(given.folder / f"benchmark-{name}.png", drawing_of_curve.png)


if __name__ == "__main__":
    main()
