"""The estimate of what a run costs."""

from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fixtures.cost
from fixtures.cost import (
    Cost,
    Work,
    bytes_in_words,
    estimate_cost,
    product_rate,
    time_in_words,
    token_counts,
    work_of,
)
from fixtures.measuring.stages import EVERY, Stage
from fixtures.models.checking import ModelDescription
from fixtures.models.resolve import ModelSource
from fixtures.texts.effort import EFFORTS, effort_of

QUICK = effort_of("quick", 494_032_768)

QWEN_BLOCK = ((128, 896), (896, 896), (896, 896), (128, 896), (4864, 896), (4864, 896), (896, 4864))
"""Shapes of a block of Qwen2.5-0.5B."""

QWEN = ModelDescription(
    source=ModelSource("qwen0.5b", Path("."), None, None, "qwen2.5", "folder"),
    model_type="qwen2",
    hidden_size=896,
    blocks=24,
    context=32768,
    vocabulary=151936,
    parameters=494_032_768,
    download_bytes=995_000_000,
    linears=QWEN_BLOCK * 24,
)


SMALL = replace(QWEN, parameters=40_000_000, linears=QWEN_BLOCK)


FAST = Work(1e12, 1e12)
BLOCK_WEIGHTS = sum(rows * columns for rows, columns in QWEN_BLOCK)
BLOCK_PRODUCTS = sum(2 * rows * columns * columns for rows, columns in QWEN_BLOCK)


def looking(blocks: int, tokens: int, grid: float) -> Work:
    """By hand: a pass over the blocks, and three times that in the arithmetic of the errors."""
    passes = 2 * blocks * BLOCK_WEIGHTS * tokens
    return Work(passes, 3 * passes + grid)


def test_the_operations_are_those_of_the_documented_sum() -> None:
    """By hand: 2*5*21*2 grid points for the model, 2*2*21*2 a twin; 7*2*21 under other traffic, a twin 2*2*21."""
    calibration, heldout = 32_768, 128 * 2048
    agrees(
        SMALL,
        {
            "layers": looking(1, calibration + heldout, 3 * 420 * BLOCK_PRODUCTS),
            "twins": looking(1, 3 * (calibration + heldout), 3 * 3 * 168 * BLOCK_PRODUCTS),
            "traffic": looking(1, 2 * (2 * calibration + heldout), 3 * (294 + 84) * BLOCK_PRODUCTS),
            "losses": Work(2 * SMALL.parameters * 45 * heldout + 28 * calibration * 2 * BLOCK_WEIGHTS),
        },
    )


def test_a_large_model_is_looked_at_less_closely() -> None:
    """By hand: a fifth of the products; 32k and 32k tokens of the model, 8k and 32k and an eighth of a twin's rows."""
    products = 24 * BLOCK_PRODUCTS
    # 3 times 4k, and 5 kinds' own and held-out 4k; of the twin 5 kinds' held-out 2k.
    of_traffic = 3 * 4_096 + 10 * 4_096 + 3 * 4_096 + 5 * 2_048
    agrees(
        QWEN,
        {
            "layers": looking(24, 2 * 32_768, 0.2 * 420 * products),
            "twins": looking(24, 3 * 16 * (512 + 2_048), 3 * 0.2 * 168 / 8 * products),
            "traffic": looking(24, of_traffic, 0.2 * (294 + 84) / 8 * products),
        },
    )


def agrees(description: ModelDescription, expected: dict[Stage, Work]) -> None:
    rates, effort = Work(passes=1e9, arithmetic=5e8), EFFORTS["standard"]
    for stage, operations in expected.items():
        assert work_of(stage, description, effort, twins=3) == pytest.approx(operations, rel=1e-12), stage
    seconds = sum(of.passes / 1e9 + of.arithmetic / 5e8 for of in expected.values())
    whole = estimate_cost(description, effort, rates, twins=3, stages=frozenset(expected))
    assert whole.seconds == pytest.approx(seconds, rel=1e-12)


def test_the_estimate_is_near_what_smollm2_took() -> None:
    """On two cores at 1.7e11 operations a second: 1,098 seconds up to the first look, 1,343 in all."""
    block = ((576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536))
    parameters = 49_152 * 576 + 30 * sum(rows * columns for rows, columns in block)
    smollm2 = replace(
        QWEN, hidden_size=576, blocks=30, context=8192, vocabulary=49_152, parameters=parameters, linears=block * 30
    )
    cost = estimate_cost(smollm2, effort_of("quick", parameters), Work(1.7e11, 1.7e11), twins=3)
    assert 1098 / 2 < cost.least_seconds < 1098 * 2
    assert 1343 / 2 < cost.seconds < 1343 * 2


