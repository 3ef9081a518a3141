"""Time the stages of measuring one model, and the suite's search against llm-awq's.

python -m benchmarks embedded-tiny
python -m benchmarks FOLDER --blocks 2 --threads 2 --output before.json
python -m benchmarks FOLDER --runs search --limit search=4 regret=0.001
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from awq_core.measured import JUDGED_BITS
from benchmarks.clock import Clock
from benchmarks.comparison import SearchComparison, compare_searches
from benchmarks.machine import load_average, machine
from benchmarks.rates import product_rates
from benchmarks.record import Conditions, Rates, judge_limits, record
from benchmarks.stages import RUNS, StageRuns, keep_first
from benchmarks.tables import print_record
from fixtures.cache.store import MeasurementCache
from fixtures.errors import UserError
from fixtures.measuring.model import ModelMeasurement
from fixtures.models.device import DTYPES, dtype_name
from fixtures.models.resolve import resolve
from fixtures.options import Options
from fixtures.preflight import open_source
from fixtures.progress import MeasurementProgress
from fixtures.texts.effort import EFFORTS
from reports.command import Parser
from reports.evidence_file import json_bytes
from reports.writing import write_whole

DTYPES_TIMED = (torch.float32, torch.float64, torch.bfloat16)
"""Dtypes whose product rates are always measured."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 1 if a limit is not reached, 4 if a request cannot be met."""
    parser = _parser()
    given = parser.parse_args(arguments)
    console = Console(highlight=False, width=120 if not sys.stdout.isatty() else None)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = benchmark(given, console, Path(folder))
            judged = judge_limits(found["ratios"], given.limit)
        except (UserError, ValueError) as problem:
            parser.error(str(problem))
    print_record(found, console)
    for limit in judged:
        reached = "reached" if limit["reached"] else "NOT REACHED"
        console.print(f"limit {limit['ratio']}: {limit['found']:.4g}, {limit['bound']} {limit['limit']:g}: {reached}")
    if given.output is not None:
        write_whole(given.output, json_bytes({**found, "limits": judged}))
    return int(not all(limit["reached"] for limit in judged))


def benchmark(given: argparse.Namespace, console: Console, cache: Path) -> dict[str, Any]:
    """Run the benchmarks, and make their record without limits.

    Args:
        given: parsed command line.
        console: console that is told of each run.
        cache: an empty folder for the cache, so that no earlier measurement is read.
    """
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    progress = MeasurementProgress(None)
    measurement, provenance = _open(given, progress)
    measurement.cache = MeasurementCache(cache)
    measurement.cache.prepare()
    blocks, description = measurement.blocks(), measurement.description
    keep_first(blocks, given.blocks)
    clock = Clock(given.clock, blocks.device)
    runs = StageRuns(measurement, blocks, clock, lambda run: console.print(f"running {run} ..."))
    arithmetic = measurement.layer_settings.arithmetic
    dtypes = dict.fromkeys((*DTYPES_TIMED, arithmetic, measurement.settings.dtype))
    rates: Rates = {dtype: [] for dtype in dtypes}
    load = [load_average()]

    def rate() -> None:
        for dtype, found in product_rates(description.linears, dtypes, clock.device, clock).items():
            rates[dtype].append(found)

    rate()
    stages = runs.measure(tuple(run for run in given.runs if run in RUNS))
    search: SearchComparison | None = None
    if "search" in given.runs:
        console.print("running search ...")
        search = compare_searches(blocks, measurement.tokens.calibration, JUDGED_BITS, arithmetic, clock)
    rate()
    measured = len(blocks)
    measurement.drop()
    del blocks, runs.blocks
    if "whole" in given.runs:
        console.print("running whole ...")
        progress.seconds.clear()
        measurement.measure(provenance)
    load.append(load_average())
    conditions = Conditions(
        machine(clock.device),
        {
            "name": measurement.name,
            "parameters": description.parameters,
            "blocks": description.blocks,
            "blocks_measured": measured,
            "hidden": description.hidden_size,
            "vocabulary": description.vocabulary,
            "linears": [list(shape) for shape in description.linears[: len(description.linears) // description.blocks]],
        },
        {
            "effort": provenance["effort"],
            "dtype": provenance["dtype"],
            "arithmetic": dtype_name(arithmetic),
            "seed": provenance["seed"],
            "clock": given.clock,
            "calibration": provenance["calibration_shape"],
            "heldout": provenance["heldout_shape"],
            "instrument": provenance["instrument"],
        },
        load,
    )
    whole = {name.removeprefix(f"{measurement.name}: "): s for name, s in progress.seconds.items()}
    return record(conditions, stages, rates, search, whole if "whole" in given.runs else {}, runs.missing)


def _open(given: argparse.Namespace, progress: MeasurementProgress) -> tuple[ModelMeasurement, dict[str, Any]]:
    options = Options(
        models=[given.model],
        effort=given.effort,
        device=given.device,
        dtype=given.dtype,
        seed=given.seed,
        refresh=False,
        calibration_text=None,
        heldout_text=None,
        models_folder=None,
        texts_folder=None,
        all_methods=given.all_methods,
    )
    opened = open_source(resolve(given.model, None), options, progress, lambda line: None)
    if not isinstance(opened.measurement, ModelMeasurement):
        raise UserError(f"{given.model}: a control has no stages of a model; give a model")
    return opened.measurement, opened.provenance


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", help="alias, hub id or folder (benchmarks.shapes writes one)")
    parser.add_argument("--runs", nargs="+", choices=[*RUNS, "search", "whole"], default=[*RUNS, "search"])
    parser.add_argument("--blocks", type=int, help="measure the first so many blocks alone")
    parser.add_argument("--effort", choices=sorted(EFFORTS), default="quick")
    parser.add_argument("--device", default=None)
    parser.add_argument("--dtype", choices=DTYPES, default=None)
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall", help="processor: on a busy machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all-methods", action="store_true", help="of a whole measurement, as the suite's option")
    parser.add_argument("--output", type=Path, help="write the record as JSON")
    parser.add_argument(
        "--limit", action="extend", nargs="+", default=[], metavar="NAME=VALUE", help="exit 1 where it is not reached"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
