"""A model's rounded weights in one call, by the pass through its blocks that measures methods' losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from awq_core.architectures.block_stream import Blocks, BlockStream
from awq_core.architectures.folding import Parameters
from awq_core.architectures.model import (
    Architecture,
    UnknownArchitectureError,
    architecture_of,
    linear,
    linears_of_block,
)
from awq_core.measure.layers.instrument import LayerSettings, measure_layers
from awq_core.measure.methods.block_rounding import Applied, LayerFindings
from awq_core.measure.methods.calibrated_blocks import CalibratedBlocks
from awq_core.measure.methods.table import METHODS, Strategy
from awq_core.measured import JUDGED_BITS
from awq_core.quantization.quantizers import AsymmetricGroups

if TYPE_CHECKING:
    from collections.abc import Iterator

BITS = range(2, 17)
"""Precisions that the quantizer has."""


@dataclass(frozen=True)
class QuantizedModel:
    """What a method makes of a model.

    Attributes:
        method: name of the method.
        bits: precision.
        group_size: weights that share a step; of a linear whose width it does not divide see `AsymmetricGroups`.
        parameters: every parameter that changes, by its name in the model, in the model's own layout, dtype and device:
            linears' weights, rounded and dequantized, and what absorbs scales. They serve full-precision products;
            `METHODS[method].needs` says what a kernel for codes would need beyond an ordinary checkpoint.
        exponents: by linear, the exponent of its scales, where the method has one.
        scales: by linear, the scales `(in,)` that its columns were multiplied by, where the method scales.
        limits: by linear, the limits `(out, groups)` that its scaled weights were clipped to, where the method clips.
    """

    method: str
    bits: int
    group_size: int
    parameters: Parameters
    exponents: dict[str, float]
    scales: dict[str, Tensor]
    limits: dict[str, Tensor]

    def apply(self, model: nn.Module) -> None:
        """Overwrite a model's parameters in place.

        Args:
            model: the model that was quantized, or a copy of it.

        Raises:
            ValueError: if it has no such parameter, or one of another shape; nothing is overwritten then.
        """
        present = dict(model.named_parameters(remove_duplicate=False))
        for name, value in self.parameters.items():
            if name not in present or present[name].shape != value.shape:
                there = f"of shape {tuple(present[name].shape)}" if name in present else "absent"
                raise ValueError(f"this is not the model that was quantized: {name} is {there}")
        with torch.no_grad():
            for name, value in self.parameters.items():
                present[name].copy_(value)


def quantize(
    model: Any,
    token_ids: Tensor | np.ndarray | Sequence[Sequence[int]],
    method: str = "awq-block-clip",
    bits: int = 4,
    group_size: int = 128,
    *,
    seed: int = 0,
    exhaustive: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> QuantizedModel:
    """Round a causal language model's linears with a method of the table.

    The model is the same afterwards; what is returned holds its linears a second time.

    Args:
        model: of transformers, in memory, of an architecture of `awq_core.architectures.table`. The fused experts of a
            mixture have to be separated first (`awq_core.separate_experts`).
        token_ids: calibration text, `(sequences, length)` whole numbers; methods that calibrate on nothing ignore it.
        method: a name in `awq_core.METHODS`.
        bits: precision, 2 to 16.
        group_size: weights in a group, from 2 on.
        seed: of the channels that methods called `keep-random` draw.
        exhaustive: let searches try every exponent on every token, as llm-awq does; else exponents race, and the
            winner is within 0.1% of the best.
        progress: called with `(blocks done, blocks)`.

    Raises:
        ValueError: for a method, precision or group size that there is not, for token ids of another shape or beyond
            the vocabulary, and (`UnknownArchitectureError`) for a model that no row of the table describes.
        MeasurementError: if an activation or a loss is NaN or infinite.
    """
    if method not in METHODS:
        raise ValueError(f"no method is called {method!r}; known: {', '.join(METHODS)}")
    if type(bits) is not int or bits not in BITS:
        raise ValueError(f"bits must be a whole number from {BITS[0]} to {BITS[-1]}, got {bits!r}")
    quantizer = AsymmetricGroups(group_size)
    ids = _checked(token_ids, model.get_input_embeddings().weight.shape[0])
    strategy = Strategy(METHODS[method], bits)
    architecture = architecture_of(model.config)
    arithmetic = torch.promote_types(model.get_input_embeddings().weight.dtype, torch.float32)
    with torch.no_grad(), _evaluating(model):
        blocks = Blocks(model, architecture)
        _check_linears(model, architecture, len(blocks))
        layers = LayerFindings(seed=seed, quantizer=quantizer)
        if strategy.method.reads_layers:
            settings = LayerSettings((quantizer,), tuple({*JUDGED_BITS, bits}), arithmetic, raced=True)
            # Nothing here is judged on held-out tokens: one sequence stands in for them.
            stream = BlockStream(blocks, architecture, {"calibration": ids, "heldout": ids[:1]}, settings.groups)
            layers = LayerFindings.of(*measure_layers(stream, settings), (bits,), seed)
        applied = Applied()
        calibrated = CalibratedBlocks(blocks, {"": ids}, layers, arithmetic, exhaustive=exhaustive)
        parameters = calibrated.quantized(strategy, applied, progress)
    return QuantizedModel(method, bits, group_size, parameters, applied.exponents, applied.scales, applied.limits)


def _checked(token_ids: Any, vocabulary: int) -> np.ndarray:
    """Token ids as an array `[sequences, length]`."""
    ids = token_ids.cpu().numpy() if isinstance(token_ids, Tensor) else np.asarray(token_ids)
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise ValueError(f"token_ids must be whole numbers (sequences, length), got {ids.dtype} of shape {ids.shape}")
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise ValueError(f"token_ids must be from 0 to {vocabulary - 1}, got {ids.min()} to {ids.max()}")
    return ids.astype(np.int64)


def _check_linears(model: nn.Module, architecture: Architecture, blocks: int) -> None:
    """Look for every linear before anything is calibrated."""
    for block in range(blocks):
        for entry in linears_of_block(architecture, block):
            try:
                linear(model, entry.name)
            except UnknownArchitectureError as lack:
                hint = "; call awq_core.separate_experts(model) first" if architecture.experts else ""
                raise UnknownArchitectureError(f"{lack}{hint}") from None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, for a while."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True
