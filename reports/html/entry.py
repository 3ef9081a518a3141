"""One claim with everything that the page says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reports.html.pictures import Pictures
from reports.verdict_words import Claim

Owners = tuple[tuple[str, ...], str]
"""The models and the key: what tells one judged claim from another, also with several pairs of sizes."""


def owners(claim: Claim) -> Owners:
    """The claim's models and key."""
    return tuple(claim["models"]), claim["key"]


@dataclass(frozen=True)
class Judged:
    """What pytest says of a claim's test.

    Attributes:
        node: the test's id.
        account: pytest's own words on a failure; empty where there was none.
    """

    node: str
    account: str = ""


@dataclass(frozen=True)
class Entry:
    """One claim of the page.

    Attributes:
        claim: its evidence.
        anchor: where it stands; unique on the page.
        command: what repeats it; empty where its test is not known.
        account: pytest's own words on a failure.
        figure: the name of the figure that draws what it is judged by, or empty.
    """

    claim: Claim
    anchor: str
    command: str
    account: str
    figure: str


def entries(
    claims: Sequence[Claim],
    tests: Mapping[Owners, Judged],
    command: Callable[[str, Sequence[str]], str],
    pictures: Pictures,
) -> list[Entry]:
    """The page's claims, in the order of `claims`; `command` makes a shell command of a node id and models."""
    seen: Counter[str] = Counter()
    made = []
    for claim in claims:
        test = tests.get(owners(claim))
        seen[claim["key"]] += 1
        again = f"-{seen[claim['key']]}" if seen[claim["key"]] > 1 else ""
        made.append(
            Entry(
                claim,
                claim["key"] + again,
                command(test.node, claim["models"]) if test else "",
                test.account if test else "",
                pictures.of(claim),
            )
        )
    return made
