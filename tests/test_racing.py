"""Racing against trying everything: the same winner, for less."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from awq_core.racing import FEWEST, TOLERANCE, race, spread_order


def losses(seed: int, candidates: int = 20, cases: int = 64, spread: float = 0.3, flat: float = 1.0) -> np.ndarray:
    """`[candidates, cases]`: a parabola over candidates, cases of different difficulty, and some noise."""
    generator = np.random.default_rng(seed)
    places = np.linspace(-1, 1, candidates) - generator.uniform(-0.8, 0.8)
    means = 1 + flat * places**2
    difficulty = np.exp(spread * generator.standard_normal(cases))
    return means[:, None] * difficulty * (1 + 0.02 * generator.standard_normal((candidates, cases)))


def raced(table: np.ndarray, **options: bool) -> tuple[int, int]:
    """The winner, and how many cases were tried in all."""
    found = race(len(table), table.shape[1], lambda left, cases: table[np.ix_(left, cases)], **options)
    return found.winner, int(found.tried.sum())


@pytest.mark.parametrize("seed", range(50))
def test_the_winner_is_as_good_as_the_best_within_the_tolerance(seed: int) -> None:
    table = losses(seed)
    winner, tried = raced(table)
    means = table.mean(axis=1)
    # The noise of 2% a case leaves 0.35% on the mean of 64 and its difference: what chance lets through.
    assert means[winner] <= means.min() * (1 + TOLERANCE + 0.0035)
    assert tried < table.size / 2


def test_exhaustive_tries_everything_and_finds_the_best() -> None:
    table = losses(1, flat=0.001)
    winner, tried = raced(table, exhaustive=True)
    assert winner == table.mean(axis=1).argmin()
    assert tried == table.size


def test_what_cannot_be_told_apart_is_not_raced_to_the_end() -> None:
    """Candidates that differ by less than the tolerance on every case."""
    table = np.tile(np.linspace(1.0, 2.0, 64), (5, 1)) * (1 + 1e-5 * np.arange(5))[::-1, None]
    assert raced(table) == (4, 5 * FEWEST)


def test_the_first_of_a_tie_wins() -> None:
    assert raced(np.ones((7, 64)))[0] == 0


@pytest.mark.parametrize("cases", [1, 2, FEWEST])
def test_a_few_cases_are_all_tried(cases: int) -> None:
    table = losses(2, cases=cases)
    assert raced(table) == (int(table.mean(axis=1).argmin()), table.size)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_no_number_is_an_error(value: float) -> None:
    table = losses(3)
    table[7] = value
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        raced(table)


@pytest.mark.parametrize("cases", [1, 2, 5, 64, 100])
def test_the_order_has_every_case_once_and_spreads_the_first(cases: int) -> None:
    order = spread_order(cases)
    assert sorted(order) == list(range(cases))
    if cases >= 64:
        assert len({int(4 * index / cases) for index in order[:4]}) >= 3  # of four quarters


def test_no_more_is_tried_of_a_close_pair_than_the_cases_left_untried_can_still_decide() -> None:
    """One candidate a little worse than the other: near the end there is hardly anything left that chance could do."""
    noise = np.random.default_rng(5).standard_normal(1000)
    noise -= noise.mean()
    table = np.stack([np.ones(1000), np.ones(1000) + 0.005 + 0.05 * noise])
    winner, tried = raced(table)
    assert winner == 0
    assert tried < table.size * 0.8  # told apart where 0.005 is the error of a mean of a thousand, three times over


def test_who_was_left_out_is_not_evaluated_again() -> None:
    table, asked = losses(6), []

    def evaluate(left: np.ndarray, cases: np.ndarray) -> np.ndarray:
        asked.append(left)
        return table[np.ix_(left, cases)]

    race(*table.shape, evaluate)
    assert len(asked) > 2
    assert all(set(later) <= set(earlier) for earlier, later in pairwise(asked))
