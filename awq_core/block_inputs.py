"""What reaches a block's input sites and inspected modules on the calibration tokens, in full precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from awq_core.architecture import Fold, is_linear
from awq_core.streaming import BlockStream


class BlockInputs:
    """One pass of the calibration tokens over a block, and what calibrating needs of it.

    Args:
        stream: has reached the block and begun it.
        block: index of the block.
        arithmetic: dtype of the second moments.

    Attributes:
        tokens: by site, how many tokens reached it.
        second_moments: by site, `G = X^T X`, `(in, in)`.
        modules: the inspected modules by path, but for those that are linears: their loss comes from `G`.
    """

    def __init__(self, stream: BlockStream, block: int, arithmetic: torch.dtype = torch.float32) -> None:
        self.tokens: dict[str, int] = {}
        self.second_moments: dict[str, Tensor] = {}
        self._summed: dict[str, Tensor] = {}
        self._calls: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self._outputs: dict[str, list[Tensor]] = {}
        inspected = {
            fold.inspected: stream.modules[block].get_submodule(fold.inspected) for fold in stream.architecture.folds
        }
        self.modules = {path: module for path, module in inspected.items() if not is_linear(module)}
        handles = [
            module.register_forward_hook(self._keep(path), with_kwargs=True) for path, module in self.modules.items()
        ]
        try:
            for _, sites in stream.passes(block, "calibration"):
                for name, inputs in sites.items():
                    self._add(name, inputs.to(arithmetic))
        finally:
            for handle in handles:
                handle.remove()

    def magnitude(self, fold: Fold) -> Tensor:
        """Mean of abs(x) over the tokens of all sites that share a fold's scale, `(width,)`.

        Experts of a mixture each see some of the tokens; pooled, they see each token as often as every other.
        """
        tokens = sum(self.tokens[site] for site in fold.sites)
        return torch.stack([self._summed[site] for site in fold.sites]).sum(dim=0) / max(tokens, 1)

    def sequences(self, path: str) -> int:
        """How many sequences an inspected module was called with."""
        return sum(len(output) for output in self._outputs[path])

    def sequence_losses(self, path: str, chosen: np.ndarray) -> np.ndarray:
        """Mean squared change of an inspected module's output, with whatever weights it has now.

        Args:
            path: of the module.
            chosen: indices `(n,)` of sequences. Where a module is called with tokens (the experts of a mixture), of
                tokens.

        Returns:
            `(n,)`.
        """
        losses = np.empty(len(chosen))
        start = 0
        for (args, kwargs), expected in zip(self._calls[path], self._outputs[path], strict=True):
            count = len(expected)
            mine = np.flatnonzero((chosen >= start) & (chosen < start + count))
            if len(mine):
                rows = torch.as_tensor(chosen[mine] - start, device=expected.device)
                some, named = _rows(args, kwargs, rows, expected)
                with torch.no_grad():
                    output = _tensor(self.modules[path](*some, **named))
                change = (output - expected[rows]).float().square().flatten(1)  # (n, ...)
                losses[mine] = change.mean(dim=1, dtype=torch.float64).cpu().numpy()
            start += count
        return losses

    def _add(self, site: str, inputs: Tensor) -> None:
        total, moment = inputs.abs().sum(dim=0, dtype=torch.float64), inputs.T @ inputs  # (in,), (in, in)
        self.tokens[site] = self.tokens.get(site, 0) + len(inputs)
        self._summed[site] = self._summed.get(site, 0) + total
        self.second_moments[site] = self.second_moments.get(site, 0) + moment

    def _keep(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self._calls.setdefault(path, []).append((args, kwargs))
            self._outputs.setdefault(path, []).append(_tensor(output))

        return hook


def _rows(
    args: tuple[Any, ...], kwargs: dict[str, Any], rows: Tensor, output: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A module's arguments for some of the sequences that it was called with.

    Hidden states have as many dimensions as the output; masks and positions have others, and hold for every sequence.
    """

    def some(value: Any) -> Any:
        of_sequences = isinstance(value, Tensor) and value.ndim == output.ndim and len(value) == len(output)
        return value[rows] if of_sequences else value

    return tuple(map(some, args)), {name: some(value) for name, value in kwargs.items()}


def _tensor(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
