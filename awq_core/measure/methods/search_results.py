"""Results of a search in one block, and their conversion to plain arrays and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from awq_core.architectures.model import Architecture
from awq_core.measure.checkpoints import Arrays
from awq_core.measure.methods.scale_search import FoundScale
from awq_core.quantization.codes import CodedWeight


@dataclass
class SearchResults:
    """Results of one method's search in one block, at one precision, on one text set.

    Attributes:
        scales: scales of the groups that fold.
        sites: scales `(width,)` by site, for a method with scales at every site.
        limits: clip limits `(out, groups)` by linear.
        weights: quantized weights as codes, by linear.
        seconds: wall-clock time of the search, in seconds.
        operations: number of floating-point operations in the matrix products of the published search: for AWQ with
            every exponent on every token, for GPTQ including second moments.
    """

    scales: list[FoundScale] = field(default_factory=list)
    sites: dict[str, Tensor] = field(default_factory=dict)
    limits: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, CodedWeight] = field(default_factory=dict)
    seconds: float = 0.0
    operations: int = 0


def to_arrays(found: SearchResults) -> Arrays:
    """Convert results to plain arrays, from which `from_arrays` restores them bit for bit.

    Names are paths, such as `scales/mlp_in/alpha`; an array of text at a path lists the names below it.
    """
    arrays: Arrays = {"seconds": np.array(found.seconds), "operations": np.array(found.operations, dtype=np.int64)}
    arrays["scales"] = _names(entry.fold.name for entry in found.scales)
    for entry in found.scales:
        path = f"scales/{entry.fold.name}"
        for part in ("alpha", "losses", "tried"):
            arrays[f"{path}/{part}"] = np.array(getattr(entry, part), dtype=np.float64)
        _write(arrays, f"{path}/scales", entry.scales)
        _write(arrays, f"{path}/magnitude", entry.magnitude)
    for kind, tensors in (("sites", found.sites), ("limits", found.limits)):
        arrays[kind] = _names(tensors)
        for name, tensor in tensors.items():
            _write(arrays, f"{kind}/{name}", tensor)
    arrays["weights"] = _names(found.weights)
    for name, coded in found.weights.items():
        for part in ("codes", "steps", "zero_points"):
            _write(arrays, f"weights/{name}/{part}", getattr(coded, part))
        arrays[f"weights/{name}/packed"] = np.array(coded.packed)
        arrays[f"weights/{name}/dtype"] = np.array(str(coded.dtype))
    return arrays


def from_arrays(
    arrays: Arrays, architecture: Architecture, block: int, device: torch.device | str = "cpu"
) -> SearchResults:
    """Restore results from plain arrays.

    Args:
        arrays: arrays from `to_arrays`.
        architecture: architecture of the model.
        block: index of the block.
        device: device of scales and limits; codes stay in host memory.
    """
    folds = {fold.name: fold for fold in architecture.folds}
    found = SearchResults(seconds=float(arrays["seconds"]), operations=int(arrays["operations"]))
    for name in arrays["scales"].tolist():
        path = f"scales/{name}"
        found.scales.append(
            FoundScale(
                block,
                folds[name],
                float(arrays[f"{path}/alpha"]),
                _read(arrays, f"{path}/scales").to(device),
                tuple(arrays[f"{path}/losses"].tolist()),
                tuple(arrays[f"{path}/tried"].tolist()),
                _read(arrays, f"{path}/magnitude").to(device),
            )
        )
    for kind, tensors in (("sites", found.sites), ("limits", found.limits)):
        for name in arrays[kind].tolist():
            tensors[name] = _read(arrays, f"{kind}/{name}").to(device)
    for name in arrays["weights"].tolist():
        path = f"weights/{name}"
        codes, steps, zero_points = (_read(arrays, f"{path}/{part}") for part in ("codes", "steps", "zero_points"))
        packed, dtype = bool(arrays[f"{path}/packed"]), _dtype(str(arrays[f"{path}/dtype"]))
        found.weights[name] = CodedWeight(codes, steps, zero_points, packed, dtype)
    return found


def _names(names: Iterable[str]) -> np.ndarray:
    return np.array(list(names), dtype=np.str_)


def _write(arrays: Arrays, path: str, tensor: Tensor) -> None:
    """Write a tensor and its dtype; bfloat16, which numpy lacks, is written as 16-bit integers."""
    plain = tensor.detach().cpu().contiguous()
    arrays[path] = (plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain).numpy()
    arrays[f"{path}/dtype"] = np.array(str(tensor.dtype))


def _read(arrays: Arrays, path: str) -> Tensor:
    return torch.from_numpy(np.array(arrays[path])).view(_dtype(str(arrays[f"{path}/dtype"])))


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name.removeprefix("torch."))
    assert isinstance(found, torch.dtype)
    return found
