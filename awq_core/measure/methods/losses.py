"""Window losses, and divergences from full precision, computed from the inputs of the language-model head.

Windows do not overlap, and each is scored alone, as in llm-awq's WikiText-2 perplexity, the exponential of the mean
window loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from awq_core.architectures.block_stream import Blocks
from awq_core.quantization.matmul import Products

LOGIT_ELEMENTS = 12_000_000
"""Largest number of logits in memory at once; with a large vocabulary, few tokens are scored at a time."""

ROW_ELEMENTS = 1_000_000
"""Largest number of logits that are compared together on a CPU, so that they stay in its caches. With a vocabulary of
152k this takes a third of the time of passing over all logits for each operation."""


@dataclass(frozen=True)
class Scores:
    """Scores of one strategy on some windows.

    Attributes:
        loss: `[windows]`, mean next-token loss, in nats per token.
        divergence: `[windows]`, mean KL(full precision || strategy), in nats per token.
    """

    loss: np.ndarray
    divergence: np.ndarray

    @classmethod
    def joined(cls, parts: list[Scores]) -> Scores:
        """Join the scores of several sets of windows."""
        return cls(np.concatenate([p.loss for p in parts]), np.concatenate([p.divergence for p in parts]))


def compare(blocks: Blocks, ids: Tensor, full: Tensor, states: list[Tensor], *, bfloat16: bool = False) -> list[Scores]:
    """Compute the scores of every strategy.

    Args:
        blocks: blocks of the model whose head is applied.
        ids: `(windows, T)`, token ids; each token but the first of a window is a target.
        full: `(windows, T, width)`, inputs of the head in full precision.
        states: inputs of the head under each strategy, of the same shape; the object `full` itself for full precision.
        bfloat16: whether to multiply only the states' differences from full precision by the head, in bfloat16 (only
            for a model in single precision).
    """
    model = blocks.model
    weight = model.get_output_embeddings().weight
    bfloat16_weight = weight.to(torch.bfloat16) if bfloat16 and weight.dtype == torch.float32 else None
    targets = ids[:, 1:]
    totals = torch.zeros(2, len(states), len(ids), dtype=torch.float64)
    most = max(1, LOGIT_ELEMENTS // len(weight))
    per_chunk = -(-targets.shape[1] // -(-targets.shape[1] // most))  # chunks of about equal size
    with torch.no_grad(), Products():
        for window in range(len(ids)):
            for start in range(0, targets.shape[1], per_chunk):
                part = slice(start, min(start + per_chunk, targets.shape[1]))
                logits = _uncapped(model, full[window, part])  # (t, V)
                log_full = torch.log_softmax(_capped(model, logits), dim=-1)
                probabilities = log_full.exp()
                aimed = targets[window, part]
                for index, hidden in enumerate(states):
                    if hidden is full:
                        totals[0, index, window] -= log_full.gather(1, aimed[:, None]).sum(dtype=torch.float64).cpu()
                        continue
                    if bfloat16_weight is None:
                        base, change = None, _uncapped(model, hidden[window, part])
                    else:
                        difference = (hidden[window, part] - full[window, part]).to(torch.bfloat16)
                        base, change = logits, functional.linear(difference, bfloat16_weight)
                    found = _compare(model, base, change, log_full, probabilities, aimed)
                    totals[:, index, window] += found.cpu()
    return [Scores(loss, divergence) for loss, divergence in (totals / targets.shape[1]).transpose(0, 1).numpy()]


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """Compute next-token logits `(..., vocabulary)`, in float32 or, for a float64 model, in float64.

    Args:
        model: model whose output head is applied, with the soft cap of logits in its configuration, if any (Gemma 2).
        hidden: `(..., width)`, inputs of the head.
    """
    return _capped(model, _uncapped(model, hidden))


def _uncapped(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.get_output_embeddings()(hidden)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _capped(model: Any, logits: Tensor) -> Tensor:
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _compare(
    model: Any, base: Tensor | None, change: Tensor, log_full: Tensor, probabilities: Tensor, targets: Tensor
) -> Tensor:
    """Compute the summed loss and the summed KL(full || strategy) of some tokens, `(2,)` float64.

    Args:
        model: model, for its soft cap of logits.
        base: `(t, V)`, logits to which `change` is added; None for none.
        change: `(t, V)`, the strategy's logits before the cap, less `base`.
        log_full: `(t, V)`, log-probabilities in full precision.
        probabilities: `(t, V)`, probabilities in full precision.
        targets: `(t,)`, ids of the next tokens.
    """
    # On a GPU slices would only cost kernel launches.
    rows = len(change) if change.is_cuda else max(1, ROW_ELEMENTS // change.shape[1])
    sums = torch.zeros(2, dtype=torch.float64, device=change.device)
    for start in range(0, len(change), rows):
        part = slice(start, start + rows)
        logits = change[part] if base is None else base[part] + change[part]
        log_p = torch.log_softmax(_capped(model, logits), dim=-1)
        sums[0] -= log_p.gather(1, targets[part, None]).sum(dtype=torch.float64)
        # Not from the sums of p log p and p log q, which are a thousand times as large as their difference.
        sums[1] += torch.sub(log_full[part], log_p, out=log_p).mul_(probabilities[part]).sum(dtype=torch.float64)
    return sums
