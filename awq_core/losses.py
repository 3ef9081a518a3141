"""The model-level instrument: window losses and divergences of every strategy, on held-out windows.

Windows do not overlap, and each is scored alone: the convention of llm-awq's WikiText-2 perplexity, which is
exp of the mean window loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from awq_core.moments import MeasurementError
from awq_core.strategies import Strategy, applied

LOGIT_ELEMENTS = 64_000_000
"""Logits made at once: a large vocabulary is scored a few tokens at a time."""

BATCH_TOKENS = 4096


def measure_losses(
    model: Any,
    strategies: list[Strategy],
    heldout: np.ndarray,
    attributes: dict[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> xr.Dataset:
    """Dataset `losses` (`docs/datasets.md`).

    Args:
        model: the full-precision model; it is the same afterwards.
        strategies: full precision first.
        heldout: token ids `[windows, length]`.
        attributes: plain values to keep with the dataset, each as JSON.
        progress: called with `(strategies done, strategies)`.

    Raises:
        MeasurementError: if a loss is NaN or infinite.
    """
    if strategies[0].method != "full":
        raise ValueError("the first strategy must be full precision: the others are compared with it")
    ids = torch.as_tensor(heldout, device=model.get_input_embeddings().weight.device)  # (windows, T)
    reference: list[Tensor] = []
    losses, divergences = [], []
    for index, strategy in enumerate(strategies):
        with applied(model, strategy.parameters()):
            hidden = _final_hidden(model, ids)
        if not reference:
            reference = hidden
        loss, divergence = _score(model, ids, hidden, reference)
        if not (np.isfinite(loss).all() and np.isfinite(divergence).all()):
            raise MeasurementError(f"strategy {strategy.name}: a window's loss is NaN or infinite")
        losses.append(loss)
        divergences.append(divergence)
        progress(index + 1, len(strategies))
    return xr.Dataset(
        {
            "window_loss": (("strategy", "window"), np.stack(losses)),
            "window_kl": (("strategy", "window"), np.stack(divergences)),
        },
        {
            "strategy": [s.name for s in strategies],
            "strategy_method": ("strategy", [s.method for s in strategies]),
            "strategy_bits": ("strategy", [s.bits for s in strategies]),
            "strategy_deploys": ("strategy", [int(s.deploys) for s in strategies]),
            "strategy_needs": ("strategy", [s.needs for s in strategies]),
        },
        {name: json.dumps(values) for name, values in attributes.items()},
    )


def _final_hidden(model: Any, ids: Tensor) -> list[Tensor]:
    """What reaches the language-model head, `(batch, T, width)` for each batch of windows."""
    kept = []
    with torch.no_grad():
        for batch in ids.split(max(1, BATCH_TOKENS // ids.shape[1])):
            kept.append(model.base_model(input_ids=batch, use_cache=False).last_hidden_state)
    return kept


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """Next-token logits `(..., vocabulary)` in float32, or float64 in a float64 model.

    Args:
        model: its output head is applied, and the soft cap on logits that its configuration may ask for (Gemma 2).
        hidden: `(..., width)`, what reaches the head.
    """
    logits = model.get_output_embeddings()(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _score(model: Any, ids: Tensor, hidden: list[Tensor], reference: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss and mean KL(full || strategy) of every window, `[windows]` each, nats per token."""
    vocabulary = len(model.get_output_embeddings().weight)
    window = 0
    losses, divergences = [], []
    per_chunk = max(1, LOGIT_ELEMENTS // vocabulary)
    for states, full_states in zip(hidden, reference, strict=True):
        for row, full_row in zip(states, full_states, strict=True):
            targets = ids[window, 1:]
            loss, divergence = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
            for start in range(0, len(targets), per_chunk):
                part = slice(start, min(start + per_chunk, len(targets)))
                with torch.no_grad():
                    log_p = torch.log_softmax(logits_of(model, row[part]), dim=-1)  # (t, V)
                    log_full = torch.log_softmax(logits_of(model, full_row[part]), dim=-1)
                loss += -log_p.gather(1, targets[part, None]).sum(dtype=torch.float64).cpu()
                divergence += (log_full.exp() * (log_full - log_p)).sum(dtype=torch.float64).cpu()
            losses.append(float(loss) / len(targets))
            divergences.append(float(divergence) / len(targets))
            window += 1
    return np.array(losses), np.array(divergences)
