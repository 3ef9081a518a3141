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

REFERENCE_BYTES = 2**30
"""Full precision's log-probabilities are kept for all strategies where they fit into this; else made anew for each."""


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
    losses, divergences = [], []
    reference: _Reference | None = None
    for index, strategy in enumerate(strategies):
        with applied(model, strategy.parameters()):
            hidden = _final_hidden(model, ids)
        reference = reference or _Reference(model, hidden)
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


class _Reference:
    """What full precision predicts, to be compared with every strategy.

    Args:
        model: whose head is applied.
        hidden: `(windows, T, width)`, what reaches the head in full precision.
    """

    def __init__(self, model: Any, hidden: Tensor) -> None:
        self._model = model
        self._hidden = hidden
        tokens = hidden.shape[0] * hidden.shape[1]
        # Four bytes: logits are at least float32, and a float64 model is a test's.
        self._kept: dict[tuple[int, int], Tensor] | None = (
            {} if tokens * _vocabulary(model) * 4 <= REFERENCE_BYTES else None
        )

    def log_probabilities(self, window: int, part: slice) -> Tensor:
        """Of the next token, `(t, vocabulary)`, at some places of one window."""
        key = (window, part.start)
        if self._kept is not None and key in self._kept:
            return self._kept[key]
        found = log_probabilities(self._model, self._hidden[window, part])
        if self._kept is not None:
            self._kept[key] = found
        return found


def _final_hidden(model: Any, ids: Tensor) -> Tensor:
    """What reaches the language-model head, `(windows, T, width)`."""
    kept = []
    with torch.no_grad():
        for batch in ids.split(max(1, BATCH_TOKENS // ids.shape[1])):
            kept.append(model.base_model(input_ids=batch, use_cache=False).last_hidden_state)
    return torch.cat(kept)


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


def log_probabilities(model: Any, hidden: Tensor) -> Tensor:
    """Of the next token, `(..., vocabulary)`, from what reaches the head, `(..., width)`."""
    with torch.no_grad():
        return torch.log_softmax(logits_of(model, hidden), dim=-1)


def _score(model: Any, ids: Tensor, hidden: Tensor, reference: _Reference) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss and mean KL(full || strategy) of every window, `[windows]` each, nats per token."""
    losses, divergences = [], []
    per_chunk = max(1, LOGIT_ELEMENTS // _vocabulary(model))
    for window, states in enumerate(hidden):
        targets = ids[window, 1:]
        loss, divergence = (torch.zeros((), dtype=torch.float64, device=ids.device) for _ in range(2))
        for start in range(0, len(targets), per_chunk):
            part = slice(start, min(start + per_chunk, len(targets)))
            log_p = log_probabilities(model, states[part])  # (t, V)
            log_full = reference.log_probabilities(window, part)
            # Under `--device auto` the head may lie on another device than the embedding.
            loss += -log_p.gather(1, targets[part, None].to(log_p.device)).sum(dtype=torch.float64).to(loss.device)
            divergence += (log_full.exp() * (log_full - log_p)).sum(dtype=torch.float64).to(divergence.device)
        losses.append(float(loss) / len(targets))
        divergences.append(float(divergence) / len(targets))
    return np.array(losses), np.array(divergences)


def _vocabulary(model: Any) -> int:
    return len(model.get_output_embeddings().weight)
