"""Tiny random language models with a tokenizer, written to a folder in milliseconds: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

END_OF_TEXT = "<|endoftext|>"
SHAPE: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def byte_tokenizer(bos: bool = False, eos: bool = True, template: str | None = None) -> PreTrainedTokenizerFast:
    """One token a byte (id 1 and up), end of text at 0.

    Args:
        bos: whether end of text is the beginning-of-sequence token.
        eos: whether it is the end-of-sequence token.
        template: what a text becomes by default, `$A` in it; `<B>` and `<E>` are special tokens with ids 257 and 258.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {END_OF_TEXT: 0} | {symbol: index for index, symbol in enumerate(alphabet, start=1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if template is not None:
        tokenizer.add_special_tokens(["<B>", "<E>"])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<B>", 257), ("<E>", 258)]
        )
    special = ({"bos_token": END_OF_TEXT} if bos else {}) | ({"eos_token": END_OF_TEXT} if eos else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **special)


def write_model(folder: Path, kind: str = "qwen2", with_tokenizer: bool = True, **shape: Any) -> Path:
    """Write a random model of type `kind` to `folder` and return it; `shape` overrides `SHAPE`."""
    torch.manual_seed(0)
    sizes = SHAPE | shape
    model = Qwen2ForCausalLM(Qwen2Config(**sizes)) if kind == "qwen2" else LlamaForCausalLM(LlamaConfig(**sizes))
    model.save_pretrained(folder)
    if with_tokenizer:
        byte_tokenizer().save_pretrained(folder)
    return folder
