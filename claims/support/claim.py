"""What a claim is: its words, its registered threshold, and a pure function from measurements to an estimate."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from awq_core.judging.evidence import Threshold
from awq_core.judging.intervals import Estimate
from awq_core.measured import Measured
from awq_core.quantization.quantizers import DEPLOYED
from fixtures.measuring.stages import Stage


@dataclass(frozen=True)
class Setting:
    """What a claim about quantization is judged at.

    Attributes:
        bits: precision, for claims with one verdict for each; else None.
        quantizer: name of the deployed one, unless AWQ-Diag's reading is asked for beside it.
        seed: of the interval's resampling.
        run_seed: the run's seed, which `seed` was derived from; None where it was not derived.
    """

    bits: int | None = None
    quantizer: str = DEPLOYED.name
    seed: int = 0
    run_seed: int | None = None

    def for_claim(self, claim: str) -> Setting:
        """The setting of one claim, by its id: with a seed of its own, as claims do not share their resampling luck."""
        run_seed = self.seed if self.run_seed is None else self.run_seed
        digest = hashlib.sha256(f"{run_seed} {claim} {self.bits}".encode()).digest()
        return replace(self, seed=int.from_bytes(digest[:4], "big"), run_seed=run_seed)

    @property
    def precision(self) -> int:
        """The bits, for claims that have them."""
        if self.bits is None:
            raise ValueError("this claim is not judged at a precision")
        return self.bits


class NotApplicableError(Exception):
    """The model lacks what the claim is about; the message names it."""


Parts = dict[str, Estimate]
"""Estimates of a claim of several parts, by the part's name."""


@dataclass(frozen=True)
class Reported:
    """A quantity that the catalogue reports and does not judge."""

    value: float
    readings: dict[str, float | str]


Result = Estimate | Parts | Reported
"""What a claim's function returns."""


@dataclass(frozen=True)
class Claim:
    """One entry of the catalogue.

    Attributes:
        id: the catalogue's id, such as `payoff.layers`.
        words: the claim as a sentence.
        source: who says so, with their number.
        threshold: the registered side; None for what is reported and not judged.
        unit: of the estimate.
        version: raised whenever words, estimand or threshold change.
        kind: structural (about trained networks) or mechanical (true of any network).
        level: what it reads: `layer` measurements (the untrained twin stands beside), `model` losses, or a `pair`
            of sizes of one family.
        bits: the precisions it is judged at, one verdict each; empty where precision plays no part.
        estimate: `(measured, setting)` to an estimate, or to several by part; `(smaller, larger)` for a pair.
        reads: the stages of measuring that it cannot do without.
    """

    id: str
    words: str
    source: str
    threshold: Threshold | None
    unit: str
    version: int
    kind: Literal["structural", "mechanical"]
    level: Literal["layer", "model", "pair"]
    bits: tuple[int, ...]
    estimate: Callable[[Any, Setting], Result]
    reads: tuple[Stage, ...]

    @property
    def stages(self) -> frozenset[Stage]:
        """What has to be measured for it: what it reads, and the untrained twins where they stand beside it."""
        return frozenset(self.reads) | (frozenset() if self.level == "model" else {"twins"})

    @property
    def group(self) -> str:
        """The catalogue's group: what stands before the dot."""
        return self.id.split(".")[0]

    @property
    def file(self) -> Path:
        """The file that states it."""
        return Path(inspect.getfile(self.estimate)).resolve()

    @property
    def of_the_suite(self) -> bool:
        """Whether it is one of the suite's own claims, and not from a folder elsewhere."""
        return self.file.parent == Path(__file__).resolve().parents[1]

    def keys(self) -> list[str]:
        """`payoff.layers@4`, `payoff.layers@3`; or the id alone."""
        return [f"{self.id}@{bits}" for bits in self.bits] or [self.id]


READS: dict[str, tuple[Stage, ...]] = {"layer": ("layers",), "pair": ("layers",), "model": ("layers", "losses")}
"""What a claim reads by its level, where it says nothing else."""

REGISTRY: dict[str, Claim] = {}
"""Every claim by id, in the order in which its file states it."""

CLASHES: dict[str, tuple[str, str]] = {}
"""By id, the two files that state different claims under it: an error as soon as the whole catalogue is asked for."""


def claim(
    identifier: str,
    words: str,
    *,
    source: str,
    above: float | None = None,
    below: float | None = None,
    unit: str,
    version: int = 1,
    kind: Literal["structural", "mechanical"] = "structural",
    level: Literal["layer", "model", "pair"] = "layer",
    bits: tuple[int, ...] = (),
    reads: tuple[Stage, ...] | None = None,
) -> Callable[[Callable[[Any, Setting], Result]], Callable[..., None]]:
    """Turn an estimate function into a registered claim and its test.

    The decorated function stays pure: the test that pytest sees measures, judges and records around it.

    Args:
        identifier: the catalogue's id.
        words: the claim as a sentence.
        source: who says so.
        above: the estimate must lie above this.
        below: the estimate must lie below this.
        unit: of the estimate.
        version: see `Claim`.
        kind: see `Claim`.
        level: see `Claim`.
        bits: see `Claim`.
        reads: see `Claim`; by default the model's layers, and losses for a claim about the model.
    """
    threshold = None if above is None and below is None else Threshold(above, below)

    def decorate(function: Callable[[Any, Setting], Result]) -> Callable[..., None]:
        stages = READS[level] if reads is None else reads
        entry = Claim(identifier, words, source, threshold, unit, version, kind, level, bits, function, stages)
        known = REGISTRY.get(identifier)
        if known is not None and known.file != entry.file:
            # No error here: pytest would show an error of an import at length, and go on.
            CLASHES[identifier] = (str(known.file), str(entry.file))
        REGISTRY[identifier] = entry

        def test(measured: Any, setting: Setting, judge: Any) -> None:
            judge(entry, measured, setting)

        def test_pair(pair: Any, setting: Setting, judge: Any) -> None:
            judge(entry, pair, setting)

        chosen = test_pair if level == "pair" else test
        chosen.__name__ = chosen.__qualname__ = function.__name__
        chosen.__module__ = function.__module__
        chosen.__doc__ = f"{words} ({source})"
        return pytest.mark.claim(entry)(chosen)

    return decorate


Pair = tuple[Measured, Measured]
"""The smaller and the larger of two sizes."""
