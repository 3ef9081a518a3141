"""The table of methods: which columns are kept, what a method needs, and redraws of every method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from awq_core.architectures.block_stream import Blocks
from awq_core.measure.methods.block_rounding import LayerFindings, redraw_signs
from awq_core.measure.methods.losses import Scores
from awq_core.measure.methods.one_pass import MethodPass
from awq_core.measure.methods.table import (
    A_SCALE_AT_RUN_TIME,
    FULL,
    METHODS,
    MIXED_PRECISION,
    RANDOM_CHOICES,
    Strategy,
    strategies,
)
from tests import reference_diagnostic as reference
from tests import reference_gptq
from tests.structured_model import LLAMA, layer_findings, method_pass, structured_model, texts, tokens

HELDOUT = tokens(4, seed=3)
TWO_BLOCKS = range(2)


@pytest.fixture(scope="module")
def model() -> Any:
    """The MLP's inner width is 256, so that its top 1% are two channels."""
    return structured_model(2, "qwen2", intermediate_size=256)


@pytest.fixture(scope="module")
def layers(model: Any) -> LayerFindings:
    return layer_findings(model)


@pytest.fixture(scope="module")
def made(model: Any, layers: LayerFindings) -> MethodPass:
    found = method_pass(model, layers)
    found.score([Strategy(METHODS["awq-block"], 3)], HELDOUT)
    return found


def parameters(made: MethodPass, method: str, bits: int = 3, draw: int = 0) -> dict[str, np.ndarray]:
    """Of both blocks, as arrays."""
    found: dict[str, torch.Tensor] = {}
    for block in TWO_BLOCKS:
        found |= made.parameters(Strategy(METHODS[method], bits, draw=draw), block)
    return {name.removesuffix(".weight"): value.numpy() for name, value in found.items()}


# columns


def kept_columns(made: MethodPass, method: str) -> dict[str, list[int]]:
    """Columns that stand as they were; every other must be as round-to-nearest has it."""
    quantized, rounded = parameters(made, method), parameters(made, "rtn")
    assert quantized.keys() == rounded.keys()
    found = {}
    for name, weight in reference.weights_of(made.blocks.model).items():
        kept = (quantized[name] == weight).all(axis=0)
        np.testing.assert_array_equal(quantized[name][:, ~kept], rounded[name][:, ~kept])
        found[name] = np.flatnonzero(kept).tolist()
    return found


RANDOM = [f"keep-random{choice}" for choice in range(RANDOM_CHOICES)]


