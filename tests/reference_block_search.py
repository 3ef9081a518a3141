"""The official block-level scale search, written again from its description: slowly, one group and exponent at a time.

Per group of linears that read one input: `s = clamp(x^alpha, 1e-4) / sqrt(max s * min s)` with alpha = 0, 0.05 ...
0.95; the group's weights become `Q(W s) / s`, the inspected module runs on the inputs that it had in the
full-precision model, and the exponent with the least mean squared change of its output wins. The linear itself is
inspected for o and down, and it is replayed like any other module. AutoAWQ's variant ("duo") takes the scales
`clamp(x^alpha / (w^(1 - alpha) + 1e-4), 1e-4)` instead, normalised alike, with `w` the mean over the group's rows of
abs(W) over the quantization group's largest. Nothing of `awq_core` is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.reference_diagnostic import group_size

ALPHAS = [i / 20 for i in range(20)]

GROUPS = [
    ("self_attn", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    ("self_attn.o_proj", ["self_attn.o_proj"]),
    ("mlp", ["mlp.gate_proj", "mlp.up_proj"]),
    ("mlp.down_proj", ["mlp.down_proj"]),
]


def quantized(weight: Tensor, bits: int) -> Tensor:
    """Asymmetric groups along the input, as llm-awq's `pseudo_quantize_tensor`."""
    groups = weight.reshape(-1, group_size(weight.shape[1]))
    largest, smallest = groups.max(dim=1, keepdim=True).values, groups.min(dim=1, keepdim=True).values
    top = 2**bits - 1
    step = (largest - smallest).clamp(min=1e-5) / top
    zero = (-torch.round(smallest / step)).clamp(0, top)
    return ((torch.clamp(torch.round(groups / step) + zero, 0, top) - zero) * step).reshape(weight.shape)


def scales(magnitude: Tensor, weights: list[Tensor], alpha: float, formula: str) -> Tensor:
    """One candidate, `(in,)`."""
    scale = magnitude.pow(alpha)
    if formula == "duo":
        rows = []
        for row in torch.cat(weights).abs():
            groups = row.split(group_size(len(row)))
            rows.append(torch.cat([group / (group.max() + 1e-6) for group in groups]))
        scale = scale / (torch.stack(rows).mean(dim=0).pow(1 - alpha) + 1e-4)
    scale = scale.clamp(min=1e-4)
    return scale / (scale.max() * scale.min()).sqrt()


Candidates = dict[float, tuple[float, Tensor]]
"""Loss and scales of every exponent."""


def search(
    model: Any, ids: Tensor, bits: int, formula: str = "official", grouped: bool = False
) -> dict[tuple[int, str], Candidates]:
    """Loss and scales of every exponent, by block and inspected module.

    Args:
        model: a Llama- or Qwen2-shaped model.
        ids: calibration tokens `[sequences, length]`.
        bits: precision.
        formula: `official` or `duo`.
        grouped: under grouped-query attention, o's scale too, from the mean over query heads that share a value head.
    """
    found = {}
    for index, block in enumerate(model.model.layers):
        attention = block.self_attn
        for inspected, paths in GROUPS:
            linears = [block.get_submodule(path) for path in paths]
            share = None
            if inspected == "self_attn.o_proj" and attention.v_proj.out_features != linears[0].in_features:
                if not grouped:
                    continue  # v cannot absorb o's scales
                share = attention.num_key_value_groups, attention.head_dim
            module = block.get_submodule(inspected)
            found[index, inspected] = search_group(model, module, linears[:1], linears, ids, bits, formula, share)
    return found


def shared_by_heads(magnitude: Tensor, share: tuple[int, int] | None) -> Tensor:
    """Every query head's magnitude becomes the mean over those that read the same value head.

    Args:
        magnitude: `(in,)`.
        share: how many query heads read one value head, and the width of a head; None leaves the magnitude as it is.
    """
    if share is None:
        return magnitude
    heads, width = share
    result = magnitude.clone()
    for start in range(0, len(magnitude), heads * width):
        for place in range(width):
            channels = [start + head * width + place for head in range(heads)]
            result[channels] = magnitude[channels].mean()
    return result


def search_group(
    model: Any,
    inspected: nn.Module,
    readers: list[nn.Module],
    linears: list[Any],
    ids: Tensor,
    bits: int,
    formula: str = "official",
    share: tuple[int, int] | None = None,
) -> Candidates:
    """One group, in a model of any architecture.

    Args:
        model: all of it.
        inspected: the module whose output counts.
        readers: one linear for each input that the scale is made from.
        linears: the group; GPT-2's store their weight transposed.
        ids: calibration tokens `[sequences, length]`.
        bits: precision.
        formula: `official` or `duo`.
        share: see `shared_by_heads`.
    """
    calls: list[tuple[Any, Any, Tensor]] = []
    inputs: list[Tensor] = []
    handles = [
        inspected.register_forward_hook(
            lambda _, args, kwargs, output: calls.append((args, kwargs, _first(output))), with_kwargs=True
        ),
        *(
            reader.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(0, -2)))
            for reader in readers
        ),
    ]
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    magnitude = shared_by_heads(torch.cat(inputs).abs().mean(dim=0), share)
    ((args, kwargs, expected),) = calls
    originals = [module.weight.detach().clone() for module in linears]
    weights = [
        original if isinstance(m, nn.Linear) else original.T for m, original in zip(linears, originals, strict=True)
    ]
    losses = {}
    for alpha in ALPHAS:
        scale = scales(magnitude, weights, alpha, formula)
        with torch.no_grad():
            for module, weight in zip(linears, weights, strict=True):
                rounded = quantized(weight * scale, bits) / scale
                module.weight.copy_(rounded if isinstance(module, nn.Linear) else rounded.T)
            losses[alpha] = float((_first(inspected(*args, **kwargs)) - expected).pow(2).mean()), scale
            for module, original in zip(linears, originals, strict=True):
                module.weight.copy_(original)
    return losses


def best(candidates: Candidates) -> float:
    """The exponent with the least loss; the lowest of a tie."""
    return min(candidates, key=lambda alpha: candidates[alpha][0])


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
