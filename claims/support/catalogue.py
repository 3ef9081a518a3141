"""The whole catalogue, whichever of its claims a run selects."""

from __future__ import annotations

import importlib
from pathlib import Path

from claims.support.claim import CLASHES, REGISTRY, Claim


class ClashError(ValueError):
    """Two claims with the same id; the message is one line."""


def whole_catalogue() -> dict[str, Claim]:
    """Every claim by id: the suite's own, and those of other folders whose files have been imported.

    Raises:
        ClashError: if two claims have the same id.
    """
    for path in sorted(Path(__file__).parent.parent.glob("test_*.py")):
        importlib.import_module(f"claims.{path.stem}")
    if CLASHES:
        identifier, files = next(iter(CLASHES.items()))
        raise ClashError(f"two claims are called {identifier!r}, in {' and in '.join(files)}; give one another id")
    return REGISTRY


def the_suites_own() -> dict[str, Claim]:
    """Every claim of the suite by id, without those of other folders."""
    return {identifier: claim for identifier, claim in whole_catalogue().items() if claim.of_the_suite}


def every_key() -> set[str]:
    """The keys of every claim: its id, with `@bits` where it has one verdict for each precision."""
    return {key for claim in whole_catalogue().values() for key in claim.keys()}  # noqa: SIM118 -- not a dict
