"""The nightly matrix: which models are measured together, under which torch.

    python -m reports.nightly.plan --models "qwen0.5b+qwen1.5b phi2" --torch "pinned 2.12.0"

Prints one line of JSON, a list of jobs. Models joined with `+` are measured in one job: two sizes of a family, so that
the replication claims are judged. `pinned` is the torch of constraints.txt.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from itertools import product

from reports.command import Parser

DEFAULT_MODELS = (
    "qwen0.5b+qwen1.5b",
    "qwen3b",
    "llama3.2-1b",
    "smollm2-135m+smollm2-360m",
    "gemma3-1b",
    "pythia-160m+pythia-410m",
    "opt-125m+opt-1.3b",
    "phi2",
)
PINNED = "pinned"

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)?(@[A-Za-z0-9._-]+)?")
_TORCH = re.compile(rf"{PINNED}|\d+(\.\d+)+")


def plan(models: Sequence[str], torches: Sequence[str]) -> list[dict[str, str]]:
    """One job for each group of models and each torch.

    Args:
        models: aliases or hub ids; several joined with `+` share a job.
        torches: `pinned`, or versions.

    Returns:
        For each job its `name` (fit for a file's name), its `torch`, and the `arguments` that pytest takes.

    Raises:
        ValueError: for anything else, before it reaches a shell.
    """
    for torch in torches:
        if not _TORCH.fullmatch(torch):
            raise ValueError(f"not a version of torch, nor {PINNED!r}: {torch!r}")
    return [_job(group, torch) for group, torch in product(models, torches)]


def _job(group: str, torch: str) -> dict[str, str]:
    names = group.split("+")
    for name in names:
        if not _MODEL.fullmatch(name):
            raise ValueError(f"not an alias nor a hub id: {name!r}")
    return {
        "name": re.sub(r"[/@]", "-", group),
        "torch": torch,
        "arguments": " ".join(f"--model {name}" for name in names),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; empty values stand for the defaults, as an empty input of a workflow does."""
    parser = Parser(
        prog="python -m reports.nightly.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default="", help=f"default: {' '.join(DEFAULT_MODELS)}")
    parser.add_argument("--torch", default="", help=f"default: {PINNED}")
    chosen = parser.parse_args(arguments)
    try:
        jobs = plan(chosen.models.split() or DEFAULT_MODELS, chosen.torch.split() or [PINNED])
    except ValueError as problem:
        sys.exit(f"plan: {problem}")
    print(json.dumps(jobs))


if __name__ == "__main__":
    main()
