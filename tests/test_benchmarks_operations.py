"""The benchmark's counts of operations and bytes: against sums by hand, and against torch's own counter."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from awq_core.calibrated import BLOCK, calibrate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from awq_core.architecture import linears_of_block
from awq_core.layers import LayerSettings, measure_layers
from awq_core.streaming import BlockStream
from benchmarks import operations
from benchmarks.model_shape import LinearShape, ModelShape, searched_groups, shape_of
from benchmarks.official_search import recorded_blocks, search
from benchmarks.operations import Work
from tests.structured_model import LLAMA, structured_model, tokens

SHAPE = ModelShape(
    blocks=3,
    hidden=4,
    vocabulary=11,
    heads=2,
    head_size=2,
    linears=(
        LinearShape("q", "attention_in", 4, 4),
        LinearShape("k", "attention_in", 2, 4),
        LinearShape("v", "attention_in", 2, 4),
        LinearShape("o", "attention_out", 4, 4),
        LinearShape("gate", "mlp_in", 6, 4),
        LinearShape("up", "mlp_in", 6, 4),
        LinearShape("down", "mlp_out", 4, 6),
    ),
    dtype=torch.float32,
    arithmetic=torch.float64,
)
CUBES = 4 * 16 + 2 * 16 + 2 * 16 + 4 * 16 + 6 * 16 + 6 * 16 + 4 * 36
"""Sum over linears of out in in."""
WEIGHTS = 16 + 8 + 8 + 16 + 24 + 24 + 24
"""Sum over linears of out in."""


def test_a_product_s_operations_and_bytes() -> None:
    assert operations.product(2, 3, 5, torch.float32) == Work(Counter({torch.float32: 60}), 4 * (6 + 15 + 10))


def test_the_layer_grid_has_420_errors_of_every_linear_and_two_denominators() -> None:
    assert operations.layer_grid(SHAPE).products == {torch.float64: 3 * 422 * 2 * CUBES}
    assert operations.layer_grid(SHAPE, bits=2).products == {torch.float64: 3 * 170 * 2 * CUBES}


def test_the_bytes_of_a_candidate() -> None:
    # (2, 4) in float64: round reads 8 numbers and writes 8; each of two moments: the product reads 8 and 16 and writes
    # 8, the sum reads 8 and 8.
    assert operations.candidates(2, 4, 1, 2, torch.float64).traffic == 8 * (16 + 2 * (32 + 16))


def test_the_other_stages_of_the_layers() -> None:
    assert operations.mechanism(SHAPE).products == {torch.float64: 3 * (2 * 9 * 2 + 2) * 2 * CUBES}
    assert operations.group_replay(SHAPE, 10).products == {torch.float32: 3 * 7 * 2 * 10 * WEIGHTS}
    assert operations.gathering(SHAPE, 10).products == {torch.float64: 3 * 2 * 10 * (16 + 16 + 16 + 36)}


def test_a_forward_pass_has_the_linears_and_attention_s_two_products() -> None:
    # Two sequences of five tokens, two heads of two channels: (5, 2) @ (2, 5) and (5, 5) @ (5, 2) for each.
    attention = 2 * 2 * (2 * 5 * 2 * 5) * 2
    assert operations.block_forward(SHAPE, 10, 5).products == {torch.float32: 3 * (2 * 10 * WEIGHTS + attention)}


def test_traffic() -> None:
    # Candidates: 42 + 2 for usual and for random tokens; 42 + 6 for each of five kinds. Denominators: 2 and 5.
    assert operations.traffic_errors(SHAPE).products == {torch.float64: 3 * (2 * 44 + 5 * 48 + 7) * 2 * CUBES}


def test_clipping_gptq_and_losses() -> None:
    # Widths below 32 are one group: v, o, gate, up have g = 4, down g = 6.
    clip = 2 * (2 * 16 + 4 * 16 + 6 * 16 + 6 * 16 + 4 * 36)
    assert operations.clip_search(SHAPE, bits=2).products == {torch.float64: 3 * 2 * 10 * clip}
    # Rows of the four sites: 8, 4, 12 of width 4 and 4 of width 6. The precisions share the factor.
    solved = 3 * 4**3 + 6**3 + 2 * (8 * 16 + 4 * 16 + 12 * 16 + 4 * 36)
    assert operations.gptq(SHAPE, bits=2).products == {torch.float64: 3 * solved}
    assert operations.head(SHAPE, 10).products == {torch.float32: 2 * 10 * 4 * 11}
    assert operations.rounding(SHAPE) == Work(Counter(), 3 * 2 * WEIGHTS * 4)


def test_work_adds_up() -> None:
    work = Work(Counter({torch.float32: 2, torch.float64: 3}), 5)
    assert operations.total([work, work.times(2)]) == Work(Counter({torch.float32: 6, torch.float64: 9}), 15)
    assert work.operations == 5


@pytest.fixture(scope="module", params=[("llama", 4), ("qwen2", 2)])
def model(request: pytest.FixtureRequest) -> Any:
    kind, key_value_heads = request.param
    return structured_model(key_value_heads, kind)


def counted(action: Any) -> int:
    """Operations of matrix products by torch's counter; attention as two products, or it would count none of it."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        action()
    return counter.get_total_flops()


def test_torch_counts_the_same_for_the_official_search(model: Any) -> None:
    ids = tokens(4)
    shape = shape_of(model, LLAMA, torch.float64)
    groups = searched_groups(model, LLAMA, shape.linears)
    done = 0
    for recorded in recorded_blocks(model, ids):
        recorded.record()
        done += counted(lambda block=recorded: search(block, 3))
    assert done == operations.official_search(shape, groups, 4 * 32, 32).operations


def test_the_suite_does_what_its_formulas_count(model: Any) -> None:
    """At most: formulas count what is asked for, and a faster way may need less."""
    calibration, heldout = tokens(4), tokens(6, seed=1)
    shape = shape_of(model, LLAMA, torch.float64)
    assert [entry.family for entry in linears_of_block(LLAMA, 0)] == [entry.family for entry in shape.linears]
    stream = BlockStream(model, LLAMA, {"calibration": calibration, "heldout": heldout})
    layers = operations.total(
        [
            operations.block_forward(shape, 10 * 32, 32).times(2),
            operations.gathering(shape, 10 * 32),
            operations.layer_grid(shape),
            operations.mechanism(shape),
            operations.group_replay(shape, 6 * 32),
        ]
    )
    # The mechanism's two grids make the denominators twice.
    twice = operations.total(
        operations.powers(entry.out, entry.width, 2, torch.float64) for entry in shape.linears
    ).times(shape.blocks)
    assert counted(lambda: measure_layers(stream, LayerSettings())) <= (layers + twice).operations
    searching = operations.total(
        [
            operations.block_forward(shape, 4 * 32, 32).times(2),  # once for every block's arguments, in part
            operations.gathering(shape, 4 * 32),
            operations.block_search(shape, searched_groups(model, LLAMA, shape.linears), 4 * 32, 32),
        ]
    )
    head = 2 * 32 * shape.hidden * shape.vocabulary
    found = counted(lambda: calibrate(model, LLAMA, calibration, (3,), (BLOCK,), arithmetic=torch.float64))
    assert found <= searching.operations + head
