"""Every strategy of a model, made when it is asked for: nothing is calibrated that no strategy needs.

Where everything is scored anyway, `awq_core/model_level.py` calibrates once for all precisions and methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr

from awq_core.architecture import Architecture, applicable_folds, blocks_of
from awq_core.calibrated import BLOCK, CLIP, DUO, GPTQ, GPTQ_ORDER, GROUPED, METHODS, Calibrated, calibrate
from awq_core.folding import Parameters
from awq_core.measured import JUDGED_BITS
from awq_core.model_level import KeptByName, ModelTokens, chosen_exponents, costs_attributes, nothing_kept
from awq_core.strategies import Strategies, Strategy

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "-few": (BLOCK,),
    "-foreign": (BLOCK, GPTQ),
    "-matched": (BLOCK, GPTQ),
}
"""Calibrations on other tokens than the usual ones, by the suffix that tells them apart."""

COSTED_BLOCKS = 2
COSTED_BITS = (4,)
"""On which calibrating is timed, whether or not a claim needs all blocks calibrated."""

Needs = tuple[str, str, int]
"""Of one strategy: on which tokens, by suffix (the usual ones have none), with which method, for which precision."""


class OnDemand:
    """The strategies of `measure_model_level`, in its order.

    Args:
        model: unmodified, in evaluation mode; it is the same afterwards.
        architecture: its row of the table.
        channels: the layer-level instrument's first dataset.
        errors: its second.
        tokens: what to calibrate on.
        arithmetic: dtype of second moments and of GPTQ.
        seed: of the random choices of channels.
        kept: where each calibration's blocks are kept.
    """

    def __init__(
        self,
        model: Any,
        architecture: Architecture,
        channels: xr.Dataset,
        errors: xr.Dataset,
        tokens: ModelTokens,
        arithmetic: torch.dtype,
        seed: int,
        kept: KeptByName = nothing_kept,
    ) -> None:
        self.model = model
        self.architecture = architecture
        self.tokens = tokens
        self.arithmetic = arithmetic
        self.kept = kept
        self._made = Strategies(model, architecture, channels, errors, seed)
        self._found: dict[str, Calibrated] = {}
        self._needs: dict[str, Needs] = {}
        self.strategies = {strategy.name: strategy for strategy in self._listed()}

    def prepare(self, names: Iterable[str], progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Calibrate what some strategies need and has not been calibrated yet.

        Args:
            names: of strategies.
            progress: called with `(blocks done, blocks)`, counted over all calibrations.
        """
        wanted = self.to_calibrate(names)
        for index, (suffix, needs) in enumerate(wanted.items()):

            def step(done: int, total: int, finished: int = index) -> None:
                progress(finished * total + done, len(wanted) * total)

            # All precisions and methods in one pass: they share the inputs and the second moments.
            bits = tuple(sorted({precision for _, precision in needs}, reverse=True))
            methods = {method for method, _ in needs}
            if methods & {CLIP, GROUPED}:
                methods.add(BLOCK)  # both start from its scales
            chosen = tuple(method for method in METHODS if method in methods)
            counted = ",".join(map(str, sorted(bits)))
            found = calibrate(
                self.model,
                self.architecture,
                self._sequences(suffix),
                bits,
                chosen,
                arithmetic=self.arithmetic,
                progress=step,
                kept=self.kept(f"calibration{suffix} at {counted} with {','.join(chosen)}"),
            )
            self._found[suffix] = _merged(self._found.get(suffix), found)

    def to_calibrate(self, names: Iterable[str]) -> dict[str, set[tuple[str, int]]]:
        """What some strategies need and no calibration has found yet: by suffix, methods and precisions."""
        wanted: dict[str, set[tuple[str, int]]] = {}
        for name in names:
            if name in self._needs:
                suffix, method, bits = self._needs[name]
                if not _holds(self._found.get(suffix), method, bits):
                    wanted.setdefault(suffix, set()).add((method, bits))
        return wanted

    def chosen(self, name: str) -> dict[str, dict[str, float]]:
        """What a strategy's own search on the usual tokens chose (`chosen_exponents`); empty for one without."""
        suffix, _, _ = self._needs.get(name, ("-", "", 0))
        if suffix or suffix not in self._found:
            return {}
        return {key: value for key, value in chosen_exponents(self._found[suffix]).items() if key == name}

    def costs(self, progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, dict[str, Any]]:
        """What calibrating takes (`costs_attributes`), seen on the first blocks: in most models all have one shape."""
        most = min(COSTED_BLOCKS, len(blocks_of(self.model, self.architecture)))
        found = Calibrated()
        # The first time of all pays for setting up libraries; one block is calibrated twice, and counted once.
        for done, blocks in enumerate((1, most)):
            found = calibrate(
                self.model,
                self.architecture,
                self.tokens.calibration,
                COSTED_BITS,
                (BLOCK, GPTQ),
                arithmetic=self.arithmetic,
                first_blocks=blocks,
            )
            progress(done + 1, 2)
        return costs_attributes(found, COSTED_BITS, most)

    def _listed(self) -> list[Strategy]:
        listed = [Strategy("full", 0, dict), self._made.round_to_nearest(2)]
        usual = tuple(method for method in (BLOCK, DUO, GROUPED, CLIP, GPTQ, GPTQ_ORDER) if self._has(method))
        for bits in sorted(JUDGED_BITS):
            listed += [*self._made.uncalibrated(bits), *(self._later(method, bits) for method in usual)]
        for bits in sorted(JUDGED_BITS):
            listed += self._made.kept(bits)
            listed += [self._later(method, bits, suffix) for suffix, methods in ELSEWHERE.items() for method in methods]
        return listed

    def _later(self, method: str, bits: int, suffix: str = "") -> Strategy:
        """A strategy that is calibrated when its parameters are asked for."""
        strategy = Strategy(f"{method}{suffix}", bits, dict)
        # As many usual tokens as the foreign text has may be all of them.
        same = suffix == "-matched" and len(self.tokens.foreign) == len(self.tokens.calibration)
        tokens = "" if same else suffix
        self._needs[strategy.name] = (tokens, method, bits)

        def parameters() -> Parameters:
            self.prepare([strategy.name])
            for made in self._made.calibrated(bits, self._found[tokens]):
                if made.method == method:
                    return made.parameters()
            raise LookupError(f"calibrating found nothing for {strategy.name}")

        return replace(strategy, parameters=parameters)

    def _has(self, method: str) -> bool:
        """Whether a method differs from the others on this model: an averaged fold, say, needs grouped queries."""
        blocks = range(len(blocks_of(self.model, self.architecture)))
        return method != GROUPED or any(
            len(applicable_folds(self.model, self.architecture, block, grouped=True))
            > len(applicable_folds(self.model, self.architecture, block))
            for block in blocks
        )

    def _sequences(self, suffix: str) -> np.ndarray:
        chosen = {"": self.tokens.calibration, "-foreign": self.tokens.foreign}
        if suffix in chosen:
            return chosen[suffix]
        return self.tokens.few if suffix == "-few" else self.tokens.matched


def _holds(found: Calibrated | None, method: str, bits: int) -> bool:
    if found is None:
        return False
    return bits in found.limits if method == CLIP else (method, bits) in {*found.scales, *found.weights}


def _merged(known: Calibrated | None, found: Calibrated) -> Calibrated:
    if known is None:
        return found
    return Calibrated(
        known.scales | found.scales,
        known.limits | found.limits,
        known.weights | found.weights,
        known.costs | found.costs,
    )
