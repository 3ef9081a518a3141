"""The rates that the estimated time rests on."""

import pytest
import torch

from fixtures.cost import rates
from fixtures.cost.rates import measure_rates

LINEARS = ((64, 64), (64, 192))


@pytest.mark.parametrize("raced", [False, True])
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_every_rate_is_a_computer_s(device: str, raced: bool) -> None:
    found = measure_rates(device, torch.bfloat16, torch.float32, 64, LINEARS, raced=raced)
    for rate in (found.passes, found.elements, found.arithmetic, found.grid):
        assert 1e5 < rate < 1e16
    assert (found.grid == found.arithmetic) == raced


class Clock:
    """Time that passes only while a step is taken: each takes the next of some durations."""

    def __init__(self, durations: list[float]) -> None:
        self.now, self.steps, self.durations = 0.0, 0, durations

    def perf_counter(self) -> float:
        return self.now

    def step(self) -> None:
        self.now += self.durations[self.steps]
        self.steps += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock([])
    monkeypatch.setattr(rates, "time", clock)
    return clock


def test_the_fastest_repetition_counts_and_the_first_never(clock: Clock) -> None:
    clock.durations = [0.001, 0.03, 0.02, 0.06, 0.01]
    assert rates._seconds(clock.step, "cpu") == pytest.approx(0.02)  # the tenth of a second is over after the fourth
    assert clock.steps == 4


def test_a_slow_step_is_repeated_once(clock: Clock) -> None:
    clock.durations = [7.0, 5.0, 1.0]
    assert rates._seconds(clock.step, "cpu") == pytest.approx(5.0)
    assert clock.steps == 2


def test_a_product_grows_until_it_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 256 tokens it takes 1 ms, so 512 are timed: 2*512*8*8 operations in 2 ms."""
    sizes: list[int] = []

    def product(inputs: torch.Tensor, weight: torch.Tensor) -> None:
        sizes.append(len(inputs))

    def seconds(step: object, device: str) -> float:
        step()  # type: ignore[operator]
        return sizes[-1] / 256 * 0.001

    monkeypatch.setattr(rates, "_seconds", seconds)
    assert rates._product_rate(product, "cpu", torch.float32, 8) == pytest.approx(2 * 512 * 64 / 0.002)
    assert sizes == [256, 512]


def test_a_width_counts_by_its_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Widths 10 and 30, at 1 and 3 operations a second: 2*100*10 and 2*300*30 operations in 2000 and 6000 seconds."""
    monkeypatch.setattr(rates, "_grid_rate", lambda device, arithmetic, width: width / 10)
    found = rates._mean_grid_rate("cpu", torch.float64, ((10, 10), (10, 30)))
    assert found == pytest.approx((2000 + 18000) / (2000 + 6000))


def test_widths_beyond_the_widest_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []
    monkeypatch.setattr(rates, "_grid_rate", lambda device, arithmetic, width: timed.append(width) or 2.0)
    assert rates._mean_grid_rate("cpu", torch.float64, ((1, 4096), (1, 8192))) == pytest.approx(2.0)
    assert timed == [2048]


def test_the_random_numbers_of_a_run_are_left_alone() -> None:
    state = torch.get_rng_state()
    measure_rates("cpu", torch.float32, torch.float32, 8, ((8, 32),), raced=False)
    assert torch.equal(torch.get_rng_state(), state)
