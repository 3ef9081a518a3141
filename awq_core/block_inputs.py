"""What reaches a block's input sites and inspected modules on the calibration tokens, in full precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from awq_core.architecture import Architecture, Fold, is_linear, weight_of
from awq_core.replays import Call, Calls, Replay, SequenceCalls, TokenCalls, is_of_tokens, output_of
from awq_core.second_moment import SecondMoment
from awq_core.streaming import BlockStream

NARROW = 1024
"""Up to so many channels, the second moment of a linear's input costs little beside the forward pass, and gives the
linear's loss on all tokens at once. Beyond, it would cost more than the race on tokens that it saves."""

CHUNK_ELEMENTS = 500_000
"""Values whose magnitudes are formed at once: what stays in a processor's cache."""


class BlockInputs:
    """One pass of the calibration tokens over a block, and what calibrating needs of it.

    Args:
        stream: has reached the block and begun it.
        block: index of the block.
        arithmetic: dtype of the second moments.
        folds: groups that will be searched; all of the architecture's where None.
        moments: form every site's second moment, as the clip search and GPTQ need; else those alone that a search
            takes its loss from.

    Attributes:
        tokens: by site, how many tokens reached it.
        second_moments: by site, `G = X^T X`, `(in, in)`.
        modules: the inspected modules by path, but for those that are linears: their losses come from `G`, or from
            inputs that are made again (`linear_inputs`).
    """

    def __init__(
        self,
        stream: BlockStream,
        block: int,
        arithmetic: torch.dtype = torch.float32,
        folds: tuple[Fold, ...] | None = None,
        *,
        moments: bool = True,
    ) -> None:
        self.tokens: dict[str, int] = {}
        self._summed: dict[str, Tensor] = {}
        folds = stream.architecture.folds if folds is None else folds
        self._block = stream.modules[block]
        inspected = {fold.inspected: self._block.get_submodule(fold.inspected) for fold in folds}
        self.modules = {path: module for path, module in inspected.items() if not is_linear(module)}
        self._within = {
            path: container
            for path, module in inspected.items()
            if is_linear(module)
            and weight_of(module).shape[1] > NARROW
            and (container := self._container(path, stream.architecture, folds)) is not None
        }
        with_moment = {fold.name for fold in folds if fold.inspected not in {*self.modules, *self._within}}
        gathered: dict[str, SecondMoment] = {}
        calls: dict[str, list[Call]] = {path: [] for path in self.modules}
        handles = [
            module.register_forward_hook(_keep(calls[path]), with_kwargs=True) for path, module in self.modules.items()
        ]
        try:
            for _, sites in stream.passes(block, "calibration"):
                for name, inputs in sites.items():
                    self._add_magnitude(name, inputs)
                    if moments or name in with_moment:
                        if name not in gathered:
                            gathered[name] = SecondMoment(inputs.shape[1], arithmetic, inputs.device)
                        if len(inputs):  # an expert may see none of a batch
                            gathered[name].update(inputs)
        finally:
            for handle in handles:
                handle.remove()
        self.second_moments = {name: gathered.pop(name).matrix() for name in list(gathered)}
        self.calls: dict[str, Calls] = {}
        for fold in folds:
            path = fold.inspected
            if path in self.modules and path not in self.calls:
                alone = _reads_no_other_token(stream.architecture, fold) and is_of_tokens(calls[path])
                self.calls[path] = (TokenCalls if alone else SequenceCalls)(self.modules[path], calls[path])

    def magnitude(self, fold: Fold) -> Tensor:
        """Mean of abs(x) over the tokens of all sites that share a fold's scale, `(width,)`.

        Experts of a mixture each see some of the tokens; pooled, they see each token as often as every other.
        """
        tokens = sum(self.tokens[site] for site in fold.sites)
        return torch.stack([self._summed[site] for site in fold.sites]).sum(dim=0) / max(tokens, 1)

    def by_moment(self, fold: Fold) -> bool:
        """Whether the loss of a fold comes from a second moment."""
        return fold.inspected not in self.modules and fold.inspected not in self._within

    def calls_of(self, fold: Fold) -> Calls:
        """The calls that a fold's candidates are raced on: the inspected module's, or of what holds the linear."""
        return self.calls[self._within.get(fold.inspected, fold.inspected)]

    def linear_inputs(self, fold: Fold, cases: np.ndarray) -> Iterator[tuple[Replay, Tensor]]:
        """An inspected linear's inputs `(tokens, width)` for some cases of the module that holds it.

        They are made again from that module's own inputs, which are several times narrower: kept, they would be most
        of the memory.
        """
        kept: list[Tensor] = []
        handle = self._block.get_submodule(fold.inspected).register_forward_pre_hook(
            lambda _, args: kept.append(args[0])
        )
        try:
            for replay in self.calls_of(fold).replays(cases):
                replay.output()
                yield replay, kept.pop().flatten(0, -2)
        finally:
            handle.remove()

    def _container(self, path: str, architecture: Architecture, folds: tuple[Fold, ...]) -> str | None:
        """An inspected module that reads every token alone and holds the linear; none among experts, which each see
        some of the tokens."""
        for fold in folds:
            inside = path.startswith(f"{fold.inspected}.") and fold.inspected in self.modules
            if inside and architecture.experts is None and _reads_no_other_token(architecture, fold):
                return fold.inspected
        return None

    def _add_magnitude(self, site: str, inputs: Tensor) -> None:
        self.tokens[site] = self.tokens.get(site, 0) + len(inputs)
        for part in inputs.split(max(1, CHUNK_ELEMENTS // inputs.shape[1])):
            self._summed[site] = self._summed.get(site, 0) + part.abs().sum(dim=0, dtype=torch.float64)  # (in,)


def _reads_no_other_token(architecture: Architecture, fold: Fold) -> bool:
    return bool(fold.inspected) and all(architecture.site(site).role == "mlp_in" for site in fold.sites)


def _keep(calls: list[Call]) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append((args, kwargs, output_of(output)))

    return hook
