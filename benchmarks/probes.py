"""Timing functions of the suite from outside: the suite is run as it is, and every second is counted once.

A probe counts the seconds of a function, and the matrix products made in it, less those of the probed functions that it
calls.
"""

from __future__ import annotations

import importlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch

from benchmarks.clock import Clock
from benchmarks.operations import CountedProducts

Part = str | Callable[..., str]
"""A part's name, or what makes it of the function's arguments."""


@dataclass
class Probes:
    """Seconds and products by part.

    Attributes:
        clock: which seconds.
        seconds: by part, without those of probed functions called inside.
        products: by part, operations of the matrix products made in it, by dtype.
        missing: places that are not in the suite any more; what they stood for counts for whatever called it.
    """

    clock: Clock
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    products: defaultdict[str, Counter[torch.dtype]] = field(default_factory=lambda: defaultdict(Counter))
    missing: list[str] = field(default_factory=list)
    _inner: list[float] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done inside for a part."""
        self._inner.append(0.0)
        self._open.append(name)
        began = self.clock.now()
        try:
            yield
        finally:
            spent = self.clock.now() - began
            self._open.pop()
            self.seconds[name] += spent - self._inner.pop()
            if self._inner:
                self._inner[-1] += spent

    @contextmanager
    def installed(self, places: Mapping[str, Part]) -> Iterator[None]:
        """Probe functions for a while; they are as before afterwards.

        Args:
            places: by `module:name` or `module:class.name`, the part for which the function counts.
        """
        originals: list[tuple[Any, str, Any]] = []
        try:
            for place, part in places.items():
                owner, attribute = _owner(place)
                function = getattr(owner, attribute, None)
                if function is None:
                    self.missing.append(place)
                    continue
                originals.append((owner, attribute, function))
                setattr(owner, attribute, self._timed(part, function))
            with CountedProducts(self._count):
                yield
        finally:
            for owner, attribute, function in reversed(originals):
                setattr(owner, attribute, function)

    def _count(self, dtype: torch.dtype, operations: int) -> None:
        if self._open:
            self.products[self._open[-1]][dtype] += operations

    def _timed(self, part: Part, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(part if isinstance(part, str) else part(*args, **kwargs)):
                return function(*args, **kwargs)

        return timed


def _owner(place: str) -> tuple[Any, str]:
    """The module or class that holds a function, and the function's name in it."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, attribute = path.split(".")
    for name in classes:
        owner = getattr(owner, name, None)
    return owner, attribute
