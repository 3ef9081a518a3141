"""Blocks one at a time against the whole model: in memory, read from files, and drawn by the class's initialiser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig

from awq_core.architectures.block_stream import Blocks, put_parameter
from awq_core.architectures.model import architecture_of, separate_experts
from fixtures.models.block_files import load_blocks, untrained_blocks
from fixtures.models.loading import untrained_twin
from fixtures.models.resolve import ModelSource
from tests.tiny_architectures import Case, case, every_case, tiny, token_ids

READ_AT_ONCE = ("gpt_neox", "mixtral", "qwen2_moe")
"""Model types whose files name their tensors otherwise than the model does."""


def through_blocks(blocks: Blocks, ids: Tensor) -> Tensor:
    """What reaches the head."""
    hidden = blocks.embed(ids)
    for block in range(len(blocks)):
        with blocks.open(block):
            hidden = blocks.forward(block, hidden)
    return blocks.finish(hidden)


def whole(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state


def filled_when_opened(model: Any, architecture: Any) -> tuple[Blocks, list[int]]:
    """Blocks whose parameters are on the meta device until they are opened, and which were filled, in order."""
    kept = [{n: p.detach().clone() for n, p in b.named_parameters()} for b in model.get_submodule(architecture.blocks)]
    filled: list[int] = []

    def fill(block: int, module: nn.Module) -> None:
        filled.append(block)
        for name, values in kept[block].items():
            put_parameter(module, name, values.clone())

    for module in model.get_submodule(architecture.blocks):
        for name, parameter in list(module.named_parameters()):
            put_parameter(module, name, torch.empty_like(parameter, device="meta"))
    return Blocks(model, architecture, fill), filled


def on_meta(module: nn.Module) -> bool:
    return all(parameter.is_meta for parameter in module.parameters())


@every_case
@pytest.mark.parametrize("filled", [False, True], ids=["in memory", "filled when opened"])
def test_block_after_block_is_the_whole_model(shape: Case, filled: bool) -> None:
    """At two lengths, in either order of asking: masks and positions differ; batches of any size."""
    model, architecture = tiny(shape)
    inputs = [token_ids(3, 24), token_ids(2, 17, seed=1), token_ids(5, 24, seed=2)]
    expected = [whole(model, ids) for ids in inputs]
    blocks = filled_when_opened(model, architecture)[0] if filled else Blocks(model, architecture)
    assert len(blocks) == 2
    for ids, reaches in zip(inputs, expected, strict=True):
        torch.testing.assert_close(through_blocks(blocks, ids), reaches, rtol=1e-10, atol=1e-10)
    if not filled:
        torch.testing.assert_close(whole(model, inputs[0]), expected[0], rtol=0, atol=0)  # the model is as it was
    assert not any("forward" in module.__dict__ or module._forward_pre_hooks for module in blocks.modules)


def test_a_block_is_filled_while_it_is_open() -> None:
    model, architecture = tiny(case("llama-gqa"))
    expected = model.model.layers[1].mlp.up_proj.weight.detach().clone()
    blocks, filled = filled_when_opened(model, architecture)
    assert all(map(on_meta, blocks.modules))
    with blocks.open(1) as module:
        assert module is blocks.modules[1]
        assert on_meta(blocks.modules[0])
        assert torch.equal(module.mlp.up_proj.weight, expected)
        assert blocks.linears(1)[0].name == "model.layers.1.self_attn.q_proj"
        with blocks.open(1) as again:  # opened once more: filled once, and closed by whoever opened first
            assert again is module
        assert torch.equal(module.mlp.up_proj.weight, expected)
        with blocks.open(0):
            assert not on_meta(blocks.modules[0])
        assert on_meta(blocks.modules[0])
    assert filled == [1, 0]
    assert all(map(on_meta, blocks.modules))

    def stop_inside() -> None:
        with blocks.open(0):
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stop_inside()
    assert all(map(on_meta, blocks.modules))


# from files


@contextmanager
def saved(shape: Case, folder: Path) -> Iterator[tuple[ModelSource, Any]]:
    """A tiny model in a folder, and the same in memory."""
    model, _ = tiny(shape, separated=False)
    model.save_pretrained(folder)
    separate_experts(model)
    yield ModelSource(shape.name, folder, None, None, None, "folder"), model


@every_case
def test_blocks_read_from_files_are_the_whole_model(shape: Case, tmp_path: Path) -> None:
    with saved(shape, tmp_path) as (source, model):
        blocks = load_blocks(source, "cpu", torch.float64)
        assert all(map(on_meta, blocks.modules)) == (shape.model_type not in READ_AT_ONCE)
        ids = token_ids(3, 24)
        torch.testing.assert_close(through_blocks(blocks, ids), whole(model, ids), rtol=1e-10, atol=1e-10)
        assert torch.equal(blocks.model.get_output_embeddings().weight, model.get_output_embeddings().weight)


def test_they_have_the_dtype_that_was_asked_for(tmp_path: Path) -> None:
    with saved(case("qwen2-gqa"), tmp_path) as (source, model):
        blocks = load_blocks(source, "cpu", torch.bfloat16)
        with blocks.open(1) as module:
            for name, parameter in module.named_parameters():
                assert torch.equal(parameter, model.model.layers[1].get_parameter(name).to(torch.bfloat16))
        assert blocks.model.get_input_embeddings().weight.dtype == torch.bfloat16


# drawn


@every_case
def test_untrained_blocks_are_drawn_as_the_class_draws_them(shape: Case, tmp_path: Path) -> None:
    """Standard deviations by parameter; what the class sets to zeros or ones is that."""
    _, architecture = tiny(shape)
    with saved(shape, tmp_path):
        config = AutoConfig.from_pretrained(tmp_path)
    drawn, twin = (make(config, 3, torch.float32, "cpu") for make in (untrained_blocks, untrained_twin))
    for block in range(2):
        with drawn.open(block) as module:
            found = dict(module.named_parameters())
            expected = dict(twin.get_submodule(architecture_of(config).blocks)[block].named_parameters())
            assert found.keys() == expected.keys()
            for name, parameter in expected.items():
                assert found[name].shape == parameter.shape
                deviation = float(parameter.detach().std())
                if len(parameter.detach().unique()) == 1:
                    assert torch.equal(found[name], parameter), name
                else:
                    assert float(found[name].detach().std()) == pytest.approx(deviation, rel=0.1), name
    outside = [(n, p) for n, p in drawn.model.named_parameters() if not n.startswith(architecture.blocks)]
    for name, parameter in outside:
        deviation = float(twin.get_parameter(name).detach().std())
        assert float(parameter.detach().std()) == pytest.approx(deviation, rel=0.1), name
    ids = token_ids(2, 24)
    assert bool(torch.isfinite(through_blocks(drawn, ids)).all())


def test_a_seed_and_an_index_mean_the_same_block_whenever_it_is_opened() -> None:
    model, _ = tiny(case("llama-gqa"))

    def up(blocks: Blocks, block: int) -> Tensor:
        with blocks.open(block) as module:
            return module.mlp.up_proj.weight.detach().clone()

    one, same, other = (untrained_blocks(model.config, seed, torch.float32, "cpu") for seed in (3, 3, 4))
    state = torch.get_rng_state()
    last, first = up(one, 1), up(one, 0)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's
    assert torch.equal(up(same, 0), first)
    assert torch.equal(up(same, 1), last)
    assert torch.equal(up(one, 1), last)
    embeddings = one.model.get_input_embeddings().weight
    assert torch.equal(embeddings, same.model.get_input_embeddings().weight)
    for unlike in (last, up(other, 0)):
        assert float((first * unlike).mean().abs() / (first.std() * unlike.std())) < 0.1
    assert not torch.equal(embeddings, other.model.get_input_embeddings().weight)
