"""Plan of measuring a model from its shape alone: operations, bytes, time and memory.

    python -m benchmarks.plan qwen7b --effort standard --rate 3e14 --slow-rate 4e13 --fetch 2e9

Operations are those of `fixtures/cost.py`: forward passes run at the rate of 16-bit products, all else at that of
single precision.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.shapes import SHAPES, Shape
from fixtures.cost import Work, bytes_in_words, estimate_cost, time_in_words, work_of
from fixtures.measuring.model import TWIN_SEEDS
from fixtures.measuring.stages import STAGES
from fixtures.models.checking import ModelDescription
from fixtures.models.resolve import ModelSource
from fixtures.texts.effort import EFFORTS, effort_of
from reports.command import Parser

LARGER = {"llama70b": Shape(8192, 28_672, 80, 64, 8, vocabulary=128_256, context=8192, tied=False)}
"""Shapes that can be planned but not written as models."""


def described(name: str, shape: Shape) -> ModelDescription:
    """Describe a model of a given shape, without any files."""
    key_value = shape.key_value_heads * shape.hidden // shape.heads
    block = (
        (shape.hidden, shape.hidden),
        (key_value, shape.hidden),
        (key_value, shape.hidden),
        (shape.hidden, shape.hidden),
        (shape.intermediate, shape.hidden),
        (shape.intermediate, shape.hidden),
        (shape.hidden, shape.intermediate),
    )
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    parameters = embeddings + shape.blocks * sum(rows * columns for rows, columns in block)
    return ModelDescription(
        source=ModelSource(name, Path("."), None, None, None, "folder"),
        model_type="qwen2",
        hidden_size=shape.hidden,
        blocks=shape.blocks,
        context=shape.context,
        vocabulary=shape.vocabulary,
        parameters=parameters,
        download_bytes=2 * parameters,
        linears=block * shape.blocks,
    )


def plan(name: str, effort: str, rate: float, slow_rate: float, fetch: float) -> list[str]:
    """Make a plan, as lines of text.

    Args:
        name: name of a shape.
        effort: name of the effort.
        rate: rate of 16-bit products, in operations per second.
        slow_rate: rate of products in single precision, in operations per second.
        fetch: rate at which weights are fetched, in bytes per second.
    """
    description = described(name, (SHAPES | LARGER)[name])
    chosen = effort_of(effort, description.parameters)
    rates = Work(rate, slow_rate)
    whole = estimate_cost(description, chosen, rates, twins=len(TWIN_SEEDS), element_bytes=2)
    lines = [f"{name}: {description.parameters:,} parameters, effort {effort}, bfloat16"]
    fetching = description.download_bytes / fetch
    lines.append(f"  fetching {bytes_in_words(description.download_bytes)}: {time_in_words(fetching)}")
    for stage in STAGES:
        work = work_of(stage, description, chosen, len(TWIN_SEEDS))
        lines.append(f"  {stage}: {sum(work) / 1e15:.2f} PFLOP, {time_in_words(work.seconds(rates))}")
    lines.append(
        f"  together: {time_in_words(fetching + whole.seconds)}; "
        f"memory {bytes_in_words(whole.memory_bytes)} on the device, disk {bytes_in_words(whole.disk_bytes)}"
    )
    return lines


def main() -> None:
    """Print a plan."""
    parser = Parser(prog="python -m benchmarks.plan", description="What measuring a model of some shape would take.")
    parser.add_argument("shape", choices=SHAPES | LARGER)
    parser.add_argument("--effort", choices=sorted(EFFORTS), default="standard")
    parser.add_argument("--rate", type=float, required=True, help="operations a second of 16-bit matrix products")
    parser.add_argument("--slow-rate", type=float, required=True, help="of products in single precision, TF32 off")
    parser.add_argument("--fetch", type=float, default=2e8, help="bytes a second at which weights are fetched")
    given = parser.parse_args()
    sys.stdout.write("\n".join(plan(given.shape, given.effort, given.rate, given.slow_rate, given.fetch)) + "\n")


if __name__ == "__main__":
    main()
