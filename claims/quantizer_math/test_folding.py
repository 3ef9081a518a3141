"""Folding: moving scales into the operation before changes nothing until something is rounded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from awq_core.architectures.folding import Parameters, exchanged, fold_block
from awq_core.architectures.model import Fold, applicable_folds, architecture_of, linear

SHAPE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
LLAMA = architecture_of("llama")
FOLDED_ROLES = ("attention_in", "attention_out", "mlp_in", "mlp_out")


def tiny_model(kind: str, key_value_heads: int, seed: int, biases: bool = False) -> Any:
    """A random model in float64; its norms and biases are drawn too, so that none is trivially one or zero."""
    shape = SHAPE | {"num_key_value_heads": key_value_heads}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "qwen2":
            model: Any = Qwen2ForCausalLM(Qwen2Config(**shape))
        else:
            model = LlamaForCausalLM(LlamaConfig(**shape, attention_bias=biases, mlp_bias=biases))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.3)
            elif "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.double().eval()


def logits(model: Any, seed: int = 0) -> Tensor:
    ids = torch.randint(60, (2, 20), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


Scales = list[tuple[int, Fold, Tensor]]
"""Block, fold, and its scales."""


def drawn_scales(model: Any, seed: int, spread: float = 1.0) -> Scales:
    """Positive scales of a wide range for every fold that applies."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for block in range(SHAPE["num_hidden_layers"]):
        for fold in applicable_folds(model, LLAMA, block):
            reader = linear(model, f"model.layers.{block}.{LLAMA.site(fold.name).linears[0][1]}")
            scales = torch.randn(reader.in_features, dtype=torch.float64, generator=generator).mul(spread).exp()
            found.append((block, fold, scales))
    return found


def folded(model: Any, scales: Scales) -> Parameters:
    """All that changes, of every block."""
    changed: Parameters = {}
    for block in range(SHAPE["num_hidden_layers"]):
        linears, others = fold_block(model, LLAMA, block, [(fold, scale) for at, fold, scale in scales if at == block])
        changed |= linears | others
    return changed


MODELS = [("qwen2", 4, False), ("qwen2", 2, False), ("llama", 4, False), ("llama", 1, False), ("llama", 4, True)]


@pytest.mark.parametrize(("kind", "key_value_heads", "biases"), MODELS)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=8)
def test_folding_changes_no_logit(kind: str, key_value_heads: int, biases: bool, seed: int) -> None:
    """mechanism.equivalence, in float64; qkv biases (Qwen2) and biases everywhere (the last Llama) included."""
    model = tiny_model(kind, key_value_heads, seed % 1000, biases)
    expected = logits(model, seed)
    changed = folded(model, drawn_scales(model, seed))
    down = "model.layers.0.mlp.down_proj.weight"
    assert not torch.allclose(changed[down], model.get_parameter(down))
    with exchanged(model, changed):
        # The model's norms round to single precision inside, where the last bit of a float64 may decide one way or the
        # other: nearly always nothing of it is seen, and never more than a few units of single precision.
        torch.testing.assert_close(logits(model, seed), expected, rtol=2e-6, atol=2e-6)
    assert torch.equal(logits(model, seed), expected)


