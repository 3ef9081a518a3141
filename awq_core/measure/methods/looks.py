"""Interim looks: held-out windows are scored in portions that are registered beforehand, to save time.

Windows are paired, so a few of them decide clear cases. After each look the caller (never this package, which knows no
threshold) says for which strategies the next portion is still needed; the others are not scored further. The number of
windows of each look and their order are fixed by counts before anything is scored, never by a clock or a result. With K
looks the interval of each is at level `1 - 0.05 / K` (`docs/report.md`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import xarray as xr

from awq_core.measure.layers.racing import spread_order

FIRST_WINDOWS = 16
"""Number of windows of the first look: the fewest for which the intervals' coverage holds with skewed losses, by
simulation (`tests/test_looks_coverage.py`)."""

GROWTH = 2
"""Ratio of a look's cumulative number of windows to the previous look's."""

WORTH_A_LOOK = 1.5
"""Smallest ratio of the last look's windows to the previous look's: every look widens the intervals of all looks."""


@dataclass(frozen=True)
class Looks:
    """Registered looks of one model.

    Attributes:
        windows: cumulative number of windows at each look, ascending.
        available: number of held-out windows.
        operations: number of floating-point operations of scoring every strategy on all available windows.
        most: largest number of operations of scoring every strategy up to the last look; None for no limit.
    """

    windows: tuple[int, ...]
    available: int
    operations: int
    most: int | None

    @property
    def count(self) -> int:
        """Number of registered looks."""
        return len(self.windows)

    def window_look(self) -> np.ndarray:
        """Index of the look at which each window is first scored, `(available,)`; `count` if at none."""
        look = np.full(self.available, self.count)
        for index in reversed(range(self.count)):
            look[self.order[: self.windows[index]]] = index
        return look

    @property
    def order(self) -> np.ndarray:
        """Indices of windows in the order of scoring, in which any first few are spread over the text."""
        return spread_order(self.available)

    def new_windows(self, look: int) -> np.ndarray:
        """Indices of the windows that a look adds to the previous one."""
        return self.order[self.windows[look - 1] if look else 0 : self.windows[look]]

    def as_dict(self) -> dict[str, object]:
        """Convert to plain values, with the rule in words, for the record."""
        rule = "one look" if self.count == 1 else "looks at doubled windows, Bonferroni over the looks"
        return {"rule": rule, "count": self.count, "level": 1 - 0.05 / self.count, **asdict(self)}


def registered_looks(windows: int, operations: int, most: int | None) -> Looks:
    """Register the looks at held-out windows.

    Args:
        windows: number of held-out windows.
        operations: number of operations of scoring every strategy on all windows.
        most: largest number of operations of scoring every strategy up to the last look; None for no limit. The first
            look is taken in any case.
    """
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
    """Error for reading scores that have not been measured.

    Attributes:
        strategies: names of the strategies that lack scores.
        look: index of the look at which they lack them.
    """

    def __init__(self, strategies: Sequence[str], look: int) -> None:
        super().__init__(f"not scored at look {look + 1}: {', '.join(strategies)}")
        self.strategies = tuple(strategies)
        self.look = look


def count_of(losses: xr.Dataset | None) -> int:
    """Number of looks that were registered for losses; 1 if there are none."""
    if losses is None or "looks" not in losses.attrs:
        return 1
    return int(json.loads(losses.attrs["looks"])["count"])


def at_look(losses: xr.Dataset, look: int) -> xr.Dataset:
    """Select the losses at a look (from 0): those on its windows and on the windows of earlier looks."""
    if "looks" not in losses.attrs:
        return losses
    kept = np.flatnonzero(losses["window_look"].values <= look)
    return losses.isel(window=kept).assign_attrs(look=look)


def is_last(losses: xr.Dataset | None) -> bool:
    """Whether losses are at the last look; losses that were not cut to a look are."""
    return losses is None or int(losses.attrs.get("look", count_of(losses) - 1)) == count_of(losses) - 1


def on_common_windows(losses: xr.Dataset, strategies: Sequence[str], variable: str) -> list[np.ndarray]:
    """Select values of several strategies on the windows on which all of them were scored, `[windows]` each.

    Args:
        losses: dataset `losses`, possibly cut to a look.
        strategies: names of strategies.
        variable: name of the variable.

    Raises:
        NotScoredError: if losses are cut to a look and a strategy was not scored on all of its windows, or if they are
            not and the strategies have no window in common.
        KeyError: if losses without looks lack a strategy.
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
