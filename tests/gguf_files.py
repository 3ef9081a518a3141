"""Tiny random models as GGUF files, named and permuted as llama.cpp's converter does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.tiny_models import END_OF_TEXT

F32, F16, BF16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16
HEADS, KEY_VALUE_HEADS = 4, 2
TOKENS = [END_OF_TEXT, *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", "ĠĠ"]
MERGES = ["Ġ t", "Ġ Ġ"]
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def tiny_model(architecture: str = "llama", tied: bool = True, seed: int = 0) -> LlamaForCausalLM | Qwen2ForCausalLM:
    """A random model of two blocks whose widths quantized blocks of 32 divide; no norm is 1 and no bias 0."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": len(TOKENS),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "rms_norm_eps": 1e-4,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    kind = {"llama": (LlamaForCausalLM, LlamaConfig), "qwen2": (Qwen2ForCausalLM, Qwen2Config)}[architecture]
    model = kind[0](kind[1](**shape)).eval()
    randomize(model, std=0.3)
    return model


def randomize(model: torch.nn.Module, std: float) -> None:
    """Draw every parameter, so that no norm is 1 and no bias 0."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            torch.nn.init.normal_(parameter, std=std)


def gguf_tensors(model: torch.nn.Module, permuted: bool) -> dict[str, np.ndarray]:
    """The weights under llama.cpp's names; of a Llama the rows of q and k are permuted within each head."""
    found: dict[str, np.ndarray] = {}
    tied = model.config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        stem, _, part = name.rpartition(".")
        if tied and stem == "lm_head":
            continue
        if stem in OUTER:
            renamed = OUTER[stem]
        else:
            _, _, block, inner = stem.split(".", 3)
            renamed = f"blk.{block}.{NAMES[inner]}"
        values = tensor.float().numpy()
        for inner, heads in (("q_proj", HEADS), ("k_proj", KEY_VALUE_HEADS)):
            if permuted and stem.endswith(inner):
                rows = values.shape[0]
                halves = values.reshape(heads, 2, rows // heads // 2, *values.shape[1:])
                values = halves.swapaxes(1, 2).reshape(values.shape)
        found[f"{renamed}.{part}"] = np.ascontiguousarray(values)
    return found


def write_gguf(
    path: Path,
    model: torch.nn.Module | None = None,
    kind: GGMLQuantizationType = F32,
    architecture: str = "llama",
    tokenizer: bool = True,
    tensors: dict[str, np.ndarray] | None = None,
    more: dict[str, Any] | None = None,
) -> Path:
    """Write a GGUF file.

    Args:
        path: where to.
        model: what; `tiny_model()` by default.
        kind: type of the matrices; vectors are stored in float32.
        architecture: what the file says it is.
        tokenizer: whether one is inside: byte-level BPE.
        tensors: what is stored, instead of the model's weights.
        more: further metadata, by key: strings, whole numbers and truth values.
    """
    model = tiny_model() if model is None else model
    config: Any = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if tokenizer:
        more = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"} | (more or {})
        writer.add_token_list(TOKENS)
        writer.add_token_types([3] + [1] * (len(TOKENS) - 1))
        writer.add_token_merges(MERGES)
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)
    for key, value in (more or {}).items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case _:
                writer.add_string(key, value)
    stored = gguf_tensors(model, permuted=architecture == "llama") if tensors is None else tensors
    for name, values in stored.items():
        of_tensor = kind if values.ndim > 1 else F32
        writer.add_tensor(name, quantize(values, of_tensor), raw_dtype=of_tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
