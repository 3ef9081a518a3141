"""The model-level instrument: calibrate with every method, then score every strategy on held-out windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from awq_core.architecture import Architecture, blocks_of
from awq_core.calibrated import BLOCK, GPTQ, METHODS, Calibrated, calibrate
from awq_core.equivalence import check_folding
from awq_core.kept_blocks import NOTHING_KEPT, KeptBlocks
from awq_core.losses import measure_losses
from awq_core.measured import JUDGED_BITS
from awq_core.strategies import Strategies, Strategy

FEW = 8
"""An eighth of the calibration sequences: the AWQ paper's Fig. 8 has 16 where GPTQ has 128 and more."""

Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """No progress."""


KeptByName = Callable[[str], KeptBlocks]
"""From the name of a calibration to where its blocks are kept."""


def nothing_kept(name: str) -> KeptBlocks:
    """Nowhere."""
    return NOTHING_KEPT


@dataclass(frozen=True)
class ModelTokens:
    """What a model is calibrated and judged on, `[sequences, length]` each.

    Attributes:
        calibration: the usual tokens.
        foreign: of a text unlike them, at most as many.
        heldout: windows.
    """

    calibration: np.ndarray
    foreign: np.ndarray
    heldout: np.ndarray

    @property
    def few(self) -> np.ndarray:
        """An eighth of the calibration sequences."""
        return _spread(self.calibration, max(1, len(self.calibration) // FEW))

    @property
    def matched(self) -> np.ndarray:
        """As many calibration sequences as the foreign text has: what its penalty is counted from."""
        return _spread(self.calibration, len(self.foreign))


def calibrate_model(
    model: Any,
    architecture: Architecture,
    tokens: ModelTokens,
    arithmetic: torch.dtype,
    progress: Progress = _silent,
    methods: tuple[str, ...] = METHODS,
    elsewhere: bool = True,
    kept: KeptByName = nothing_kept,
) -> dict[str, Calibrated]:
    """Calibrate with every method on the usual tokens, and with those that claims ask about on other ones.

    Args:
        model: unmodified, in evaluation mode; it is the same afterwards.
        architecture: its row of the table.
        tokens: what to calibrate on.
        arithmetic: dtype of second moments and of GPTQ.
        progress: called with `(blocks done, blocks)`, counted over all calibrations.
        methods: what to calibrate on the usual tokens.
        elsewhere: also calibrate on fewer and on foreign tokens.
        kept: where each calibration's blocks are kept.

    Returns:
        By the suffix that tells strategies apart: `""` for the usual tokens, `-few`, `-foreign`, and `-matched`: as
        many of the usual sequences as the foreign text has.
    """
    wanted: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
        "": (tokens.calibration, methods),
        "-few": (tokens.few, (BLOCK,)),
        "-foreign": (tokens.foreign, (BLOCK, GPTQ)),
        "-matched": (tokens.matched, (BLOCK, GPTQ)),
    }
    if len(tokens.foreign) == len(tokens.calibration):
        del wanted["-matched"]  # the same tokens as the usual ones
    if not elsewhere:
        wanted = {"": wanted[""]}
    found: dict[str, Calibrated] = {}
    for index, (suffix, (ids, chosen)) in enumerate(wanted.items()):

        def step(done: int, total: int, finished: int = index) -> None:
            progress(finished * total + done, len(wanted) * total)

        blocks = kept(f"calibration{suffix}")
        found[suffix] = calibrate(
            model, architecture, ids, JUDGED_BITS, chosen, arithmetic=arithmetic, progress=step, kept=blocks
        )
    if elsewhere:
        found.setdefault("-matched", found[""].only((BLOCK, GPTQ)))
    return found


def measure_model_level(
    model: Any,
    architecture: Architecture,
    channels: xr.Dataset,
    errors: xr.Dataset,
    found: dict[str, Calibrated],
    tokens: ModelTokens,
    seed: int,
    progress: Progress = _silent,
    *,
    kept: bool = True,
    scores: KeptBlocks | None = None,
) -> xr.Dataset:
    """Dataset `losses` (`docs/datasets.md`).

    Args:
        model: unmodified, in evaluation mode; it is the same afterwards.
        architecture: its row of the table.
        channels: the layer-level instrument's first dataset.
        errors: its second.
        found: from `calibrate_model`.
        tokens: what it was calibrated on and is judged on.
        seed: of the random choices of channels, and of the scales that check the fold.
        progress: called with `(strategies done, strategies)`.
        kept: also score the strategies that keep 1% of the channels.
        scores: where each strategy's scores are kept, by its place among the strategies.

    Raises:
        MeasurementError: if a loss is NaN or infinite.
    """
    made = Strategies(model, architecture, channels, errors, seed)
    listed: list[Strategy] = made.standard(JUDGED_BITS, found[""])
    for bits in sorted(JUDGED_BITS):
        if kept:
            listed += made.kept(bits)
        for suffix in [suffix for suffix in found if suffix]:
            listed += made.calibrated(bits, found[suffix], suffix)
    attributes = {
        "search": chosen_exponents(found[""]),
        **costs_attributes(found[""], JUDGED_BITS, len(blocks_of(model, architecture))),
        **uncalibrated_attributes(model, architecture, tokens, seed),
    }
    return measure_losses(model, listed, tokens.heldout, attributes, progress, scores)


def uncalibrated_attributes(
    model: Any, architecture: Architecture, tokens: ModelTokens, seed: int
) -> dict[str, dict[str, Any]]:
    """What is kept with the losses and needs no calibration: what folding left as it was, counts of sequences."""
    heldout = torch.as_tensor(tokens.heldout, device=model.get_input_embeddings().weight.device)
    return {
        "folding": check_folding(model, architecture, heldout, seed).as_dict(),
        "calibration_sequences": {
            "own": len(tokens.calibration),
            "few": len(tokens.few),
            "foreign": len(tokens.foreign),
        },
    }


def costs_attributes(found: Calibrated, bits: tuple[int, ...], blocks: int) -> dict[str, dict[str, Any]]:
    """What calibrating took, by method, and which precisions and how many blocks are counted."""
    return {
        "cost": {method: asdict(cost) for method, cost in found.costs.items()},
        "costed": {"bits": sorted(bits), "blocks": blocks},
    }


def chosen_exponents(found: Calibrated) -> dict[str, dict[str, float]]:
    """What the searches chose, plain: by method and bits, the exponent of every group."""
    return {
        f"{method}-{bits}": {f"block {entry.block} {entry.fold.name}": entry.alpha for entry in scales}
        for (method, bits), scales in found.scales.items()
    }


def _spread(sequences: np.ndarray, count: int) -> np.ndarray:
    """So many of the sequences, spread evenly over all."""
    return sequences[np.arange(count) * len(sequences) // count]
