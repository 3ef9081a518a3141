"""The whole catalogue, whichever of its claims a run selects."""

from __future__ import annotations

import importlib
from pathlib import Path

from claims.support.claim import REGISTRY, Claim


def whole_catalogue() -> dict[str, Claim]:
    """Every claim by id; imports the files that pytest was not asked for."""
    for path in sorted(Path(__file__).parent.parent.glob("test_*.py")):
        importlib.import_module(f"claims.{path.stem}")
    return REGISTRY
