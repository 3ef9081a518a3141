"""Table of architectures: each row says where an architecture's linears are and where scales fold.

To add an architecture, add a row to `ARCHITECTURES`. Linear families are named by role, so that claims read the same
for all architectures: the linears called fc1, c_fc or dense_h_to_4h all belong to the family `up`.
"""

from __future__ import annotations

from dataclasses import replace

from awq_core.architectures.description import Architecture, Fold, Site

LLAMA_SITES = (
    Site(
        "attention_in",
        "attention_in",
        (("q", "self_attn.q_proj"), ("k", "self_attn.k_proj"), ("v", "self_attn.v_proj")),
    ),
    Site("attention_out", "attention_out", (("o", "self_attn.o_proj"),)),
    Site("mlp_in", "mlp_in", (("gate", "mlp.gate_proj"), ("up", "mlp.up_proj"))),
    Site("mlp_out", "mlp_out", (("down", "mlp.down_proj"),)),
)

LLAMA_FOLDS = (
    Fold(("attention_in",), "input_layernorm", "norm", "self_attn"),
    Fold(("attention_out",), "self_attn.v_proj", "linear", "self_attn.o_proj"),
    Fold(("mlp_in",), "post_attention_layernorm", "norm", "mlp"),
    Fold(("mlp_out",), "mlp.up_proj", "linear", "mlp.down_proj"),
)


def _gemma_folds(mlp_norm: str) -> tuple[Fold, ...]:
    """Llama's folds, with norms that multiply by 1 + weight and the given norm before the MLP."""
    attention_in, attention_out, mlp_in, mlp_out = LLAMA_FOLDS
    return (
        replace(attention_in, kind="norm-plus-one"),
        attention_out,
        replace(mlp_in, kind="norm-plus-one", previous=mlp_norm),
        mlp_out,
    )


_MIXTURE_SITES = (
    *LLAMA_SITES[:2],
    Site(
        "mlp_in.{expert}",
        "mlp_in",
        (("gate", "mlp.experts.{expert}.gate_proj"), ("up", "mlp.experts.{expert}.up_proj")),
    ),
    Site("mlp_out.{expert}", "mlp_out", (("down", "mlp.experts.{expert}.down_proj"),)),
)

