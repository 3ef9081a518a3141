"""Replay of llm-awq's published scale search, with which the suite's own search is compared.

For each group of linears that read one input and each alpha = 0, 0.05 ... 0.95: `s = clamp(x^alpha, 1e-4) / sqrt(max s
* min s)` with `x` the mean magnitude of each channel; the group's weights become `Q(W s) / s`; the inspected module
(attention for q, k, v; the MLP for gate and up; the linear itself for o and down) runs on all calibration tokens; the
loss is the mean squared change of its output. All is computed in single precision or better, and independently of
`awq_core`'s search; only its quantizer is used.

llm-awq also copies the block's weights back at every grid point and runs all tokens at once. The replay omits the
copies and runs tokens in chunks, in favour of llm-awq.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from awq_core.quantization.quantizers import deployed_group_size, quantize_groups

ALPHAS = tuple(i / 20 for i in range(20))

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("self_attn", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("self_attn.o_proj", ("self_attn.o_proj",)),
    ("mlp", ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.down_proj", ("mlp.down_proj",)),
)
"""Inspected module and linears that share a scale, for each group of Llama, Mistral, Qwen2 and Qwen3."""

CHUNK_TOKENS = 4096
"""Tokens per forward pass."""

Call = tuple[tuple[Any, ...], dict[str, Any], Tensor]
"""Positional arguments, keyword arguments and output of a module's call."""


@dataclass(frozen=True)
class RecordedBlock:
    """Calls of the inspected modules of a block on the calibration tokens, in full precision.

    Attributes:
        block: the block, in single precision or better.
        calls: calls by path of the inspected module.
        magnitudes: mean over tokens of abs(x) at the group's input, `(width,)`, by path of the inspected module.
    """

    block: nn.Module
    calls: dict[str, list[Call]]
    magnitudes: dict[str, Tensor]


@dataclass(frozen=True)
class Searched:
    """Result of a search for one group at one precision.

    Attributes:
        losses: loss of each of `ALPHAS` on all tokens.
        alpha: exponent with the least loss.
        scales: scales of this exponent, `(width,)`.
    """

    losses: tuple[float, ...]
    alpha: float
    scales: Tensor


class Replay:
    """Pass of the calibration tokens through the blocks, which are recorded in order.

    Args:
        model: model of a type that `GROUPS` describes, in evaluation mode; its blocks need not be in memory.
        ids: calibration token ids `[sequences, length]`.
    """

    def __init__(self, model: Any, ids: np.ndarray) -> None:
        embeddings = model.get_input_embeddings()
        chunks = torch.as_tensor(ids, device=embeddings.weight.device).split(max(1, CHUNK_TOKENS // ids.shape[1]))
        self._arguments: dict[str, Any] = {}
        handle = model.model.layers[0].register_forward_pre_hook(self._stop, with_kwargs=True)
        with torch.no_grad():
            with suppress(_Reached):
                model.model(input_ids=chunks[0][:1], use_cache=False)
            handle.remove()
            self._hidden = [_raised(embeddings(chunk)) for chunk in chunks]

    def _stop(self, _: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        self._arguments = {name: _raised(value) for name, value in kwargs.items() if name != "hidden_states"}
        raise _Reached

    def record(self, block: nn.Module) -> RecordedBlock:
        """Run the next block, and record the inputs and outputs of each inspected module."""
        if next(block.parameters()).dtype in (torch.bfloat16, torch.float16):
            block = deepcopy(block).float()
        calls: dict[str, list[Call]] = {}
        totals: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for path, linears in applicable_groups(block):
                calls[path], totals[path] = [], torch.tensor(0.0)
                handle = block.get_submodule(path).register_forward_hook(
                    lambda _, args, kwargs, output, path=path: calls[path].append((args, kwargs, _first(output))),
                    with_kwargs=True,
                )
                stack.callback(handle.remove)
                handle = block.get_submodule(linears[0]).register_forward_pre_hook(
                    lambda _, args, path=path: totals.update(
                        {path: totals[path] + args[0].flatten(0, -2).abs().sum(dim=0, dtype=torch.float64)}
                    )
                )
                stack.callback(handle.remove)
            with torch.no_grad():
                tokens = sum(hidden.shape[0] * hidden.shape[1] for hidden in self._hidden)
                self._hidden = [_first(block(hidden, **self._arguments)) for hidden in self._hidden]
        return RecordedBlock(block, calls, {path: total / tokens for path, total in totals.items()})


def search(recorded: RecordedBlock, bits: int) -> dict[str, Searched]:
    """Run the official search on one recorded block; results by path of the inspected module."""
    found = {}
    for path, linears in applicable_groups(recorded.block):
        inspected = recorded.block.get_submodule(path)
        modules: list[Any] = [recorded.block.get_submodule(name) for name in linears]
        candidates = [official_scales(recorded.magnitudes[path].to(modules[0].weight), alpha) for alpha in ALPHAS]
        losses = []
        for scales in candidates:
            with exchanged(modules, [rounded(module.weight.detach(), scales, bits) for module in modules]):
                losses.append(_loss(inspected, recorded.calls[path]))
        least = min(range(len(ALPHAS)), key=losses.__getitem__)
        found[path] = Searched(tuple(losses), ALPHAS[least], candidates[least])
    return found


def applicable_groups(block: nn.Module) -> list[tuple[str, tuple[str, ...]]]:
    """List the groups whose scale folds: o only if v has as many outputs as o has inputs (no grouped queries)."""
    value: Any = block.get_submodule("self_attn.v_proj")
    output: Any = block.get_submodule("self_attn.o_proj")
    return [group for group in GROUPS if group[0] != "self_attn.o_proj" or value.out_features == output.in_features]


def official_scales(magnitude: Tensor, alpha: float) -> Tensor:
    """Compute llm-awq's scales `clamp(x^alpha, 1e-4)`, divided by `sqrt(max * min)`, `(width,)`."""
    scales = magnitude.pow(alpha).clamp(min=1e-4)
    return scales / (scales.max() * scales.min()).sqrt()


def rounded(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Compute the effective quantized weights `Q(W s) / s`, `(out, in)`."""
    return quantize_groups(weight * scales, bits, deployed_group_size(weight.shape[1])).dequantize() / scales


@contextmanager
def exchanged(modules: list[Any], weights: list[Tensor]) -> Iterator[None]:
    """Exchange the weights of linears inside the context."""
    originals = [module.weight.data for module in modules]
    try:
        for module, weight in zip(modules, weights, strict=True):
            module.weight.data = weight
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.weight.data = original


def _loss(inspected: nn.Module, calls: list[Call]) -> float:
    summed, count = 0.0, 0
    for args, kwargs, expected in calls:
        with torch.no_grad():
            output = _first(inspected(*args, **kwargs))
        summed += float((output - expected).float().square().sum(dtype=torch.float64))
        count += expected.numel()
    return summed / count


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _raised(value: Any) -> Any:
    """Convert half-precision tensors to single precision, also inside tuples."""
    if isinstance(value, tuple):
        return tuple(map(_raised, value))
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


class _Reached(Exception):  # noqa: N818 -- a signal, not an error
    """Signal that stops the model's forward pass once the first block's arguments are known."""
