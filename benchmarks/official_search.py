"""llm-awq's scale search as published, replayed: what the suite's own search is compared with.

For each group of linears that read one input and each alpha = 0, 0.05 ... 0.95: `s = clamp(x^alpha, 1e-4) / sqrt(max s
* min s)` with `x` the mean magnitude of each channel; the group's weights become `Q(W s) / s`; the inspected module
(attention for q, k, v; the MLP for gate and up; the linear itself for o and down) runs on all calibration tokens; the
loss is the mean squared change of its output. Nothing of `awq_core`'s search is used, only its quantizer.

What llm-awq does beside that is left out, in its favour: it copies the block's weights back at every grid point and
runs all tokens at once, where here they run in chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from awq_core.quantizer import deployed_group_size, quantize_groups

ALPHAS = tuple(i / 20 for i in range(20))

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("self_attn", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("self_attn.o_proj", ("self_attn.o_proj",)),
    ("mlp", ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.down_proj", ("mlp.down_proj",)),
)
"""Inspected module, and the linears that share a scale, of Llama, Mistral, Qwen2 and Qwen3."""

CHUNK_TOKENS = 4096

Choices = dict[str, tuple[float, Tensor]]
"""By inspected module, the exponent and the scales `(width,)` of a block's groups."""


@dataclass
class RecordedBlock:
    """What reaches a block and the modules in it on the calibration tokens, in full precision.

    Attributes:
        block: the block itself.
        arguments: what it is called with beside hidden states, the same for every chunk.
        hidden: its inputs, chunk by chunk.
        outputs: its outputs.
        calls: by inspected module, its calls and what they gave.
        magnitudes: by inspected module, the mean over tokens of abs(x) at its group's input, `(width,)`.
    """

    block: nn.Module
    arguments: dict[str, Any]
    hidden: list[Tensor]
    outputs: list[Tensor] = field(default_factory=list)
    calls: dict[str, list[tuple[tuple[Any, ...], dict[str, Any], Tensor]]] = field(default_factory=dict)
    magnitudes: dict[str, Tensor] = field(default_factory=dict)

    def record(self) -> None:
        """One pass over the block; keeps the inputs and outputs of every inspected module."""
        totals: dict[str, Tensor] = {}
        handles = []
        for path, linears in applicable_groups(self.block):
            self.calls[path] = []
            handles.append(
                self.block.get_submodule(path).register_forward_hook(
                    lambda _, args, kwargs, output, path=path: self.calls[path].append((args, kwargs, _first(output))),
                    with_kwargs=True,
                )
            )
            handles.append(
                self.block.get_submodule(linears[0]).register_forward_pre_hook(
                    lambda _, args, path=path: totals.update(
                        {path: totals.get(path, 0) + args[0].flatten(0, -2).abs().sum(dim=0, dtype=torch.float64)}
                    )
                )
            )
        try:
            with torch.no_grad():
                self.outputs = [_first(self.block(hidden, **self.arguments)) for hidden in self.hidden]
        finally:
            for handle in handles:
                handle.remove()
        tokens = sum(hidden.shape[0] * hidden.shape[1] for hidden in self.hidden)
        self.magnitudes = {path: total / tokens for path, total in totals.items()}


def recorded_blocks(model: Any, ids: np.ndarray) -> Iterator[RecordedBlock]:
    """Every block with its inputs, in order; each is to be recorded before the next is asked for.

    Args:
        model: of a type that `GROUPS` describes, in evaluation mode.
        ids: calibration tokens `[sequences, length]`.
    """
    device = model.get_input_embeddings().weight.device
    chunks = torch.as_tensor(ids, device=device).split(max(1, CHUNK_TOKENS // ids.shape[1]))
    arguments: dict[str, Any] = {}
    handle = model.model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: arguments.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        model.model(input_ids=chunks[0][:1], use_cache=False)
        handle.remove()
        hidden = [model.get_input_embeddings()(chunk) for chunk in chunks]
    for block in model.model.layers:
        recorded = RecordedBlock(block, arguments, hidden)
        yield recorded
        hidden = recorded.outputs


def search(recorded: RecordedBlock, bits: int) -> Choices:
    """The official search of one recorded block."""
    found: Choices = {}
    for path, linears in applicable_groups(recorded.block):
        inspected = recorded.block.get_submodule(path)
        modules: list[Any] = [recorded.block.get_submodule(name) for name in linears]
        least = float("inf")
        for alpha in ALPHAS:
            scales = official_scales(recorded.magnitudes[path].to(modules[0].weight), alpha)
            with exchanged(modules, [rounded(module.weight.detach(), scales, bits) for module in modules]):
                loss = _loss(inspected, recorded.calls[path])
            if loss < least:
                least, found[path] = loss, (alpha, scales)
    return found


def block_error(recorded: RecordedBlock, choices: Choices, bits: int) -> float:
    """Squared relative change of a block's output with all its linears rounded, those of groups under their scales."""
    paths = [path for _, linears in GROUPS for path in linears]
    scales = {path: choices[name][1] for name, linears in GROUPS if name in choices for path in linears}
    modules: list[Any] = [recorded.block.get_submodule(path) for path in paths]
    weights = []
    for path, module in zip(paths, modules, strict=True):
        weight = module.weight.detach()
        weights.append(rounded(weight, scales.get(path, torch.ones_like(weight[0])).to(weight), bits))
    changed, power = 0.0, 0.0
    with exchanged(modules, weights), torch.no_grad():
        for hidden, output in zip(recorded.hidden, recorded.outputs, strict=True):
            other = _first(recorded.block(hidden, **recorded.arguments))
            changed += float((other - output).square().sum(dtype=torch.float64))
            power += float(output.square().sum(dtype=torch.float64))
    return changed / power


def applicable_groups(block: nn.Module) -> list[tuple[str, tuple[str, ...]]]:
    """Groups whose scale folds: o's only where v makes as many channels (no grouped queries)."""
    value: Any = block.get_submodule("self_attn.v_proj")
    output: Any = block.get_submodule("self_attn.o_proj")
    return [group for group in GROUPS if group[0] != "self_attn.o_proj" or value.out_features == output.in_features]


def official_scales(magnitude: Tensor, alpha: float) -> Tensor:
    """`clamp(x^alpha, 1e-4)`, divided by `sqrt(max * min)`, `(width,)`."""
    scales = magnitude.pow(alpha).clamp(min=1e-4)
    return scales / (scales.max() * scales.min()).sqrt()


def rounded(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    """`Q(W s) / s`, `(out, in)`."""
    return quantize_groups(weight * scales, bits, deployed_group_size(weight.shape[1])).dequantize() / scales


@contextmanager
def exchanged(modules: list[Any], weights: list[Tensor]) -> Iterator[None]:
    """Linears with other weights for a while."""
    originals = [module.weight.data for module in modules]
    try:
        for module, weight in zip(modules, weights, strict=True):
            module.weight.data = weight
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.weight.data = original


def _loss(inspected: nn.Module, calls: list[tuple[tuple[Any, ...], dict[str, Any], Tensor]]) -> float:
    summed, count = 0.0, 0
    for args, kwargs, expected in calls:
        with torch.no_grad():
            output = _first(inspected(*args, **kwargs))
        summed += float((output - expected).float().square().sum(dtype=torch.float64))
        count += expected.numel()
    return summed / count


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
