"""Every architecture that the README names for GGUF files computes as the model that the file was written from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map

from fixtures.models.converted import on_this_machine
from fixtures.models.loading import load_model
from fixtures.models.quiet import quiet
from fixtures.models.resolve import resolve
from tests.gguf_files import MERGES, TOKENS, randomize

SHAPE: dict[str, Any] = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GPT2: dict[str, Any] = {"vocab_size": len(TOKENS), "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 0}
# What a released model has and its GGUF file does not say stands in the configuration class: Qwen3's width of a head,
# Phi-3's padding token, GPT-2's context.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", SHAPE | {"head_dim": 128}),
    "gemma2": ("Gemma2Config", SHAPE | {"head_dim": 32, "sliding_window": 16}),
    "gemma3": ("Gemma3TextConfig", SHAPE | {"head_dim": 32, "sliding_window": 16}),
    "phi3": ("Phi3Config", SHAPE | {"vocab_size": 32064, "pad_token_id": 32000}),
    "gpt2": ("GPT2Config", GPT2 | {"eos_token_id": 0}),
}


def original(architecture: str) -> Any:
    """A random model; no norm is 1 and no bias 0."""
    torch.manual_seed(0)
    name, shape = CASES[architecture]
    with quiet():
        config = getattr(transformers, name)(**shape)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomize(model, std=0.2)
    return model


def write(path: Path, architecture: str, model: Any) -> None:
    """As llama.cpp's converter does: Gemma's norms with 1 added, GPT-2's matrices transposed."""
    config = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if architecture == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        positions = config.rope_parameters
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_key_length(head)
        writer.add_rope_dimension_count(head)
        writer.add_rope_freq_base(positions.get("full_attention", positions)["rope_theta"])
        if getattr(config, "sliding_window", None):
            writer.add_sliding_window(config.sliding_window)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] + [1] * (len(TOKENS) - 1))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = get_tensor_name_map(MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            values = values.T
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("architecture", CASES)
def test_the_model_computes_as_the_original(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(tmp_path / "cache"))
    model = original(architecture)
    path = tmp_path / f"{architecture}.gguf"
    write(path, architecture, model)
    read = load_model(on_this_machine(resolve(str(path), None)), "cpu", torch.float32)
    ids = torch.randint(0, len(TOKENS), (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = model(ids).logits, read(ids).logits
    assert expected.std() > 0.1
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.std())), architecture
