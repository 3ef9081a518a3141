"""Looks: where scoring every held-out window is long, windows are scored in portions that are registered beforehand.

Windows are paired, so few of them decide what is clear. After each look whoever asks (never this package, which knows
no threshold) says under which strategies the next portion is still needed; what is decided is scored no further. How
many windows a look has, and in which order windows come, is fixed by counts alone before anything is scored: never by
a clock, nor by a result. With K looks each one's interval is at level `1 - 0.05 / K` (`docs/report.md`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import xarray as xr

from awq_core.measure.layers.racing import spread_order

FIRST_WINDOWS = 16
"""Windows of the first look: the fewest with which the intervals' coverage holds for skewed losses, by simulation
(`tests/test_looks_coverage.py`)."""

GROWTH = 2
"""Each look has so many times as many windows behind it as the look before."""

WORTH_A_LOOK = 1.5
"""The last look has at least so many times the windows of the one before: every look widens all intervals."""


@dataclass(frozen=True)
class Looks:
    """The registered looks of one model.

    Attributes:
        windows: how many windows lie behind each look, ascending.
        available: held-out windows that there are.
        operations: counted floating-point operations of scoring every strategy on all of them.
        most: the last look is one whose operations, were every strategy scored at it, are at most these; None: all.
    """

    windows: tuple[int, ...]
    available: int
    operations: int
    most: int | None

    @property
    def count(self) -> int:
        """How many looks were registered."""
        return len(self.windows)

    def window_look(self) -> np.ndarray:
        """At which look each window is scored first, `(available,)`; `count` for those that no look has."""
        look = np.full(self.available, self.count)
        for index in reversed(range(self.count)):
            look[self.order[: self.windows[index]]] = index
        return look

    @property
    def order(self) -> np.ndarray:
        """The windows in the order in which they are scored: any first few lie spread over the text."""
        return spread_order(self.available)

    def new_windows(self, look: int) -> np.ndarray:
        """Indices of the windows that a look adds to the one before."""
        return self.order[self.windows[look - 1] if look else 0 : self.windows[look]]

    def as_dict(self) -> dict[str, object]:
        """The rule in plain values, for the record."""
        rule = "one look" if self.count == 1 else "looks at doubled windows, Bonferroni over the looks"
        return {"rule": rule, "count": self.count, "level": 1 - 0.05 / self.count, **asdict(self)}


def registered_looks(windows: int, operations: int, most: int | None) -> Looks:
    """The looks at so many windows; all arguments as in `Looks`."""
    last = windows
    if most is not None:
        last = min(windows, max(FIRST_WINDOWS, windows * most // max(1, operations)))
    sizes = [min(FIRST_WINDOWS, last)]
    while sizes[-1] * GROWTH < last:
        sizes.append(sizes[-1] * GROWTH)
    if last < WORTH_A_LOOK * sizes[-1]:
        sizes.pop()
    return Looks((*sizes, last), windows, operations, most)


class NotScoredError(LookupError):
    """Something was read that has not been scored.

    Attributes:
        strategies: which strategies are missing.
        look: at which look.
    """

    def __init__(self, strategies: Sequence[str], look: int) -> None:
        super().__init__(f"not scored at look {look + 1}: {', '.join(strategies)}")
        self.strategies = tuple(strategies)
        self.look = look


def count_of(losses: xr.Dataset | None) -> int:
    """How many looks were registered for these losses."""
    if losses is None or "looks" not in losses.attrs:
        return 1
    return int(json.loads(losses.attrs["looks"])["count"])


def at_look(losses: xr.Dataset, look: int) -> xr.Dataset:
    """The losses as they stand at one look, from 0: the windows of it and of those before."""
    if "looks" not in losses.attrs:
        return losses
    kept = np.flatnonzero(losses["window_look"].values <= look)
    return losses.isel(window=kept).assign_attrs(look=look)


def is_last(losses: xr.Dataset | None) -> bool:
    """Whether no look comes after this one; losses that were not cut to a look are at their last."""
    return losses is None or int(losses.attrs.get("look", count_of(losses) - 1)) == count_of(losses) - 1


def on_common_windows(losses: xr.Dataset, strategies: Sequence[str], variable: str) -> list[np.ndarray]:
    """What several strategies have on the windows that all of them were scored on, `[windows]` each.

    Raises:
        NotScoredError: where the losses are those of one look and a strategy was not scored on all of its windows;
            or, of all looks together, where the strategies have no window in common.
        KeyError: for a strategy that single-look losses do not have.
    """
    if "looks" not in losses.attrs:
        return [losses[variable].sel(strategy=name).values for name in strategies]
    values = losses[variable].transpose("strategy", "window").values
    row = {str(name): index for index, name in enumerate(losses["strategy"].values)}
    absent = np.full(values.shape[1], np.nan)
    rows = [values[row[name]] if name in row else absent for name in strategies]
    look = int(losses.attrs.get("look", count_of(losses) - 1))
    if "look" in losses.attrs:
        incomplete = [name for name, found in zip(strategies, rows, strict=True) if np.isnan(found).any()]
        if incomplete:
            raise NotScoredError(incomplete, look)
    common = ~np.isnan(rows).any(axis=0)
    if not common.any():
        raise NotScoredError(strategies, look)
    return [found[common] for found in rows]
