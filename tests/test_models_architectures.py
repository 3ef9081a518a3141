"""Models of every architecture, from a folder: described from their headers, loaded, and beside an untrained twin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from awq_core.architectures.model import linear, linears_of_block, weight_of
from fixtures.models.checking import describe
from fixtures.models.loading import load_model, untrained_twin
from fixtures.models.resolve import resolve
from fixtures.models.weights import SINGLE
from tests.refusals import refusal
from tests.tiny_architectures import Case, case, every_case, tiny, token_ids
from tests.tiny_models import byte_tokenizer


def written(folder: Path, shape: Case) -> tuple[Path, Any, Any]:
    """A folder with a model of a case, as transformers stores it; that model, its experts separated; its row."""
    fused, architecture = tiny(shape, separated=False, vocab_size=260)
    fused.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    separated, _ = tiny(shape, vocab_size=260)
    return folder, separated, architecture


@every_case
def test_a_model_is_described_loaded_and_has_a_twin(tmp_path: Path, shape: Case) -> None:
    folder, model, architecture = written(tmp_path, shape)
    source = resolve(str(folder), None)
    names = [entry.name for block in range(2) for entry in linears_of_block(architecture, block)]
    shapes = [tuple(weight_of(linear(model, name)).shape) for name in names]

    described = describe(source)
    found = described.hidden_size, described.blocks, described.context, described.vocabulary
    assert found == (64, 2, 64, 260)
    assert sorted(described.linears) == sorted(shapes)
    assert described.parameters == sum(parameter.numel() for parameter in model.parameters())

    loaded = load_model(source, "cpu", torch.float64)
    ids = token_ids()
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(loaded(input_ids=ids, use_cache=False).logits, expected, rtol=1e-12, atol=1e-12)

    twin: Any = untrained_twin(loaded.config, 3, torch.float32, "cpu")
    assert [tuple(weight_of(linear(twin, name)).shape) for name in names] == shapes
    with torch.no_grad():
        assert bool(torch.isfinite(twin(input_ids=ids, use_cache=False).logits).all())


@pytest.mark.parametrize(("name", "experts"), [("mixtral-mha", 4), ("qwen2-moe-gqa", 4)])
def test_experts_stored_as_one_tensor_are_counted_one_by_one(tmp_path: Path, name: str, experts: int) -> None:
    folder, model, architecture = written(tmp_path, case(name))
    per_expert = load_file(folder / SINGLE)
    fused = {key: tensor for key, tensor in per_expert.items() if ".experts." not in key}
    for block in range(2):
        for projection in ("gate", "up", "down"):
            path = f"model.layers.{block}.mlp.experts.{{}}.{projection}_proj.weight"
            tensors = [model.get_parameter(path.format(expert)).detach() for expert in range(experts)]
            fused[f"model.layers.{block}.mlp.experts.{projection}_proj"] = torch.stack(tensors)
        prefix = f"model.layers.{block}.mlp.experts"
        halves = [fused.pop(f"{prefix}.{half}_proj") for half in ("gate", "up")]
        fused[f"{prefix}.gate_up_proj"] = torch.cat(halves, dim=1)  # (experts, 2 intermediate, hidden)
    save_file(fused, folder / SINGLE, {"format": "pt"})
    names = [entry.name for block in range(2) for entry in linears_of_block(architecture, block)]
    found = describe(resolve(str(folder), None))
    assert sorted(found.linears) == sorted(tuple(weight_of(linear(model, name)).shape) for name in names)


def test_masks_that_old_checkpoints_carry_are_no_parameters(tmp_path: Path) -> None:
    folder, _, _ = written(tmp_path, case("neox-parallel"))
    before = describe(resolve(str(folder), None))
    tensors = load_file(folder / SINGLE)
    tensors["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    tensors["gpt_neox.layers.0.attention.masked_bias"] = torch.zeros(())
    tensors["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.zeros(4)
    save_file(tensors, folder / SINGLE, {"format": "pt"})
    after = describe(resolve(str(folder), None))
    assert (after.parameters, after.linears) == (before.parameters, before.linears)


def test_a_model_that_its_row_would_not_describe_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    folder, _, _ = written(tmp_path, case("qwen2-moe-mha"))
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mlp_only_layers": [1]}))
    assert refusal(describe, resolve(str(folder), None)) == (
        f"{folder}: a model of type 'qwen2_moe' with mlp_only_layers = [1] is not in the table of architectures"
    )
