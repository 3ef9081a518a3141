"""Published numbers beside ours: what a paper or study reports of the very model under test.

`published.toml` holds their numbers, how they define them, and how far ours may lie from them: a tolerance
registered before anyone measured. Whether two numbers agree is not a verdict on a claim.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from awq_core.measured import Measured
from claims.support.claim import NotApplicableError
from claims.support.published_readings import READINGS, Value

FILE = Path(__file__).parent.parent / "published.toml"
TABLE_FIELDS = {"source", "definition", "differs", "unit", "tolerance", "rows"}
FURTHER_TABLE_FIELDS = {"text"}
ROW_FIELDS = {"quantity", "values"}
FURTHER_ROW_FIELDS = {"reading", "not_comparable", "places"}


class PublishedError(ValueError):
    """A file of published numbers that cannot be used; the message is one line."""


@dataclass(frozen=True)
class Tolerance:
    """How far our number may lie from theirs: one of the two is given."""

    absolute: float | None = None
    relative: float | None = None

    def holds(self, theirs: float, ours: float) -> bool:
        """Whether ours is near enough."""
        allowed = self.absolute if self.absolute is not None else (self.relative or 0.0) * abs(theirs)
        return abs(ours - theirs) <= allowed + 1e-12

    def __str__(self) -> str:
        return f"within {self.absolute:g}" if self.absolute is not None else f"within {self.relative:.0%}"


@dataclass(frozen=True)
class HeldoutText:
    """The text that their number was measured on, and what ours needs for the two to be comparable."""

    name: str
    window: int
    least_tokens: int

    def lacking(self, measured: Measured) -> str:
        """Why a loss measured on our held-out tokens says nothing of theirs; empty where it does."""
        name = measured.provenance.get("heldout_text", "an unnamed text")
        if name != self.name:
            return f"measured on {name}, theirs on {self.name}"
        windows, length = measured.tokens["heldout"].shape
        if length != self.window:
            return f"measured in windows of {length} tokens, theirs of {self.window}; give --effort standard"
        if windows * length < self.least_tokens:
            return f"measured on {windows * length:,} tokens of the text, and {self.least_tokens:,} are needed"
        return ""


@dataclass(frozen=True)
class PublishedNumber:
    """One number as it was published.

    Attributes:
        model: as the source calls it.
        quantity: what it is, in words.
        value: in `unit`.
        unit: such as `%` or `perplexity`.
        tolerance: how far ours may lie from it.
        source: the paper's table, or the study.
        definition: how they define it.
        differs: how ours is defined otherwise.
        place: the linear that it belongs to, where it is a largest value; else empty.
        reading: our reading of it (a key of `READINGS`); None where the suite does not measure it.
        not_comparable: why it does not; empty where it does.
        text: the text it was measured on, where it hangs on that.
    """

    model: str
    quantity: str
    value: float
    unit: str
    tolerance: Tolerance
    source: str
    definition: str
    differs: str
    place: str = ""
    reading: str | None = None
    not_comparable: str = ""
    text: HeldoutText | None = None


@dataclass(frozen=True)
class PublishedValue:
    """A published number and ours beside it.

    Attributes:
        theirs: the published number.
        ours: our reading; None where there is none to compare.
        our_place: the linear of ours, where it is a largest value.
        agrees: whether ours is within the tolerance; None where they are not comparable.
        not_comparable: why they are not; else empty.
    """

    theirs: PublishedNumber
    ours: float | None = None
    our_place: str = ""
    agrees: bool | None = None
    not_comparable: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        return asdict(self.theirs) | {
            "tolerance": {**asdict(self.theirs.tolerance), "text": str(self.theirs.tolerance)},
            "ours": self.ours,
            "our_place": self.our_place,
            "agrees": self.agrees,
            "not_comparable": self.not_comparable,
        }


@dataclass(frozen=True)
class Published:
    """The whole file.

    Attributes:
        names: by published model name, what else `--model` may call it: aliases and repositories on the hub.
        numbers: in the file's order.
    """

    names: dict[str, tuple[str, ...]]
    numbers: tuple[PublishedNumber, ...]

    def model_of(self, measured: Measured) -> str | None:
        """What the sources call the model under test; None where they do not speak of it."""
        called = {measured.name, measured.provenance.get("id")}
        return next((model for model, names in self.names.items() if called & {model, *names}), None)


def read_published(path: Path | None = None) -> Published:
    """Read and check the published numbers.

    Raises:
        PublishedError: for a missing or unknown field, an unknown reading or model, or a number listed twice.
    """
    return _checked(path or FILE)


@cache
def _checked(path: Path) -> Published:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        names = {model: tuple(known) for model, known in data["models"].items()}
        numbers = tuple(number for table in data["table"] for number in _numbers(table))
    except OSError as problem:
        raise PublishedError(f"{path.name}: {problem.strerror}") from None
    except KeyError as problem:
        raise PublishedError(f"{path.name}: {problem} is missing") from None
    except (ValueError, TypeError, AttributeError) as problem:  # a TOMLDecodeError is a ValueError
        raise PublishedError(f"{path.name}: {problem}") from None
    seen: set[tuple[str, str, str]] = set()
    for number in numbers:
        where = f"{path.name}: {number.quantity!r} of {number.model} ({number.source})"
        if number.model not in names:
            raise PublishedError(f"{where}: the model is not listed under [models]")
        if (key := (number.model, number.quantity, number.source)) in seen:
            raise PublishedError(f"{where} is listed twice")
        seen.add(key)
    every = [name for model, known in names.items() for name in (model, *known)]
    if twice := {name for name in every if every.count(name) > 1}:
        raise PublishedError(f"{path.name}: {min(twice)!r} stands for two models")
    return Published(names, numbers)


def published_for(measured: Measured) -> list[PublishedValue]:
    """Every published number of the model under test, ours beside it; empty where nothing is published of it."""
    published = read_published()
    model = published.model_of(measured)
    found: dict[str, Value | str] = {}
    return [_beside(number, measured, found) for number in published.numbers if number.model == model]


def _beside(theirs: PublishedNumber, measured: Measured, found: dict[str, Value | str]) -> PublishedValue:
    """Ours beside theirs; `found` keeps readings that several numbers share."""
    if theirs.reading is None:
        return PublishedValue(theirs, not_comparable=theirs.not_comparable)
    if theirs.text is not None and (lack := theirs.text.lacking(measured)):
        return PublishedValue(theirs, not_comparable=lack)
    if theirs.reading not in found:
        found[theirs.reading] = _read(theirs.reading, measured)
    ours = found[theirs.reading]
    if isinstance(ours, str):
        return PublishedValue(theirs, not_comparable=ours)
    return PublishedValue(theirs, ours.value, ours.place, theirs.tolerance.holds(theirs.value, ours.value))


def _read(reading: str, measured: Measured) -> Value | str:
    """Our reading, or why there is none: a comparison never costs a run its evidence."""
    try:
        ours = READINGS[reading](measured)
    except (NotApplicableError, ValueError) as lack:  # a NaN in the measurements is a ValueError
        return str(lack)
    return ours if math.isfinite(ours.value) else f"ours came out as {ours.value}"


def _numbers(table: dict[str, Any]) -> list[PublishedNumber]:
    source = table["source"]
    _only(table, TABLE_FIELDS, FURTHER_TABLE_FIELDS, source)
    text = HeldoutText(**table["text"]) if "text" in table else None
    common = {field: _words(table[field], field, source) for field in ("source", "definition", "differs", "unit")}
    tolerance = Tolerance(**table["tolerance"])
    if (tolerance.absolute is None) == (tolerance.relative is None):
        raise ValueError(f"{source}: a tolerance is either absolute or relative")
    numbers = []
    for row in table["rows"]:
        quantity = _words(row["quantity"], "quantity", source)
        _only(row, ROW_FIELDS, FURTHER_ROW_FIELDS, quantity)
        reading, reason = row.get("reading"), row.get("not_comparable", "")
        if (reading is None) == (not reason):
            raise ValueError(f"{quantity}: give either a reading or why there is none (not_comparable)")
        if reading is not None and reading not in READINGS:
            raise ValueError(f"{quantity}: no reading is called {reading!r}")
        places = row.get("places", {})
        if stray := places.keys() - row["values"].keys():
            raise ValueError(f"{quantity}: a place without a value, for {min(stray)}")
        numbers += [
            PublishedNumber(
                model=model,
                quantity=quantity,
                value=float(value),
                place=places.get(model, ""),
                reading=reading,
                not_comparable=reason,
                tolerance=tolerance,
                text=text,
                **common,
            )
            for model, value in row["values"].items()
        ]
    return numbers


def _only(record: dict[str, Any], needed: set[str], further: set[str], what: str) -> None:
    if missing := needed - record.keys():
        raise ValueError(f"{what}: {min(missing)!r} is missing")
    if unknown := record.keys() - needed - further:
        raise ValueError(f"{what}: no field is called {min(unknown)!r}")


def _words(value: Any, field: str, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what}: {field!r} must be words")
    return value
