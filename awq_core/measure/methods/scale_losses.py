"""Losses of scales on samples of the calibration tokens, for the search of one group.

Only differences from full precision are multiplied (`trials.py`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from awq_core.architectures.block_stream import BATCH_TOKENS
from awq_core.architectures.model import Architecture, Fold, weight_of
from awq_core.measure.methods.alpha_race import Losses, Sample
from awq_core.measure.methods.attention_trials import AttentionAtPositions, WholeSequences
from awq_core.measure.methods.block_inputs import BlockInputs, Call
from awq_core.measure.methods.trials import Changes, Trial, low_precision, mean_square
from awq_core.quantization.quantizers import AsymmetricGroups, rounding_differences

PROBED_SEQUENCES, PROBE_STRIDE = 2, 7
"""Sequences, and the distance of positions in them, at which attention at some positions is held against the whole."""


class RoundingChanges:
    """Differences `E = Q(W s) / s - W` of a group's linears, computed on demand.

    Args:
        linears: linears of the group.
        families: families of the linears.
        scales: `(in, candidates)`.
        quantizer: which rounding.
        bits: precision.
    """

    def __init__(
        self, linears: list[nn.Module], families: list[str], scales: Tensor, quantizer: AsymmetricGroups, bits: int
    ) -> None:
        self.linears = linears
        self.families = families
        # Half-precision weights are rounded in single precision, as in `round_to_nearest`.
        self._dtype = scales.dtype
        exact = torch.promote_types(scales.dtype, torch.float32)
        self.scales = scales.to(exact)
        self.quantizer = quantizer
        self.bits = bits
        self.count = scales.shape[1]
        self._weights = [weight_of(module).T.to(exact).contiguous() for module in linears]  # (in, out) each

    def of(self, candidate: int) -> list[Tensor]:
        """`(in, out)` for each linear, in the dtype in which differences are multiplied."""
        scale = self.scales[:, candidate, None]
        found = [rounding_differences(weight, scale, self.quantizer, self.bits)[:, 0] for weight in self._weights]
        return [low_precision(difference.to(self._dtype)) for difference in found]

    def by_weight(self, candidate: int) -> Changes:
        """Compute the difference of each linear's weight, by the identity of the weight."""
        return {id(m.weight): e for m, e in zip(self.linears, self.of(candidate), strict=True)}


def losses_of(fold: Fold, inputs: BlockInputs, changes: RoundingChanges) -> Losses:
    """Choose how losses are measured: for a linear itself, for a module token by token, or over whole sequences."""
    if fold.inspected not in inputs.calls:
        return _LinearLosses(inputs.sites[fold.name], changes)
    if _reads_no_other_token(inputs.architecture, fold) and _is_of_tokens(inputs.calls[fold.inspected]):
        return _TokenLosses(inputs, fold.inspected, changes)
    return _SequenceLosses(inputs, fold.inspected, changes)


class _LinearLosses:
    """Losses if the linear itself is inspected, so that its output error is `x E^T`; a case is a token."""

    tokens = 1

    def __init__(self, inputs: Tensor, changes: RoundingChanges) -> None:
        self.inputs = inputs
        self.changes = changes
        self.candidates = changes.count
        self.cases = max(1, len(inputs))
        sizes = [part.square().sum(dim=1, dtype=torch.float32) for part in inputs.split(BATCH_TOKENS)]
        self.size = torch.cat(sizes).cpu().numpy() if len(inputs) else None

    def __call__(self, left: np.ndarray, sample: Sample) -> np.ndarray:
        """Losses `(k, n, p)`."""
        if not len(self.inputs):  # an expert that no token reached
            return np.zeros((len(left), len(sample.cases), 1))
        x = low_precision(self.inputs[torch.as_tensor(sample.cases)])  # (n, in)
        losses = []
        for candidate in left:
            error = x @ self.changes.of(candidate)[0]  # (n, out)
            losses.append(mean_square(error))
        return torch.stack(losses).unsqueeze(2).cpu().numpy()


class _TokenLosses:
    """Losses of a module that processes each token alone, with hidden states as its arguments; a case is a token."""

    tokens = 1

    def __init__(self, inputs: BlockInputs, path: str, changes: RoundingChanges) -> None:
        self.inputs = inputs
        self.path = path
        self.changes = changes
        calls = inputs.calls[path]
        first_args, first_kwargs = calls[0]
        self.lead = _hidden(calls[0]).ndim - 2  # dimensions before tokens and width, restored around each batch
        self.args = [torch.cat([args[i].flatten(0, -2) for args, _ in calls]) for i in range(len(first_args))]
        self.kwargs = {name: torch.cat([kwargs[name].flatten(0, -2) for _, kwargs in calls]) for name in first_kwargs}
        self.candidates = changes.count
        self.size = inputs.output_size[path].cpu().numpy()
        self.cases = len(self.size)

    def __call__(self, left: np.ndarray, sample: Sample) -> np.ndarray:
        """Losses `(k, n, p)`."""
        found = []
        for start in range(0, len(sample.cases), BATCH_TOKENS):
            cases = sample.cases[start : start + BATCH_TOKENS]
            trial = self.inputs.trial((self.path, cases.tobytes()), partial(self._trial, torch.as_tensor(cases)))
            found.append([mean_square(trial.change(self.changes.by_weight(candidate))).flatten() for candidate in left])
        return _by_candidate(found)[:, :, None]

    def _trial(self, rows: Tensor) -> Trial:
        args = tuple(value[rows][(None,) * self.lead] for value in self.args)
        kwargs = {name: value[rows][(None,) * self.lead] for name, value in self.kwargs.items()}
        return Trial(self.inputs.module.get_submodule(self.path), args, kwargs)


