"""A small random float64 model in which scales have something to protect, and the embedded models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import awq_core.measure.fold_check
from awq_core.architectures.block_stream import Blocks, BlockStream
from awq_core.architectures.model import Architecture, applicable_folds, architecture_of
from awq_core.measure.layers.instrument import LayerSettings, measure_layers
from awq_core.measure.methods.block_inputs import BlockInputs
from awq_core.measure.methods.block_rounding import LayerFindings
from awq_core.measure.methods.one_pass import MethodPass
from awq_core.measure.methods.scale_search import Formula, FoundScale, search_group
from awq_core.measured import JUDGED_BITS, Measured
from awq_core.quantization.quantizers import DEPLOYED
from fixtures.models.loading import load_model, load_tokenizer
from fixtures.models.resolve import resolve
from fixtures.texts.choose import choose_texts
from fixtures.texts.effort import EFFORTS
from fixtures.texts.tokens import TextSelection, select_tokens

SHAPE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}
LLAMA = architecture_of("llama")
"""Qwen2's row of the table too."""


def structured_model(key_value_heads: int = 4, kind: str = "llama", **shape: Any) -> Any:
    """A few channels at every site are enlarged; Qwen2's biases are drawn, so that none is trivially zero."""
    sizes = SHAPE | {"num_key_value_heads": key_value_heads} | shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "llama":
            model: Any = LlamaForCausalLM(LlamaConfig(**sizes))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**sizes))
        with torch.no_grad():
            for block in model.model.layers:
                block.input_layernorm.weight[:3] *= torch.tensor([20.0, 5.0, 0.01])
                block.post_attention_layernorm.weight[10:12] *= 15.0
                block.self_attn.v_proj.weight[7] *= 10.0
                block.mlp.up_proj.weight[30] *= 25.0
                for name, parameter in block.named_parameters():
                    if name.endswith("bias"):
                        parameter.normal_(0, 0.3)
    return model.double().eval()


def tokens(sequences: int, length: int = 32, seed: int = 0) -> np.ndarray:
    """Token ids `[sequences, length]`."""
    return np.random.default_rng(seed).integers(0, SHAPE["vocab_size"], size=(sequences, length))


def measured_layers(model: Any, calibration: np.ndarray, heldout: np.ndarray) -> Measured:
    """The two layer-level datasets of a model, without losses and without twins."""
    stream = BlockStream(model, LLAMA, {"calibration": calibration, "heldout": heldout})
    channels, errors = measure_layers(stream, LayerSettings())
    ids = {"calibration": calibration, "heldout": heldout}
    return Measured("m", None, 0, channels, errors, None, ids, {"seed": 0})


def texts() -> dict[str, np.ndarray]:
    """The text sets that methods are calibrated on."""
    usual = tokens(6)
    return {"": usual, "few": usual[[0, 3]], "foreign": tokens(3, seed=7), "matched": usual[[0, 2, 4]]}


def layer_findings(model: Any, seed: int = 0) -> LayerFindings:
    """What the layer-level instruments find on the usual text."""
    measured = measured_layers(model, texts()[""], tokens(16, seed=1))
    return LayerFindings.of(measured.channels, measured.errors, JUDGED_BITS, seed)


def method_pass(model: Any, layers: LayerFindings, **options: Any) -> MethodPass:
    """A pass in float64, with searches that try every exponent on every token."""
    settings: dict[str, Any] = {"arithmetic": torch.float64, "exhaustive": True, **options}
    return MethodPass(Blocks(model, LLAMA), texts(), layers, **settings)


def searched(
    model: Any,
    architecture: Architecture,
    ids: np.ndarray,
    bits: int,
    formula: Formula = "official",
    *,
    arithmetic: torch.dtype = torch.float64,
    grouped: bool = False,
    exhaustive: bool = True,
) -> list[FoundScale]:
    """What the search for scales finds for every group of every block."""
    stream = BlockStream(model, architecture, {"": ids}, groups=1)
    found = []
    for block in range(stream.blocks):
        stream.begin(block)
        inputs = BlockInputs(stream, block, "", arithmetic)
        for fold in applicable_folds(model, architecture, block, grouped=grouped):
            found.append(
                search_group(model, architecture, block, fold, DEPLOYED, bits, inputs, formula, exhaustive=exhaustive)
            )
        stream.advance(block)
    return found


def while_folded(monkeypatch: pytest.MonkeyPatch, add: Callable[[Any], Callable[[], Any]]) -> None:
    """Let something be added to the first MLP for as long as the model is folded; `add` gives what takes it away."""
    real = awq_core.measure.fold_check.exchanged

    @contextmanager
    def more(model: Any, parameters: Any) -> Iterator[None]:
        with real(model, parameters):
            remove = add(model.model.layers[0].mlp)
            yield
            remove()

    monkeypatch.setattr(awq_core.measure.fold_check, "exchanged", more)


def a_module(mlp: nn.Module) -> Callable[[], Any]:
    """A module to be added."""
    mlp.add_module("scale", nn.Identity())
    return lambda: delattr(mlp, "scale")


def a_parameter(mlp: nn.Module) -> Callable[[], Any]:
    """A parameter to be added."""
    mlp.register_parameter("scale", nn.Parameter(torch.ones(3)))
    return lambda: delattr(mlp, "scale")


def an_operation(mlp: nn.Module) -> Callable[[], Any]:
    """An operation to be added."""
    return mlp.register_forward_hook(lambda module, args, output: output * 1.0).remove


def embedded(name: str) -> tuple[Any, TextSelection]:
    """An embedded model in single precision, and its tokens of the suite's default texts."""
    source = resolve(name, None)
    model = load_model(source, "cpu", torch.float32)
    texts = choose_texts(source, None, None, None)
    context, vocabulary = model.config.max_position_embeddings, model.config.vocab_size
    return model, select_tokens(load_tokenizer(source), texts, EFFORTS["quick"], context, vocabulary)
