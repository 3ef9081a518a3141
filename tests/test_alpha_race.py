"""The race of exponents: its expected regret against an integral, and its winners against trying everything."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import integrate, stats

from awq_core.measure.methods import alpha_race
from awq_core.measure.methods.alpha_race import (
    CHANCE,
    FEWEST_DEGREES,
    FIRST_TOKENS,
    LARGEST_REGRET,
    REGRET,
    Race,
    Sample,
    expected_regret,
    race,
    survivors,
)


class Table:
    """Losses that are known beforehand.

    Args:
        losses: `(candidates, cases, tokens)`.
        size: `(cases,)`, squared outputs, where a case is a token.
    """

    def __init__(self, losses: np.ndarray, size: np.ndarray | None = None) -> None:
        self.losses = losses
        self.candidates, self.cases, self.tokens = losses.shape
        self.size = size
        self.asked: list[tuple[np.ndarray, Sample]] = []

    def __call__(self, left: np.ndarray, sample: Sample) -> np.ndarray:
        self.asked.append((left, sample))
        return self.losses[left[:, None, None], sample.cases[:, None], sample.positions]

    @property
    def means(self) -> np.ndarray:
        return self.losses.mean(axis=(1, 2))

    def regret(self, found: Race) -> float:
        """Of the winner, as a share of the least loss."""
        return float(self.means[found.winner] / self.means.min() - 1)


def drawn(seed: int, cases: int, tokens: int = 1, curve: float = 1.0, candidates: int = 20) -> np.ndarray:
    """A parabola over candidates; cases and tokens of different difficulty, and what each candidate makes of them."""
    rng = np.random.default_rng(seed)
    means = 1 + curve * (np.linspace(-1, 1, candidates) - rng.uniform(-0.8, 0.8)) ** 2
    difficulty = np.exp(0.5 * rng.normal(size=(cases, 1)) + 0.7 * rng.normal(size=(cases, tokens)))
    return means[:, None, None] * difficulty * np.exp(0.1 * rng.normal(size=(candidates, cases, tokens)))


# the expected regret


@pytest.mark.parametrize("degrees", [2, 7, 63, 1000])
@pytest.mark.parametrize(("distance", "error"), [(0.0, 1.0), (0.3, 0.2), (1.0, 0.5), (5.0, 1.0), (0.001, 10.0)])
def test_the_expected_regret_is_its_integral(distance: float, error: float, degrees: int) -> None:
    """The true distance is Student's around the measured one; what it lies below zero is what would be gained."""

    def gained(t: float) -> float:
        return -(distance + error * t) * stats.t.pdf(t, degrees)

    expected, _ = integrate.quad(gained, -np.inf, -distance / error)
    found = expected_regret(np.array([distance]), np.array([error]), np.array([degrees]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_what_is_known_for_sure_has_no_regret() -> None:
    assert not expected_regret(np.array([0.0, 1.0]), np.zeros(2), np.full(2, 10)).any()


def going_on(means: np.ndarray, errors: np.ndarray, degrees: float = 50, spent: float = 0.0) -> list[int]:
    found: list[int] = survivors(means, errors, np.full(len(means), degrees), spent)[0].tolist()
    return found


def test_who_goes_on() -> None:
    """The best, what may still gain, and what may be far better; the best alone where nothing is worth a token."""
    means, errors = np.array([1.0, 1.001, 1.5, 1.02]), np.array([0.0, 0.02, 0.02, 0.02])
    assert going_on(means, errors) == [0, 1, 3]
    assert going_on(means, errors / 1000) == [0]
    assert going_on(means, errors, FEWEST_DEGREES - 1) == [0, 1, 2, 3]
    assert going_on(np.ones(4), np.zeros(4)) == [0]  # all ties
    # A little regret is enough to go on if it may be a large one: unlikely, but not unlikely enough.
    one = np.array([1.0, 1.0 + 0.003]), np.array([0.0, 0.0035])
    assert expected_regret(one[0] - 1, one[1], np.full(2, 50))[1] < REGRET
    assert stats.t.sf((0.003 + LARGEST_REGRET) / 0.0035, 50) > CHANCE
    assert going_on(*one) == [0, 1]


def test_one_of_uncertain_spread_goes_on_and_the_others_are_judged() -> None:
    means, errors = np.array([1.0, 1.5, 1.5]), np.array([0.0, 0.02, 0.02])
    staying, _ = survivors(means, errors, np.array([50.0, FEWEST_DEGREES - 0.5, 50.0]))
    assert staying.tolist() == [0, 1]


def test_what_was_dropped_counts_against_what_may_be_lost() -> None:
    """All regrets of a search together stay below what is allowed."""
    means, errors = np.array([1.0, 1.002]), np.array([0.0, 0.001])
    regret = expected_regret(means - 1, errors, np.full(2, 50))[1]
    assert 0 < regret < REGRET / 4
    assert going_on(means, errors) == [0]
    assert going_on(means, errors, spent=REGRET - regret / 2) == [0, 1]
    means, errors = np.array([1.0, 1.002, 1.001]), np.array([0.0, 0.0008, 0.01])
    staying, spent = survivors(means, errors, np.full(3, 50.0), 1e-5)
    assert staying.tolist() == [0, 2]
    assert spent == 1e-5 + expected_regret(means - 1, errors, np.full(3, 50.0))[1]


# races


@pytest.mark.parametrize(
    ("cases", "tokens"), [(4096, 1), (1000, 1), (64, 64), (128, 32), (8, 256), (1, 1024)], ids=lambda value: str(value)
)
def test_little_is_lost_against_trying_everything(cases: int, tokens: int) -> None:
    """On steep curves and on flat ones; and most tokens are left out where one candidate stands out."""
    regrets, tried = [], []
    for seed in range(30):
        table = Table(drawn(seed, cases, tokens, curve=[0.01, 0.1, 1.0][seed % 3]))
        found = race(table)
        regrets.append(table.regret(found))
        tried.append(found.tried.mean())
        everything = race(Table(table.losses), exhaustive=True)
        assert everything.winner == table.means.argmin()
        np.testing.assert_allclose(everything.losses, table.means)
        assert (everything.tried == 1).all()
    assert np.mean(regrets) <= REGRET
    assert max(regrets) <= LARGEST_REGRET
    assert np.mean(tried[2::3]) < 0.7


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_one_token_that_holds_most_of_the_loss_is_not_overlooked(share: float) -> None:
    """It decides otherwise than all others; its output is large, so that it is tried first."""
    for seed in range(20):
        losses = drawn(seed, 4096)
        place = int(np.random.default_rng(seed).integers(4096))
        heavy = share / (1 - share) * losses.sum(axis=(1, 2)).mean()
        losses[:, place, 0] = heavy * (1 + (np.linspace(-1, 1, 20) - 0.9) ** 2)
        size = np.ones(4096)
        size[place] = 1e6
        table = Table(losses, size)
        assert table.regret(race(table)) <= LARGEST_REGRET
        (_, first), *_ = table.asked
        assert place in first.cases
        assert len(first.cases) == FIRST_TOKENS


def test_a_heavy_first_token_of_every_sequence_is_not_overlooked() -> None:
    for seed in range(20):
        losses = drawn(seed, 64, 256)
        losses[:, :, 0] = 500 * (1 + (np.linspace(-1, 1, 20) - 0.9) ** 2)[:, None]
        table = Table(losses)
        assert table.regret(race(table)) <= LARGEST_REGRET


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize(("cases", "tokens"), [(4096, 1), (64, 64), (1, 64), (64, 1), (1, 1)])
def test_of_a_tie_of_all_the_first_wins_at_once(cases: int, tokens: int, scale: float) -> None:
    table = Table(np.full((20, cases, tokens), scale))
    found = race(table)
    assert found.winner == 0
    np.testing.assert_allclose(found.losses, scale)
    assert len(table.asked) == 1


@pytest.mark.parametrize(("cases", "tokens"), [(1, 512), (1, 5), (2, 3), (1, 1), (7, 1), (3, 300)])
def test_few_cases_are_raced_too(cases: int, tokens: int) -> None:
    for seed in range(10):
        table = Table(drawn(seed, cases, tokens))
        assert table.regret(race(table)) <= LARGEST_REGRET


@pytest.mark.parametrize(("cases", "tokens"), [(4096, 1), (64, 64), (16, 1), (2, 40), (1, 40), (3, 4), (5, 1)])
def test_nothing_is_dropped_on_fewer_than_the_registered_degrees_of_freedom(
    cases: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    genuine = alpha_race.survivors

    def watched(means: np.ndarray, errors: np.ndarray, degrees: np.ndarray, spent: float) -> tuple[np.ndarray, float]:
        kept, spent = genuine(means, errors, degrees, spent)
        dropped = np.setdiff1d(np.arange(len(means)), kept)
        seen.append(degrees[dropped])
        return kept, spent

    monkeypatch.setattr(alpha_race, "survivors", watched)
    for seed in range(5):
        race(Table(drawn(seed, cases, tokens, curve=10)))
    assert seen
    assert not (np.concatenate(seen) < FEWEST_DEGREES).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("cases", "tokens"), [(4096, 1), (16, 64)])
@pytest.mark.parametrize("exhaustive", [False, True])
def test_a_loss_that_is_no_number_is_an_error(value: float, cases: int, tokens: int, exhaustive: bool) -> None:
    losses = drawn(3, cases, tokens)
    losses[7] = value
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        race(Table(losses), exhaustive=exhaustive)


# what is tried


@pytest.fixture
def never_dropped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(alpha_race, "survivors", lambda means, *_: (np.arange(len(means)), 0.0))
    return


@pytest.mark.usefixtures("never_dropped")
@pytest.mark.parametrize("cases", [1, 3, 16, 17, 64, 513, 2000])
@pytest.mark.parametrize("tokens", [1, 2, 16, 17, 100])
def test_raced_to_the_end_every_token_is_tried_once(cases: int, tokens: int) -> None:
    """And what was estimated on the way comes to the exact means."""
    size = np.random.default_rng(0).exponential(size=cases) if tokens == 1 else None
    table = Table(drawn(1, cases, tokens, candidates=3), size)
    found = race(table)
    tried = np.zeros((cases, tokens), dtype=int)
    for left, sample in table.asked:
        assert left.tolist() == [0, 1, 2]
        assert (np.diff(sample.cases) > 0).all()
        tried[sample.cases[:, None], sample.positions] += 1
    assert (tried == 1).all()
    np.testing.assert_allclose(found.losses, table.means)
    np.testing.assert_allclose(found.tried, 1)


@pytest.mark.usefixtures("never_dropped")
def test_the_first_tokens_lie_spread_over_sequences_and_positions() -> None:
    table = Table(drawn(1, 64, 256, candidates=2))
    race(table)
    (_, first), (_, second), *_ = table.asked
    assert np.diff([-1, *first.cases, 64]).max() <= 8
    positions = np.concatenate([first.positions, second.positions])
    assert (
        np.bincount(positions.ravel(), minlength=256).max() <= 10
    )  # of 64, in the mean 8: none counts in every sequence
    assert all(np.diff(np.sort(row)).max() <= 32 for row in positions)


@pytest.mark.usefixtures("never_dropped")
@pytest.mark.parametrize(("cases", "tokens"), [(2000, 1), (64, 64)])
def test_estimates_on_the_way_are_unbiased_and_as_exact_as_they_say(
    cases: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard errors of distances against the spread of what was really missed, over shuffled tokens."""
    missed: dict[int, list[float]] = {}
    base = drawn(2, cases, tokens, candidates=2, curve=0.0)
    base *= np.array([1.0, 1.2])[:, None, None]
    distance = float(base[1].mean() - base[0].mean())

    def watched(means: np.ndarray, errors: np.ndarray, *_: object) -> tuple[np.ndarray, float]:
        if errors[1] > 0:
            missed.setdefault(len(table.asked), []).append((means[1] - means[0] - distance) / errors[1])
        return np.arange(len(means)), 0.0

    monkeypatch.setattr(alpha_race, "survivors", watched)
    rng = np.random.default_rng(0)
    for _ in range(200):
        order = rng.permutation(cases)
        positions = np.argsort(rng.random((cases, tokens)), axis=1)
        table = Table(np.take_along_axis(base[:, order], positions[None], axis=2))
        race(table)
    assert len(missed) >= 2
    for rounds, values in missed.items():
        assert abs(np.mean(values)) < 0.3, rounds
        assert 0.8 < np.std(values) < 1.25, rounds
