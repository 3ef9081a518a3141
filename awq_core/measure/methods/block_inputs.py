"""Inputs of an opened block's sites and inspected modules on one text set, in full precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from awq_core.architectures.block_stream import BlockStream, hooked
from awq_core.architectures.model import Architecture, Fold, is_linear
from awq_core.measure.layers.second_moment import SecondMoment
from awq_core.measure.methods.trials import Trial, output_of

CHUNK_ELEMENTS = 500_000
"""Largest number of values whose magnitudes are computed together, so that they stay in the processor's cache."""

TRIAL_BYTES = 2**27
"""Largest size of the trials that are stored for a block, in bytes."""

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a module's call."""


class BlockInputs:
    """Inputs recorded in one pass of a text set over an opened block, for calibration.

    Args:
        stream: stream that has begun the block.
        block: index of the block.
        text_set: split of the stream.
        arithmetic: dtype of the second moments.
        calls: whether to store the inputs of all sites, the calls of inspected modules and the block's outputs, as
            scale searches need them; otherwise only second moments are gathered.

    Attributes:
        architecture: architecture of the model.
        module: module of the block.
        tokens: number of tokens by site.
        sites: inputs `(tokens, width)` by site; empty without `calls`.
        calls: calls in order, by path of each inspected module that is not a linear.
        output_size: squared output of each token, `(tokens,)`, by path of each inspected module that is not a linear.
        reused_seconds: wall-clock time that stored trials took when they were made, for each time that one was used
            again: a search's cost is the same whichever search came before.
        seconds: wall-clock time of gathering second moments during the pass; 0 with `calls`.
    """

    def __init__(
        self, stream: BlockStream, block: int, text_set: str, arithmetic: torch.dtype, *, calls: bool = True
    ) -> None:
        self.architecture: Architecture = stream.architecture
        self.module: nn.Module = stream.source.modules[block]
        self._arithmetic = arithmetic
        self._moments: dict[str, SecondMoment] = {}
        self.seconds = 0.0
        self.tokens: dict[str, int] = {}
        self.calls: dict[str, list[Call]] = {}
        self.reused_seconds = 0.0
        self._trials: dict[Hashable, tuple[Trial, float]] = {}
        captured: dict[str, list[Tensor]] = {}
        sizes: dict[str, list[Tensor]] = {}
        with ExitStack() as stack:
            for path in dict.fromkeys(fold.inspected for fold in self.architecture.folds if calls):
                inspected = self.module.get_submodule(path)
                if not is_linear(inspected):
                    made = self.calls.setdefault(path, [])
                    stack.enter_context(hooked(inspected, lambda _, args, kwargs, c=made: c.append((args, kwargs))))
                    handle = inspected.register_forward_hook(_keep_size(sizes.setdefault(path, [])))
                    stack.callback(handle.remove)
            for _, inputs in stream.passes(block, text_set, outputs=calls):
                for site, x in inputs.items():
                    self.tokens[site] = self.tokens.get(site, 0) + len(x)
                    if calls:
                        captured.setdefault(site, []).append(x)
                    else:
                        began = clock(x.device)
                        self._add(site, x)
                        self.seconds += clock(x.device) - began
        self.output_size = {path: torch.cat(parts) for path, parts in sizes.items()}
        self.sites = {site: torch.cat(captured.pop(site)) for site in list(captured)}

    def magnitude(self, fold: Fold) -> Tensor:
        """Mean of abs(x) over the tokens of all sites that share a fold's scale, `(width,)`, float64.

        Each expert of a mixture sees some of the tokens; over all experts, every token counts equally often.
        """
        return self._mean_size(fold.sites)

    def magnitude_of(self, site: str) -> Tensor:
        """Mean of abs(x) over one site's tokens, `(width,)`, float64."""
        return self._mean_size((site,))

    def _mean_size(self, sites: tuple[str, ...]) -> Tensor:
        tokens = sum(len(self.sites[site]) for site in sites)
        parts = [
            part.abs().sum(dim=0, dtype=torch.float64)  # (width,)
            for site in sites
            for part in self.sites[site].split(max(1, CHUNK_ELEMENTS // self.sites[site].shape[1]))
        ]
        return torch.stack(parts).sum(dim=0) / max(tokens, 1)

    def second_moment(self, site: str) -> SecondMoment:
        """Second moment `G = X^T X` of a site, computed on first use."""
        if site not in self._moments:
            self._add(site, self.sites[site])
        return self._moments[site]

    def trial(self, key: Hashable, make: Callable[[], Trial]) -> Trial:
        """Return a module's trial on some tokens; made once for the searches of all precisions, where there is room.

        Args:
            key: the module and the tokens.
            make: makes the trial.
        """
        if key in self._trials:
            trial, seconds = self._trials[key]
            self.reused_seconds += seconds
            return trial
        device = next(self.module.parameters()).device
        began = clock(device)
        trial = make()
        seconds = clock(device) - began
        if trial.size + sum(stored.size for stored, _ in self._trials.values()) <= TRIAL_BYTES:
            self._trials[key] = trial, seconds
        return trial

    def _add(self, site: str, x: Tensor) -> None:
        """Add tokens `(tokens, width)` to a site's second moment; there may be none for an expert."""
        if site not in self._moments:
            self._moments[site] = SecondMoment(x.shape[1], self._arithmetic, x.device)
        if len(x):
            self._moments[site].update(x)


def clock(device: torch.device) -> float:
    """Read the clock, in seconds, after waiting for the device's pending work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _keep_size(sizes: list[Tensor]) -> Callable[..., None]:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        sizes.append(output_of(output).flatten(0, -2).float().square().sum(dim=-1))

    return hook