@pytest.mark.parametrize("role", FOLDED_ROLES)
def test_leaving_out_the_inverse_would_show(role: str) -> None:
    """Were the operation before not divided, or its bias forgotten, the test above would fail."""
    model = tiny_model("llama", 4, 1, biases=True)
    expected = logits(model)
    chosen = [entry for entry in drawn_scales(model, 2) if entry[1].name == role]
    changed = folded(model, chosen)
    previous = f"model.layers.0.{chosen[0][1].previous}"
    for name in (f"{previous}.weight", f"{previous}.bias"):
        if name in changed:
            original = dict(model.named_parameters())[name].detach()
            assert not torch.equal(changed[name], original)
            with exchanged(model, {**changed, name: original}):
                assert (logits(model) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(("key_value_heads", "folds"), [(4, 4), (2, 3), (1, 3)])
def test_values_fold_into_the_output_only_where_shapes_are_equal(key_value_heads: int, folds: int) -> None:
    model = tiny_model("qwen2", key_value_heads, 0)
    roles = [fold.name for fold in applicable_folds(model, LLAMA, 0)]
    assert len(roles) == folds
    assert ("attention_out" in roles) == (key_value_heads == 4)


def test_query_key_and_value_biases_stay_and_the_value_s_is_divided() -> None:
    """q, k and v add their bias after the scaled product; only what feeds o divides it."""
    model = tiny_model("qwen2", 4, 0)
    drawn = [(fold, scales) for block, fold, scales in drawn_scales(model, 5) if block == 0]
    linears, others = fold_block(model, LLAMA, 0, drawn)
    found = {fold.name: scales for fold, scales in drawn}
    prefix = "model.layers.0.self_attn"
    assert f"{prefix}.q_proj.bias" not in others
    assert f"{prefix}.k_proj.bias" not in others
    original = linear(model, f"{prefix}.v_proj")
    into, out = found["attention_in"], found["attention_out"]
    torch.testing.assert_close(others[f"{prefix}.v_proj.bias"], original.bias / out)
    torch.testing.assert_close(linears[f"{prefix}.v_proj.weight"], original.weight * into / out[:, None])


def test_without_scales_every_weight_is_returned_as_it_is() -> None:
    model = tiny_model("qwen2", 2, 0)
    linears, others = fold_block(model, LLAMA, 1, [])
    assert others == {}
    assert len(linears) == 7
    for name, weight in linears.items():
        original = model.get_parameter(name)
        assert torch.equal(weight, original)
        assert weight.data_ptr() != original.data_ptr()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("place", range(4))
def test_a_scale_that_is_not_positive_is_refused(bad: float, place: int) -> None:
    model = tiny_model("llama", 4, 0)
    fold = applicable_folds(model, LLAMA, 0)[place]
    _, _, scales = drawn_scales(model, 0)[place]
    scales[3] = bad
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with pytest.raises(ValueError, match=f"block 0: scales of {fold.name} must be positive and finite"):
        fold_block(model, LLAMA, 0, [(fold, scales)])
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


class _InterruptedError(Exception):
    pass


def storages(model: Any) -> dict[str, tuple[int, Tensor]]:
    """Where every parameter lives, and a copy of its bits."""
    return {name: (p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}


def assert_untouched(model: Any, before: dict[str, tuple[int, Tensor]]) -> None:
    for name, parameter in model.named_parameters():
        place, bits = before[name]
        assert parameter.data_ptr() == place, f"{name} lives elsewhere"
        assert torch.equal(parameter, bits), f"{name} has other values"


@pytest.mark.parametrize("interrupted", [False, True])
def test_exchanged_parameters_are_taken_back(interrupted: bool) -> None:
    model = tiny_model("qwen2", 4, 3)
    before = storages(model)
    changed = folded(model, drawn_scales(model, 1))
    try:
        with exchanged(model, changed):
            for name, value in changed.items():
                assert torch.equal(model.get_parameter(name), value)
                model.get_parameter(name).data.add_(1.0)  # whatever happens inside stays inside
            if interrupted:
                raise _InterruptedError
    except _InterruptedError:
        pass
    assert_untouched(model, before)


def test_exchanging_a_parameter_that_is_not_there_changes_nothing() -> None:
    model = tiny_model("qwen2", 2, 3)
    before = storages(model)
    name = "model.layers.0.mlp.down_proj.weight"
    changed = {name: torch.zeros_like(model.get_parameter(name)), "model.layers.9.mlp.down_proj.weight": torch.ones(1)}
    with pytest.raises(AttributeError), exchanged(model, changed):
        pass
    assert_untouched(model, before)
