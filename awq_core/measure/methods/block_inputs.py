"""What reaches an opened block's input sites and inspected modules on one text set, in full precision."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from awq_core.architectures.block_stream import BlockStream, hooked
from awq_core.architectures.model import Architecture, Fold, is_linear
from awq_core.measure.layers.second_moment import SecondMoment
from awq_core.measure.methods.trials import output_of

CHUNK_ELEMENTS = 500_000
"""Values whose magnitudes are formed at once: what stays in a processor's cache."""

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


class BlockInputs:
    """One pass of a text set over an opened block, and what calibrating needs of it.

    Args:
        stream: has reached the block and begun it.
        block: index of the block.
        text_set: which of the stream's splits.
        arithmetic: dtype of the second moments.
        calls: also keep the calls of inspected modules, as scale searches need, every token, and the block's outputs;
            without, second moments are all that is gathered.

    Attributes:
        architecture: of the model.
        tokens: by site, how many reached it.
        sites: by site, its inputs `(tokens, width)`, where they are kept.
        calls: by path of an inspected module that is no linear, its calls in order.
        output_size: by the same, the squared output of every token, `(tokens,)`.
        seconds: wall-clock time of the second moments that were gathered in passing, where no inputs are kept.
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

        Experts of a mixture each see some of the tokens; pooled, they see each token as often as every other.
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
        """`G = X^T X` of a site, gathered when it is first asked for."""
        if site not in self._moments:
            self._add(site, self.sites[site])
        return self._moments[site]

    def _add(self, site: str, x: Tensor) -> None:
        """Add tokens `(tokens, width)` to a site's second moment; an expert may see none."""
        if site not in self._moments:
            self._moments[site] = SecondMoment(x.shape[1], self._arithmetic, x.device)
        if len(x):
            self._moments[site].update(x)


def clock(device: torch.device) -> float:
    """Read the clock, in seconds, when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _keep_size(sizes: list[Tensor]) -> Callable[..., None]:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        sizes.append(output_of(output).flatten(0, -2).float().square().sum(dim=-1))

    return hook