_MIXTURE_IN = Fold(("mlp_in.{expert}",), "post_attention_layernorm", "norm", "mlp", further=("mlp.gate",))
_MIXTURE_OUT = Fold(("mlp_out.{expert}",), "mlp.experts.{expert}.up_proj", "linear", "mlp.experts.{expert}.down_proj")

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(("llama", "mistral", "qwen2", "qwen3"), "model.layers", LLAMA_SITES, LLAMA_FOLDS),
    Architecture(("gemma",), "model.layers", LLAMA_SITES, _gemma_folds("post_attention_layernorm")),
    Architecture(
        ("gemma2",),
        "model.layers",
        LLAMA_SITES,
        _gemma_folds("pre_feedforward_layernorm"),
        attention="eager",  # sdpa cannot cap the attention scores
    ),
    Architecture(("gemma3_text",), "model.layers", LLAMA_SITES, _gemma_folds("pre_feedforward_layernorm")),
    Architecture(
        ("phi",),  # Phi-1, Phi-1.5, Phi-2: attention and MLP run in parallel and read the same norm
        "model.layers",
        (
            LLAMA_SITES[0],
            Site("attention_out", "attention_out", (("o", "self_attn.dense"),)),
            Site("mlp_in", "mlp_in", (("up", "mlp.fc1"),)),
            Site("mlp_out", "mlp_out", (("down", "mlp.fc2"),)),
        ),
        (
            Fold(("attention_in", "mlp_in"), "input_layernorm", "norm", inspected=""),
            Fold(("attention_out",), "self_attn.v_proj", "linear", "self_attn.dense"),
        ),
    ),
    Architecture(
        ("phi3",),
        "model.layers",
        (
            Site("attention_in", "attention_in", (("qkv", "self_attn.qkv_proj"),)),
            LLAMA_SITES[1],
            Site("mlp_in", "mlp_in", (("gate_up", "mlp.gate_up_proj"),)),
            LLAMA_SITES[3],
        ),
        (
            LLAMA_FOLDS[0],
            Fold(("attention_out",), "self_attn.qkv_proj", "linear", "self_attn.o_proj", rows="last"),
            LLAMA_FOLDS[2],
            Fold(("mlp_out",), "mlp.gate_up_proj", "linear", "mlp.down_proj", rows="last"),
        ),
    ),
    Architecture(
        ("gpt_neox",),  # Pythia
        "gpt_neox.layers",
        (
            Site("attention_in", "attention_in", (("qkv", "attention.query_key_value"),)),
            Site("attention_out", "attention_out", (("o", "attention.dense"),)),
            Site("mlp_in", "mlp_in", (("up", "mlp.dense_h_to_4h"),)),
            Site("mlp_out", "mlp_out", (("down", "mlp.dense_4h_to_h"),)),
        ),
        (
            Fold(("attention_in",), "input_layernorm", "norm", "attention.query_key_value"),
            Fold(("attention_out",), "attention.query_key_value", "linear", "attention.dense", rows="last-of-head"),
            Fold(("mlp_in",), "post_attention_layernorm", "norm", "mlp.dense_h_to_4h"),
        ),
    ),
    Architecture(
        ("opt",),
        "model.decoder.layers",
        (
            LLAMA_SITES[0],
            Site("attention_out", "attention_out", (("o", "self_attn.out_proj"),)),
            Site("mlp_in", "mlp_in", (("up", "fc1"),)),
            Site("mlp_out", "mlp_out", (("down", "fc2"),)),
        ),
        (
            # OPT-350m normalises after adding the residual, so there the norm also feeds the residual stream.
            Fold(
                ("attention_in",),
                "self_attn_layer_norm",
                "norm",
                "self_attn",
                requires=(("do_layer_norm_before", (True,)),),
            ),
            Fold(("attention_out",), "self_attn.v_proj", "linear", "self_attn.out_proj"),
            Fold(("mlp_in",), "final_layer_norm", "norm", "fc1", requires=(("do_layer_norm_before", (True,)),)),
            # The scale passes through the activation because relu(x / s) = relu(x) / s for s > 0.
            Fold(("mlp_out",), "fc1", "linear", "fc2", requires=(("activation_function", ("relu",)),)),
        ),
    ),
    Architecture(
        ("gpt2",),
        "transformer.h",
        (
            Site("attention_in", "attention_in", (("qkv", "attn.c_attn"),)),
            Site("attention_out", "attention_out", (("o", "attn.c_proj"),)),
            Site("mlp_in", "mlp_in", (("up", "mlp.c_fc"),)),
            Site("mlp_out", "mlp_out", (("down", "mlp.c_proj"),)),
        ),
        (
            Fold(("attention_in",), "ln_1", "norm", "attn"),
            Fold(("attention_out",), "attn.c_attn", "linear", "attn.c_proj", rows="last"),
            Fold(("mlp_in",), "ln_2", "norm", "mlp.c_fc"),
        ),
        requires=(("add_cross_attention", (False,)),),
    ),
    Architecture(
        ("mixtral",),
        "model.layers",
        _MIXTURE_SITES,
        (*LLAMA_FOLDS[:2], _MIXTURE_IN, _MIXTURE_OUT),
        experts="num_local_experts",
    ),
    Architecture(
        ("qwen2_moe",),
        "model.layers",
        (
            *_MIXTURE_SITES,
            Site(
                "mlp_in.shared",
                "mlp_in",
                (("gate", "mlp.shared_expert.gate_proj"), ("up", "mlp.shared_expert.up_proj")),
            ),
            Site("mlp_out.shared", "mlp_out", (("down", "mlp.shared_expert.down_proj"),)),
        ),
        (
            *LLAMA_FOLDS[:2],
            replace(
                _MIXTURE_IN,
                sites=("mlp_in.{expert}", "mlp_in.shared"),
                further=("mlp.gate", "mlp.shared_expert_gate"),
            ),
            _MIXTURE_OUT,
            Fold(("mlp_out.shared",), "mlp.shared_expert.up_proj", "linear", "mlp.shared_expert.down_proj"),
        ),
        experts="num_experts",
        # A row describes all blocks alike, so models in which some blocks have no experts are refused.
        requires=(("mlp_only_layers", ((), None)), ("decoder_sparse_step", (1,))),
    ),
)
