"""Who goes on in a race, and an order in which any first few lie spread over the whole."""

from __future__ import annotations

import numpy as np
import pytest

from awq_core.measure.layers.racing import TOLERANCE, spread_order, survivors

CHANCE = 1e-3


def losses(seed: int, distance: float, cases: int = 1000, noise: float = 0.05) -> np.ndarray:
    """`(2, cases)`: one candidate, and another that is worse by a share, on cases of different difficulty."""
    rng = np.random.default_rng(seed)
    difficulty = np.exp(0.5 * rng.normal(size=cases))
    return difficulty * np.stack([np.ones(cases), 1 + distance + noise * rng.normal(size=cases)])


@pytest.mark.parametrize(("distance", "kept"), [(0.5, 1), (0.005, 2), (0.0, 2)])
def test_what_chance_explains_goes_on(distance: float, kept: int) -> None:
    for seed in range(20):
        assert len(survivors(losses(seed, distance)[:, :30], 1000, CHANCE)) == kept


def test_an_equally_good_candidate_is_dropped_no_oftener_than_said() -> None:
    dropped = [len(survivors(losses(seed, 0.0, noise=0.5)[:, :50], 1000, 0.05)) == 1 for seed in range(1000)]
    assert 0.06 < np.mean(dropped) < 0.14  # 5% on either side of the other one


def test_with_nothing_untried_the_best_is_alone() -> None:
    """Whatever the cases' spread: the exhaustive search has so many cases and no more."""
    table = losses(1, 0.002)
    assert survivors(table, 1000, CHANCE).tolist() == [int(table.mean(axis=1).argmin())]


def test_what_cannot_be_told_apart_is_not_raced_further() -> None:
    table = np.tile(np.linspace(1.0, 2.0, 64), (5, 1)) * (1 + TOLERANCE / 10 * np.arange(5))[::-1, None]
    assert survivors(table[:, :4], 64, CHANCE).tolist() == [4]


@pytest.mark.parametrize("cases", [1, 2, 5, 64, 100])
def test_the_order_has_every_case_once_and_spreads_the_first(cases: int) -> None:
    order = spread_order(cases)
    assert sorted(order) == list(range(cases))
    if cases >= 64:
        assert len({int(4 * index / cases) for index in order[:4]}) >= 3  # of four quarters
