"""Published numbers beside ours: the sentence that sums them up, and the groups that the report shows.

They travel as plain dictionaries, exactly `PublishedValue.as_dict()` of the claims, as evidence does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

Published = dict[str, Any]
"""One published number with ours beside it."""


def sentence(name: str, published: Sequence[Published]) -> str:
    """How many published numbers ours agree with; empty where nothing is published of the model."""
    if not published:
        return ""
    compared = [value for value in published if value["agrees"] is not None]
    agreeing = sum(value["agrees"] for value in compared)
    rest = len(published) - len(compared)
    if not compared:
        return f"{name}: others have published {rest} of its numbers; none is comparable with ours."
    numbers = "number" if len(compared) == 1 else "numbers"
    others = f"; {rest} more {'is' if rest == 1 else 'are'} not comparable" if rest else ""
    return (
        f"{name}: ours agree with {agreeing} of {len(compared)} comparable published {numbers}, "
        f"within tolerances registered in advance{others}."
    )


def by_source(published: Sequence[Published]) -> list[dict[str, Any]]:
    """The numbers by source and definition: `source`, `definition`, `differs` and `numbers`."""
    grouped = groupby(published, key=lambda one: (one["source"], one["definition"]))
    return [
        {
            "source": source,
            "definition": definition,
            "differs": "; ".join(dict.fromkeys(one["differs"] for one in numbers)),
            "numbers": numbers,
        }
        for (source, definition), numbers in ((key, list(members)) for key, members in grouped)
    ]
