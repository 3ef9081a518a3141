"""The model-level instrument: window losses and divergences of every strategy, on held-out windows.

Windows do not overlap, and each is scored alone: the convention of llm-awq's WikiText-2 perplexity, which is
exp of the mean window loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from awq_core.kept_blocks import KeptBlocks, NothingKept
from awq_core.moments import MeasurementError
from awq_core.strategies import Strategy, applied

LOGIT_ELEMENTS = 32_000_000
"""Logits made at once: a large vocabulary is scored a few tokens at a time."""

ROW_ELEMENTS = 1_000_000
"""Of those, what is turned into probabilities and compared at once on a CPU: as much as its caches hold. With 152k
tokens in the vocabulary this takes a third of the time of going over all logits for every operation."""

BATCH_TOKENS = 4096

REFERENCE_BYTES = 2**30
"""Full precision's log-probabilities are kept for all strategies where they fit into this; else they are made anew for
every few strategies, whose hidden states wait in as much room."""

FEW_STRATEGIES = 8
"""So many at most: they are lost together where a run is stopped, and more would spare little."""


def measure_losses(
    model: Any,
    strategies: list[Strategy],
    heldout: np.ndarray,
    attributes: dict[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
    kept: KeptBlocks | None = None,
) -> xr.Dataset:
    """Dataset `losses` (`docs/datasets.md`).

    Args:
        model: the full-precision model; it is the same afterwards.
        strategies: full precision first.
        heldout: token ids `[windows, length]`.
        attributes: plain values to keep with the dataset, each as JSON.
        progress: called with `(strategies done, strategies)`.
        kept: where each strategy's scores are kept, by its index: a run that is stopped goes on with the next.

    Raises:
        MeasurementError: if a loss is NaN or infinite.
    """
    if strategies[0].method != "full":
        raise ValueError("the first strategy must be full precision: the others are compared with it")
    scores = score_windows(model, strategies, heldout, progress, kept)
    return losses_dataset(
        strategies,
        np.stack([score.loss for score in scores]),
        np.stack([score.divergence for score in scores]),
        attributes,
    )


def losses_dataset(
    strategies: list[Strategy], loss: np.ndarray, divergence: np.ndarray, attributes: dict[str, Any]
) -> xr.Dataset:
    """Dataset `losses` from scores `[strategies, windows]`, nats per token."""
    return xr.Dataset(
        {"window_loss": (("strategy", "window"), loss), "window_kl": (("strategy", "window"), divergence)},
        {
            "strategy": [s.name for s in strategies],
            "strategy_method": ("strategy", [s.method for s in strategies]),
            "strategy_bits": ("strategy", [s.bits for s in strategies]),
            "strategy_deploys": ("strategy", [int(s.deploys) for s in strategies]),
            "strategy_needs": ("strategy", [s.needs for s in strategies]),
        },
        {name: json.dumps(values) for name, values in attributes.items()},
    )


@dataclass(frozen=True)
class Scores:
    """One strategy on some windows.

    Attributes:
        loss: `[windows]`, mean next-token loss, nats per token.
        divergence: `[windows]`, mean KL(full precision || strategy), nats per token.
    """

    loss: np.ndarray
    divergence: np.ndarray


def score_windows(
    model: Any,
    strategies: list[Strategy],
    heldout: np.ndarray,
    progress: Callable[[int, int], None] = lambda done, total: None,
    kept: KeptBlocks | None = None,
) -> list[Scores]:
    """Every strategy's scores; arguments as in `measure_losses`, except that full precision need not be among them.

    Raises:
        MeasurementError: if a loss is NaN or infinite.
    """
    kept = kept or NothingKept()
    found: dict[int, Scores] = {}
    for index in range(len(strategies)):
        if (arrays := kept.read(index)) is not None:
            found[index] = Scores(arrays["loss"], arrays["divergence"])
    progress(len(found), len(strategies))
    missing = [index for index in range(len(strategies)) if index not in found]
    if missing:
        ids = torch.as_tensor(heldout, device=model.get_input_embeddings().weight.device)  # (windows, T)
        reference = _Reference(model, _final_hidden(model, ids))
        for start in range(0, len(missing), reference.strategies):
            group = missing[start : start + reference.strategies]
            for index, score in zip(group, _score(model, ids, [strategies[i] for i in group], reference), strict=True):
                if not (np.isfinite(score.loss).all() and np.isfinite(score.divergence).all()):
                    raise MeasurementError(f"strategy {strategies[index].name}: a window's loss is NaN or infinite")
                kept.write(index, {"loss": score.loss, "divergence": score.divergence})
                found[index] = score
                progress(len(found), len(strategies))
    return [found[index] for index in range(len(strategies))]


class _Reference:
    """What full precision predicts, to be compared with every strategy.

    Args:
        model: whose head is applied.
        hidden: `(windows, T, width)`, what reaches the head in full precision.
    """

    def __init__(self, model: Any, hidden: Tensor) -> None:
        self._model = model
        self.hidden = hidden
        tokens = hidden.shape[0] * hidden.shape[1]
        # Four bytes: logits are at least float32, and a float64 model is a test's.
        self._kept: dict[tuple[int, int], Tensor] | None = (
            {} if tokens * _vocabulary(model) * 4 <= REFERENCE_BYTES else None
        )

    @property
    def strategies(self) -> int:
        """How many strategies to score against it at once: one where it is kept anyway."""
        if self._kept is not None:
            return 1
        return max(1, min(FEW_STRATEGIES, REFERENCE_BYTES // (self.hidden.numel() * self.hidden.element_size())))

    def log_probabilities(self, window: int, part: slice) -> Tensor:
        """Of the next token, `(t, vocabulary)`, at some places of one window."""
        key = (window, part.start)
        if self._kept is not None and key in self._kept:
            return self._kept[key]
        found = log_probabilities(self._model, self.hidden[window, part])
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


def _score(model: Any, ids: Tensor, strategies: list[Strategy], reference: _Reference) -> Iterator[Scores]:
    """Scores of a few strategies on all windows."""
    hidden = []
    for strategy in strategies:
        if strategy.method == "full":
            hidden.append(reference.hidden)
            continue
        with applied(model, strategy.parameters()):
            hidden.append(_final_hidden(model, ids))
    totals = torch.zeros(2, len(strategies), len(ids), dtype=torch.float64)
    targets = ids[:, 1:]
    most = max(1, LOGIT_ELEMENTS // _vocabulary(model))
    per_chunk = -(-targets.shape[1] // -(-targets.shape[1] // most))  # chunks of one size, or nearly
    for window in range(len(ids)):
        for start in range(0, targets.shape[1], per_chunk):
            part = slice(start, min(start + per_chunk, targets.shape[1]))
            log_full = reference.log_probabilities(window, part)  # (t, V)
            for index, states in enumerate(hidden):
                with torch.no_grad():
                    logits = logits_of(model, states[window, part])  # (t, V)
                loss, divergence = _compare(logits, log_full, targets[window, part].to(logits.device))
                totals[0, index, window] += loss.cpu()
                totals[1, index, window] += divergence.cpu()
    for loss, divergence in zip(*(totals / targets.shape[1]).numpy(), strict=True):
        yield Scores(loss, divergence)


def _compare(logits: Tensor, log_full: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss and summed KL(full || strategy) of some tokens, float64 each.

    Args:
        logits: `(t, V)`, the strategy's.
        log_full: `(t, V)`, full precision's log-probabilities.
        targets: `(t,)`, the tokens that come next.
    """
    # A GPU has no such caches, and every slice would cost it launches.
    rows = len(logits) if logits.is_cuda else max(1, ROW_ELEMENTS // logits.shape[1])
    loss, divergence = (torch.zeros((), dtype=torch.float64, device=logits.device) for _ in range(2))
    for start in range(0, len(logits), rows):
        part = slice(start, start + rows)
        log_p = torch.log_softmax(logits[part], dim=-1)
        full = log_full[part]
        loss -= log_p.gather(1, targets[part, None]).sum(dtype=torch.float64)
        # Not from the sums of p log p and p log q: they are a thousand times as large as their difference.
        divergence += (full.exp() * (full - log_p)).sum(dtype=torch.float64)
    return loss, divergence


def _vocabulary(model: Any) -> int:
    return len(model.get_output_embeddings().weight)