class _SequenceLosses:
    """Losses of a module that processes whole sequences; a case is a sequence, sampled at some positions."""

    size = None

    def __init__(self, inputs: BlockInputs, path: str, changes: RoundingChanges) -> None:
        self.inputs = inputs
        self.path = path
        self.module = inputs.module.get_submodule(path)
        self.call = _joined(inputs.calls[path])
        self.changes = changes
        self.candidates = changes.count
        self.cases, self.tokens = _hidden(self.call).shape[:2]
        # Only attention with three projections is run at some positions, and only if that gives the same outputs.
        self._projections = [id(m.weight) for m in changes.linears] if changes.families == ["q", "k", "v"] else None
        if self._projections is not None and not self._runs_at_positions(self._projections):
            self._projections = None

    def _runs_at_positions(self, projections: list[int]) -> bool:
        sequences = min(PROBED_SEQUENCES, self.cases)
        args, kwargs = _some_sequences(self.call, torch.arange(sequences))
        positions = torch.arange(0, self.tokens, PROBE_STRIDE).expand(sequences, -1)
        expected = WholeSequences(self.module, args, kwargs, positions).full
        return AttentionAtPositions.matches(expected, self.module, args, kwargs, positions, projections)

    def __call__(self, left: np.ndarray, sample: Sample) -> np.ndarray:
        """Losses `(k, n, p)`."""
        found = []
        at_once = max(1, BATCH_TOKENS // self.tokens)
        for start in range(0, len(sample.cases), at_once):
            part = slice(start, start + at_once)
            cases, positions = sample.cases[part], sample.positions[part]
            key = self.path, cases.tobytes(), positions.tobytes(), self._projections is None
            make = partial(self._trial, torch.as_tensor(cases), torch.as_tensor(positions))
            trial = self.inputs.trial(key, make)
            found.append([mean_square(trial.change(self.changes.by_weight(candidate))) for candidate in left])
        return _by_candidate(found)

    def _trial(self, cases: Tensor, positions: Tensor) -> WholeSequences | AttentionAtPositions:
        args, kwargs = _some_sequences(self.call, cases)
        if self._projections is None:
            return WholeSequences(self.module, args, kwargs, positions)
        return AttentionAtPositions(self.module, args, kwargs, positions, self._projections)


def _by_candidate(batches: list[list[Tensor]]) -> np.ndarray:
    """Join batches of cases, each a list by candidate, into one array `(k, n, ...)`."""
    return torch.stack([torch.cat(parts) for parts in zip(*batches, strict=True)]).cpu().numpy()


def _hidden(call: Call) -> Tensor:
    args, kwargs = call
    found: Tensor = args[0] if args else kwargs["hidden_states"]
    return found


def _of_sequences(value: Any, hidden: Tensor) -> bool:
    """Test whether an argument has an entry for every sequence, unlike masks and positions of other dimensions."""
    return isinstance(value, Tensor) and value.ndim == hidden.ndim and len(value) == len(hidden)


def _joined(calls: list[Call]) -> Call:
    """Join calls into one call with the sequences of all."""
    hidden = _hidden(calls[0])

    def joined(values: tuple[Any, ...]) -> Any:
        return torch.cat(values) if _of_sequences(values[0], hidden) else values[0]

    positional = zip(*(args for args, _ in calls), strict=True)
    return tuple(map(joined, positional)), {
        name: joined(tuple(kwargs[name] for _, kwargs in calls)) for name in calls[0][1]
    }


def _some_sequences(call: Call, rows: Tensor) -> Call:
    """Restrict a call to some of its sequences."""
    args, kwargs = call
    hidden = _hidden(call)

    def some(value: Any) -> Any:
        return value[rows] if _of_sequences(value, hidden) else value

    return tuple(map(some, args)), {name: some(value) for name, value in kwargs.items()}


def _reads_no_other_token(architecture: Architecture, fold: Fold) -> bool:
    return bool(fold.inspected) and all(architecture.site(site).role == "mlp_in" for site in fold.sites)


def _is_of_tokens(calls: list[Call]) -> bool:
    """Test whether all arguments of all calls are hidden states, of the same shape except for the width."""
    return all(
        isinstance(value, Tensor) and value.shape[:-1] == _hidden(call).shape[:-1]
        for call in calls
        for value in (*call[0], *call[1].values())
    )
