"""Probes that time functions of the unmodified suite, counting every second once.

A probe counts the seconds of a function and the matrix products computed in it, excluding those of other probed
functions that it calls.
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
"""Name of a part, or a function that makes it from the probed function's arguments."""


@dataclass
class Probes:
    """Durations and operations by part.

    Attributes:
        clock: clock of the durations.
        seconds: seconds by part, without those of probed functions called inside.
        products: operations of matrix products by part and dtype.
        missing: places that no longer exist in the suite; their time is counted for their callers.
    """

    clock: Clock
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    products: defaultdict[str, Counter[torch.dtype]] = field(default_factory=lambda: defaultdict(Counter))
    missing: list[str] = field(default_factory=list)
    _inner: list[float] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside the context for a part."""
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
        """Probe functions inside the context.

        Args:
            places: part for which each function counts, by `module:name` or `module:class.name`.
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
    """Find the module or class that holds a function, and the function's name in it."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, attribute = path.split(".")
    for name in classes:
        owner = getattr(owner, name, None)
    return owner, attribute
