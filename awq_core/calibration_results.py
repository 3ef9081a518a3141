"""What calibrating found, of one block or of a whole model; a block's part as plain arrays and back."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from awq_core.architecture import Architecture
from awq_core.block_search import FoundScale
from awq_core.coded_weights import CodedWeight, CodedWeights
from awq_core.kept_blocks import Arrays


@dataclass
class CalibrationCost:
    """What calibrating with one method took, over all blocks and precisions.

    Attributes:
        seconds: wall-clock time, without gathering the second moments, which all share.
        operations: floating-point operations of its matrix products, by count.
    """

    seconds: float = 0.0
    operations: int = 0


@dataclass
class Calibrated:
    """Everything that calibrating found.

    Attributes:
        scales: by method and bits, the found scales of all blocks in order.
        limits: by bits and linear, the clip limits `(out, groups)` of the folded weights.
        weights: by method and bits, GPTQ's weights `(out, in)` by linear, kept as codes.
        costs: by method.
    """

    scales: dict[tuple[str, int], list[FoundScale]] = field(default_factory=dict)
    limits: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    weights: dict[tuple[str, int], CodedWeights] = field(default_factory=dict)
    costs: dict[str, CalibrationCost] = field(default_factory=dict)

    def only(self, methods: tuple[str, ...]) -> Calibrated:
        """The part that some methods found, without their clip limits."""
        return Calibrated(
            {key: value for key, value in self.scales.items() if key[0] in methods},
            {},
            {key: value for key, value in self.weights.items() if key[0] in methods},
        )

    def add(self, found: Calibrated) -> None:
        """Add what was found of a further block."""
        for key, scales in found.scales.items():
            self.scales.setdefault(key, []).extend(scales)
        for bits, limits in found.limits.items():
            self.limits.setdefault(bits, {}).update(limits)
        for key, weights in found.weights.items():
            self.weights.setdefault(key, CodedWeights()).coded.update(weights.coded)
        for method, cost in found.costs.items():
            total = self.costs.setdefault(method, CalibrationCost())
            total.seconds += cost.seconds
            total.operations += cost.operations

    @contextmanager
    def timed(self, method: str, device: torch.device) -> Iterator[CalibrationCost]:
        """Add the time spent inside to a method's cost."""
        cost = self.costs.setdefault(method, CalibrationCost())
        _wait(device)
        began = time.perf_counter()
        yield cost
        _wait(device)
        cost.seconds += time.perf_counter() - began


def block_arrays(found: Calibrated) -> Arrays:
    """One block's results as plain arrays, from which `restored_block` has them back to the last bit.

    Names are paths, such as `scales/awq-block/3/mlp_in/alpha`; an array of text at a path says what is below it.
    """
    arrays: Arrays = {}
    for (method, bits), entries in found.scales.items():
        top = f"scales/{method}/{bits}"
        arrays[top] = _names(entry.fold.name for entry in entries)
        for entry in entries:
            path = f"{top}/{entry.fold.name}"
            for part in ("alpha", "losses", "tried"):
                arrays[f"{path}/{part}"] = np.array(getattr(entry, part), dtype=np.float64)
            _write_tensor(arrays, f"{path}/scales", entry.scales)
    for bits, limits in found.limits.items():
        arrays[f"limits/{bits}"] = _names(limits)
        for name, limit in limits.items():
            _write_tensor(arrays, f"limits/{bits}/{name}", limit)
    for (method, bits), weights in found.weights.items():
        top = f"weights/{method}/{bits}"
        arrays[top] = _names(weights)
        for name, coded in weights.coded.items():
            for part in ("codes", "steps", "zero_points"):
                _write_tensor(arrays, f"{top}/{name}/{part}", getattr(coded, part))
            arrays[f"{top}/{name}/packed"] = np.array(coded.packed)
            arrays[f"{top}/{name}/dtype"] = np.array(str(coded.dtype))
    for method, cost in found.costs.items():
        arrays[f"costs/{method}"] = np.array(cost.seconds)
        arrays[f"costs/{method}/operations"] = np.array(cost.operations, dtype=np.int64)
    return arrays


def restored_block(
    arrays: Arrays, architecture: Architecture, block: int, device: torch.device | str = "cpu"
) -> Calibrated:
    """One block's results from `block_arrays`.

    Args:
        arrays: from `block_arrays`.
        architecture: of the model.
        block: index of the block.
        device: of the block's weights.
    """
    found = Calibrated()
    folds = {fold.name: fold for fold in architecture.folds}
    for path, array in arrays.items():
        match path.split("/"):
            case ["scales", method, bits]:
                found.scales[method, int(bits)] = [
                    FoundScale(
                        block,
                        folds[name],
                        float(arrays[f"{path}/{name}/alpha"]),
                        _read_tensor(arrays, f"{path}/{name}/scales").to(device),
                        tuple(arrays[f"{path}/{name}/losses"].tolist()),
                        tuple(arrays[f"{path}/{name}/tried"].tolist()),
                    )
                    for name in array.tolist()
                ]
            case ["limits", bits]:
                found.limits[int(bits)] = {
                    name: _read_tensor(arrays, f"{path}/{name}").to(device) for name in array.tolist()
                }
            case ["weights", method, bits]:
                weights = found.weights[method, int(bits)] = CodedWeights()
                for name in array.tolist():
                    codes, steps, zero_points = (
                        _read_tensor(arrays, f"{path}/{name}/{part}") for part in ("codes", "steps", "zero_points")
                    )
                    packed, dtype = bool(arrays[f"{path}/{name}/packed"]), _dtype(str(arrays[f"{path}/{name}/dtype"]))
                    weights.coded[name] = CodedWeight(codes, steps, zero_points, packed, dtype)
            case ["costs", method]:
                found.costs[method] = CalibrationCost(float(array), int(arrays[f"{path}/operations"]))
    return found


def _names(names: Iterable[str]) -> np.ndarray:
    return np.array(list(names), dtype=np.str_)


def _write_tensor(arrays: Arrays, path: str, tensor: Tensor) -> None:
    """numpy has no bfloat16: its bits are written as whole numbers, and the dtype beside them."""
    plain = tensor.detach().cpu().contiguous()
    arrays[path] = (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy()
    arrays[f"{path}/dtype"] = np.array(str(tensor.dtype))


def _read_tensor(arrays: Arrays, path: str) -> Tensor:
    return torch.from_numpy(np.array(arrays[path])).view(_dtype(str(arrays[f"{path}/dtype"])))


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name.removeprefix("torch."))
    assert isinstance(found, torch.dtype)
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
