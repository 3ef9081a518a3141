"""Timing functions of the suite from outside: the suite is run as it is, and every second is counted once.

A probe counts the seconds of a function less those of the probed functions that it calls.
"""

from __future__ import annotations

import importlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any

import torch

from benchmarks.clock import Clock


@dataclass
class Probes:
    """Seconds by part.

    Attributes:
        clock: which seconds.
        seconds: by part, without those of probed functions called inside.
        calls: by part.
        missing: places that are not in the suite any more; what they stood for counts for whatever called it.
        products: by part, operations of the matrix products that were counted in it, by dtype.
    """

    clock: Clock
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    products: defaultdict[str, Counter[torch.dtype]] = field(default_factory=lambda: defaultdict(Counter))
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
            self.calls[name] += 1
            if self._inner:
                self._inner[-1] += spent

    @contextmanager
    def installed(
        self,
        places: Mapping[str, str],
        managers: Mapping[str, Callable[..., str]],
        counted: Mapping[str, Callable[..., tuple[torch.dtype, int]]] | None = None,
    ) -> Iterator[None]:
        """Probe functions for a while; they are as before afterwards.

        Args:
            places: by `module:name` or `module:class.name`, the part for which the function's seconds count.
            managers: the same for functions that give a context manager; what happens inside it counts for the part
                that is made of their arguments.
            counted: by function, from its arguments to the dtype and the operations of its matrix products, which are
                counted for the part that it is called in.
        """
        originals: list[tuple[Any, str, Any]] = []

        def exchange(place: str, probed: Callable[[Any], Any]) -> None:
            owner, attribute = _owner(place)
            function = getattr(owner, attribute, None)
            if function is None:
                self.missing.append(place)
                return
            originals.append((owner, attribute, function))
            setattr(owner, attribute, probed(function))

        try:
            for place, name in places.items():
                exchange(place, partial(self._function, name))
            for place, naming in managers.items():
                exchange(place, partial(self._manager, naming))
            for place, operations in (counted or {}).items():
                exchange(place, partial(self._counted, operations))
            yield
        finally:
            for owner, attribute, function in reversed(originals):
                setattr(owner, attribute, function)

    def _function(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return timed

    def _counted(
        self, operations: Callable[..., tuple[torch.dtype, int]], function: Callable[..., Any]
    ) -> Callable[..., Any]:
        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            dtype, count = operations(*args, **kwargs)
            self.products[self._open[-1]][dtype] += count
            return function(*args, **kwargs)

        return counted

    def _manager(self, naming: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with self.part(naming(*args, **kwargs)), function(*args, **kwargs) as given:
                yield given

        return timed


def _owner(place: str) -> tuple[Any, str]:
    """The module or class that holds a function, and the function's name in it."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, attribute = path.split(".")
    for name in classes:
        owner = getattr(owner, name, None)
    return owner, attribute
