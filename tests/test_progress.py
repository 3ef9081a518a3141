"""What measuring says of itself while it runs."""

import io
import re

import pytest

import fixtures.progress
from fixtures.progress import MeasurementProgress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(fixtures.progress, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def said(clock, durations):
    """The lines of a stage whose steps take so many seconds each."""
    stream = io.StringIO()
    with MeasurementProgress(stream).stage("tiny: layers") as step:
        for done, seconds in enumerate(durations, start=1):
            clock.now += seconds
            step(done, len(durations))
    return stream.getvalue().splitlines()


def test_a_long_stage_says_now_and_then_how_far_it_is(clock):
    lines = said(clock, [12.0] * 24)
    assert lines[0] == "measuring tiny: layers, 3 of 24 blocks, about 4 minutes left"
    assert lines[1] == "measuring tiny: layers, 6 of 24 blocks, about 4 minutes left"
    assert lines[-2] == "measuring tiny: layers, 21 of 24 blocks, about 36 seconds left"
    assert lines[-1] == "measured tiny: layers in 288.0 s"
    assert len(lines) == 7 + 1


def test_a_step_that_takes_longer_than_that_says_so_at_its_end(clock):
    assert said(clock, [600.0] * 3)[:2] == [
        "measuring tiny: layers, 1 of 3 blocks, about 20 minutes left",
        "measuring tiny: layers, 2 of 3 blocks, about 10 minutes left",
    ]


def test_blocks_of_an_earlier_run_do_not_promise_a_quick_end(clock):
    last = said(clock, [0.0] * 12 + [60.0] * 12)[-3]
    assert last == "measuring tiny: layers, 22 of 24 blocks, about 2 minutes left"


def test_a_step_that_is_told_again_and_again_counts_once(clock):
    stream = io.StringIO()
    with MeasurementProgress(stream).stage("tiny: losses") as step:
        for done in range(1, 25):
            for _ in range(20):
                clock.now += 0.6
                step(done - 1, 24)
            step(done, 24)
    lines = stream.getvalue().splitlines()
    assert "measuring tiny: losses, 10 of 24 blocks, about 3 minutes left" in lines
    assert all("left" in line for line in lines[3:-1])


def test_a_short_stage_says_its_time_alone(clock):
    assert said(clock, [2.0] * 6) == ["measured tiny: layers in 12.0 s"]
    silent = MeasurementProgress(None)
    with silent.stage("tiny: layers"):
        clock.now += 120
    assert silent.seconds == {"tiny: layers": 120.0}


def test_a_terminal_shows_what_is_left(monkeypatch):
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    progress = MeasurementProgress(stream)
    with progress.stage("tiny: layers") as step:
        step(1, 1000)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "measuring tiny: layers" in shown
    assert re.search(r"1/1000 .*about \d+ seconds? left", shown)