def test_what_is_left_out_costs_nothing() -> None:
    layers: frozenset[Stage] = frozenset({"layers"})
    whole, part = (estimate_cost(QWEN, QUICK, FAST, stages=stages) for stages in (EVERY, layers))
    # No methods' states and no logits, but what the sites' inputs take in their place.
    assert part.memory_bytes < whole.memory_bytes - 2**28
    assert part.disk_bytes < whole.disk_bytes - 24 * BLOCK_WEIGHTS * 6 // 2  # no codes of GPTQ
    without_twins = estimate_cost(QWEN, QUICK, FAST, twins=0, stages=frozenset({"traffic"})).seconds
    with_twins = estimate_cost(QWEN, QUICK, FAST, twins=3, stages=frozenset({"traffic"})).seconds
    once_more = estimate_cost(QWEN, QUICK, FAST, twins=1, stages=frozenset({"traffic"})).seconds
    assert without_twins < with_twins == once_more < 2 * without_twins  # of the twins one, on fewer tokens


def test_time_falls_with_the_rate_and_grows_with_twins_and_effort() -> None:
    quick = estimate_cost(QWEN, QUICK, FAST)
    assert estimate_cost(QWEN, QUICK, Work(2e12, 2e12)).seconds == pytest.approx(quick.seconds / 2)
    assert estimate_cost(QWEN, QUICK, FAST, twins=2).seconds > quick.seconds
    assert quick.seconds < estimate_cost(QWEN, EFFORTS["standard"], FAST).seconds
    assert estimate_cost(QWEN, EFFORTS["standard"], FAST).seconds < estimate_cost(QWEN, EFFORTS["paper"], FAST).seconds


def test_memory_holds_what_lies_outside_the_blocks_and_some_of_one() -> None:
    outside, states = QWEN.parameters - 24 * BLOCK_WEIGHTS, 2**29 + 2 * 256 * QWEN.vocabulary * 4
    full, half = (estimate_cost(QWEN, QUICK, FAST, element_bytes=size).memory_bytes for size in (4, 2))
    assert full > states + (outside + BLOCK_WEIGHTS) * 4
    assert full - half > (outside + BLOCK_WEIGHTS) * 2
    deeper = replace(QWEN, blocks=48, parameters=QWEN.parameters + 24 * BLOCK_WEIGHTS, linears=QWEN_BLOCK * 48)
    assert estimate_cost(deeper, QUICK, FAST).memory_bytes == full


def test_disk_holds_the_download() -> None:
    there = estimate_cost(QWEN, QUICK, FAST)
    assert there.disk_bytes > QWEN.download_bytes
    here = estimate_cost(replace(QWEN, download_bytes=0), QUICK, FAST)
    assert here.download_bytes == 0
    assert here.disk_bytes == there.disk_bytes - QWEN.download_bytes


def test_a_small_context_shortens_the_windows() -> None:
    calibration, heldout, window = token_counts(replace(QWEN, context=100), EFFORTS["standard"])
    assert (calibration, heldout, window) == (32_768, 262_144, 100)


def test_the_header_s_lines() -> None:
    assert Cost(988_097_824, 3_000_000_000, 1_100_000_000, 720.0, 720.0).lines() == [
        "to download: 988.1 MB; memory: about 3.0 GB; disk: about 1.1 GB",
        "time to measure what the cache does not hold: about 12 minutes",
    ]
    assert Cost(0, 0, 0, 0.0, 0.0).lines()[0].startswith("to download: nothing;")
    ranged = Cost(0, 0, 0, 3600.0, 720.0).lines()[1]
    assert ranged == (
        "time to measure what the cache does not hold: about 12 minutes if the first look at the losses decides every "
        "claim, up to 60 minutes if none does"
    )


def test_where_looks_may_end_the_losses_early_the_least_is_said_too() -> None:
    whole = estimate_cost(QWEN, QUICK, FAST)
    # 45 methods on all 64 windows, or 33 on the 16 of the first look.
    spared = 2 * QWEN.parameters * (45 * 64 - 33 * 16) * 256 / 1e12
    assert whole.seconds - whole.least_seconds == pytest.approx(spared)
    layers = estimate_cost(QWEN, QUICK, FAST, stages=EVERY - {"losses"})
    assert layers.least_seconds == layers.seconds


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_999, "1.0 MB"),
        (2_500_000_000, "2.5 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_bytes_in_words(count: int, words: str) -> None:
    assert bytes_in_words(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "1 second"), (1.6, "2 seconds"), (89.0, "89 seconds"), (100.0, "2 minutes"), (9000.0, "2.5 hours")],
)
def test_time_in_words(seconds: float, words: str) -> None:
    assert time_in_words(seconds) == words


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_rate_is_a_computer_s(device: str, dtype: torch.dtype) -> None:
    assert 1e6 < product_rate(device, dtype, 64) < 1e16


@pytest.mark.parametrize(
    ("durations", "fastest"),
    [
        ([0.001, 0.03, 0.02, 0.06, 0.01], 0.02),  # the first never counts; the tenth of a second is over at the fourth
        ([7.0, 5.0, 1.0], 5.0),
    ],
)
def test_the_fastest_repetition_is_the_rate(
    durations: list[float], fastest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: 512 rows and a square linear of 8."""
    ends = iter(accumulate(durations))
    monkeypatch.setattr(fixtures.cost, "time", SimpleNamespace(perf_counter=lambda: next(ends)))
    assert product_rate("cpu", torch.float32, 8) == pytest.approx(2 * 512 * 8 * 8 / fastest)
