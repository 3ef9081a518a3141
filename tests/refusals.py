"""What a user is told of what cannot be: one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fixtures.errors import UserError


def refusal(action: Callable[..., object], *given: object) -> str:
    """The line with which a call is refused."""
    with pytest.raises(UserError) as caught:
        action(*given)
    return str(caught.value)


def assert_refused(words: str, action: Callable[..., object], *given: object) -> None:
    """A call is refused in these words; `*` stands for whatever a library says."""
    said = refusal(action, *given)
    start, star, end = words.partition("*")
    assert said == words if not star else said.startswith(start) and said.endswith(end), said
