"""Tiny random models of every architecture in the table, of the real transformers classes, in float64.

Norms, biases and routers are drawn too: a bias that is not divided, or a norm of 1 + weight taken for a plain one,
would not show on the zeros and ones that a fresh model has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.func import functional_call

from awq_core.architectures.model import Architecture, architecture_of, separate_experts

VOCABULARY = 60
WINDOW = 8
"""Width of a sliding window, where there is one: shorter than the tests' sequences."""

_SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}
_MLP = {"intermediate_size": 96}
_GPT2 = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 64}
_SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_QWEN_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 80,
}


@dataclass(frozen=True)
class Case:
    """One shape of one architecture.

    Attributes:
        name: of the test.
        config_class: transformers' configuration class.
        options: what is set in it.
        exact: names of the folds that change nothing in a block (`mlp_in`, `mlp_out` stand for every expert's).
        grouped: whether values are shared between query heads.
    """

    name: str
    config_class: str
    options: dict[str, Any]
    exact: tuple[str, ...] = ("attention_in", "attention_out", "mlp_in", "mlp_out")
    grouped: bool = False

    @property
    def model_type(self) -> str:
        return str(getattr(transformers, self.config_class).model_type)


def _both(name: str, config_class: str, options: dict[str, Any], exact: tuple[str, ...] = Case.exact) -> list[Case]:
    """The shape with one value head for each query head, and with grouped-query attention."""
    options = _SIZES | options
    without_values = tuple(fold for fold in exact if fold != "attention_out")
    return [
        Case(f"{name}-mha", config_class, options | {"num_key_value_heads": 4}, exact),
        Case(f"{name}-gqa", config_class, options | {"num_key_value_heads": 2}, without_values, grouped=True),
    ]


_NO_GELU = ("attention_in", "attention_out", "mlp_in")

CASES: tuple[Case, ...] = (
    *_both("llama", "LlamaConfig", _MLP | {"attention_bias": True, "mlp_bias": True}),
    *_both("mistral", "MistralConfig", _MLP | {"sliding_window": WINDOW}),
    *_both("qwen2", "Qwen2Config", _MLP),
    *_both("qwen3", "Qwen3Config", _MLP | {"head_dim": 24}),
    *_both("gemma", "GemmaConfig", _MLP | {"head_dim": 24}),
    *_both("gemma2", "Gemma2Config", _MLP | _SLIDING | {"head_dim": 24, "final_logit_softcapping": 3.0}),
    *_both("gemma3", "Gemma3TextConfig", _MLP | _SLIDING | {"head_dim": 24}),
    *_both("phi", "PhiConfig", _MLP, ("attention_in", "attention_out")),
    *_both("phi3", "Phi3Config", _MLP | {"pad_token_id": 0}),
    Case("neox-parallel", "GPTNeoXConfig", _SIZES | _MLP, _NO_GELU),
    Case("neox-sequential", "GPTNeoXConfig", _SIZES | _MLP | {"use_parallel_residual": False}, _NO_GELU),
    Case("opt", "OPTConfig", _SIZES | {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    Case("opt-gelu", "OPTConfig", _SIZES | {"ffn_dim": 96, "activation_function": "gelu"}, _NO_GELU),
    Case(
        "opt-350m",
        "OPTConfig",
        _SIZES | {"ffn_dim": 96, "do_layer_norm_before": False, "word_embed_proj_dim": 32},
        ("attention_out", "mlp_out"),
    ),
    Case(
        "opt-no-affine",
        "OPTConfig",
        _SIZES | {"ffn_dim": 96, "layer_norm_elementwise_affine": False},
        ("attention_out", "mlp_out"),
    ),
    Case("gpt2", "GPT2Config", _GPT2, _NO_GELU),
    *_both("mixtral", "MixtralConfig", _MLP | _EXPERTS),
    *_both("qwen2-moe", "Qwen2MoeConfig", _MLP | _QWEN_EXPERTS),
)


every_case = pytest.mark.parametrize("shape", CASES, ids=[shape.name for shape in CASES])


def case(name: str) -> Case:
    """The case called `name`."""
    return next(found for found in CASES if found.name == name)


def tiny(shape: Case, seed: int = 0, separated: bool = True, **options: Any) -> tuple[Any, Architecture]:
    """A random model of a case, in float64 and evaluation mode, and its row of the table."""
    special = {"bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, shape.config_class)(
        **{"vocab_size": VOCABULARY, "max_position_embeddings": 64, **special, **shape.options, **options}
    )
    architecture = architecture_of(config)
    generator = torch.Generator().manual_seed(seed)
    model: Any = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=architecture.attention)
    model = model.double().eval()
    plus_one = shape.model_type.startswith("gemma")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(std=0.3, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator).sub_(1.0 if plus_one else 0.0)
    if separated:
        separate_experts(model)
    return model, architecture


def token_ids(sequences: int = 3, length: int = 24, seed: int = 0) -> Tensor:
    """Random token ids `(sequences, length)`, none of them a special one."""
    return torch.randint(3, VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(seed))


def logits(model: Any, changed: dict[str, Tensor] | None = None, ids: Tensor | None = None) -> Tensor:
    """The model's logits, on other tokens or with some parameters exchanged."""
    with torch.no_grad():
        arguments = {"input_ids": token_ids() if ids is None else ids, "use_cache": False}
        return functional_call(model, changed or {}, (), arguments).logits


def relative_change(changed: Tensor, expected: Tensor) -> float:
    """Largest difference, over the largest expected value."""
    return float((changed - expected).abs().max() / expected.abs().max())