def test_exactly_the_chosen_columns_are_kept(made: MethodPass) -> None:
    """By activation, by weight, at random: 1% of the input channels, at least one, and nothing else."""
    assert RANDOM_CHOICES % 3 == 0  # they come in threes
    by_activation, by_weight = kept_columns(made, "keep-activation"), kept_columns(made, "keep-weight")
    at_random = [kept_columns(made, method) for method in RANDOM]
    inputs = reference.captured_inputs(made.blocks.model, texts()[""])
    for name, weight in reference.weights_of(made.blocks.model).items():
        count = max(1, weight.shape[1] // 100)
        assert count == (2 if name.endswith("down_proj") else 1)
        magnitude, size = np.abs(inputs[name]).mean(axis=0), np.abs(weight).mean(axis=0)
        assert by_activation[name] == sorted(np.argsort(-magnitude)[:count].tolist())
        assert by_weight[name] == sorted(np.argsort(-size)[:count].tolist())
        assert all(len(choice[name]) == count for choice in at_random)


def test_random_choices_follow_the_seed_and_differ(model: Any, made: MethodPass) -> None:
    def drawn(seed: int) -> list[dict[str, list[int]]]:
        other = MethodPass(Blocks(model, LLAMA), {}, LayerFindings(seed, magnitudes=made.layers.magnitudes))
        return [kept_columns(other, method) for method in RANDOM]

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert first == again
    everything = [*first, *other]
    assert all(a != b for i, a in enumerate(everything) for b in everything[:i])
    at_down = [tuple(choice["model.layers.1.mlp.down_proj"]) for choice in everything]
    assert len(set(at_down)) > 14  # of 32640 pairs, eighteen draws


# what is needed


@pytest.mark.parametrize(("key_value_heads", "everywhere"), [(4, ""), (2, A_SCALE_AT_RUN_TIME)])
def test_what_a_strategy_needs_beyond_a_checkpoint(key_value_heads: int, everywhere: str) -> None:
    """Under grouped queries no exact fold reaches o."""
    model = structured_model(key_value_heads, "qwen2")
    needs = {s.label: s.needs for s in strategies(model, LLAMA, (3, 4), all_methods=True)}
    expected = {"awq-linear": A_SCALE_AT_RUN_TIME}
    expected |= dict.fromkeys(("awq-site", "awq-constant-everywhere", "awq-half"), everywhere)
    expected |= {name: MIXED_PRECISION for name in METHODS if name.startswith("keep-")}
    assert {name: need for name, need in needs.items() if need} == {n: need for n, need in expected.items() if need}


def test_what_deploys_changes_only_what_a_checkpoint_of_the_architecture_has(made: MethodPass) -> None:
    """Every weight of a linear has at most `2^bits` values a row and group; norms and biases may change too."""
    for method in METHODS.values():
        strategy = Strategy(method, 3)
        if method.needs or (method.search is not None and method.name != "awq-block"):
            continue
        for block in TWO_BLOCKS:
            for name, value in made.parameters(strategy, block).items():
                assert value.shape == made.blocks.model.get_parameter(name).shape
                if value.ndim == 2:
                    size = reference.group_size(value.shape[1])
                    values = [len(group.unique()) for row in value for group in row.split(size)]
                    assert max(values) <= 8, (method.name, name)
                else:
                    assert "norm" in name or name.endswith("bias")


# redraws


def test_round_to_nearest_is_redrawn_by_flipping_signs_around_it(made: MethodPass, layers: LayerFindings) -> None:
    for draw in (1, 2):
        redrawn = parameters(made, "rtn", draw=draw)
        for name, weight in reference.weights_of(made.blocks.model).items():
            signs = redraw_signs(layers.seed, draw, name, weight.shape[1]).numpy()
            expected = reference.quantized(weight * signs, "asym-g128", 3) * signs
            np.testing.assert_allclose(redrawn[name], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("method", "ordered"), [("gptq-parallel", False), ("gptq-order", True)])
def test_gptq_is_searched_anew_on_flipped_inputs(model: Any, layers: LayerFindings, method: str, ordered: bool) -> None:
    """Linears that share an input have signs of their own."""
    made = method_pass(model, layers)
    made.score([Strategy(METHODS[method], 3, draw=1)], HELDOUT)
    redrawn = parameters(made, method, draw=1)
    inputs = reference.captured_inputs(model, texts()[""])
    for name in (f"model.layers.{b}.self_attn.{p}_proj" for b in TWO_BLOCKS for p in "kv"):
        weight = reference.weights_of(model)[name]
        signs = redraw_signs(layers.seed, 1, name, weight.shape[1]).numpy()
        x = inputs[name] * signs
        size = reference.group_size(weight.shape[1])
        expected = reference_gptq.gptq(weight * signs, x.T @ x, 3, size, ordered) * signs
        np.testing.assert_allclose(redrawn[name], expected, rtol=1e-7, atol=1e-9)


def named(scores: list[Scores], listed: list[Strategy]) -> dict[str, np.ndarray]:
    return {strategy.name: score.loss for strategy, score in zip(listed, scores, strict=True)}


def test_every_method_s_redraws_are_new_and_a_function_of_the_seed(model: Any, layers: LayerFindings) -> None:
    every = [METHODS[name] for name in METHODS]
    listed = [FULL, *(Strategy(method, 3, draw=draw) for method in every for draw in (0, 1, 2))]

    def scored(seed: int) -> dict[str, np.ndarray]:
        seeded = replace(layers, seed=seed)
        return named(method_pass(model, seeded, exhaustive=False).score(listed, HELDOUT), listed)

    first, again, other = scored(0), scored(0), scored(1)
    for name, loss in first.items():
        np.testing.assert_array_equal(loss, again[name])
    np.testing.assert_array_equal(first["full"], other["full"])
    for method in every:
        draws = [first[f"{method.name}-3{draw}"] for draw in ("", "~1", "~2")]
        draws += [other[f"{method.name}-3{draw}"] for draw in ("~1", "~2")]
        assert all(np.abs(a - b).min() > 0 for i, a in enumerate(draws) for b in draws[:i]), method.name


def test_in_every_draw_the_unrounded_function_is_the_model_s(model: Any, layers: LayerFindings) -> None:
    """At sixteen bits hardly anything is rounded, and every method in every draw is full precision."""
    fine = replace(layers, alphas={16: layers.alphas[3]}, constant={16: layers.constant[3]}, seed=0)
    listed = [FULL, *(Strategy(method, 16, draw=draw) for method in METHODS.values() for draw in (0, 1))]
    scores = method_pass(model, fine, exhaustive=False).score(listed, HELDOUT)
    for strategy, score in zip(listed[1:], scores[1:], strict=True):
        assert score.divergence.mean() < 1e-5, strategy.name
        np.testing.assert_allclose(score.loss, scores[0].loss, atol=2e-3)
