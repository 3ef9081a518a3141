"""The layer-level instrument's records, assembled into the datasets that `docs/datasets.md` describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from awq_core.measured import ALPHAS, JUDGED_BITS, SPLITS
from awq_core.mechanism import FACTORS, INVERSE_ALPHAS, Mechanism
from awq_core.sources import LinearWeights


def channels_dataset(sites: list[dict[str, Any]], records: list[dict[str, Any]]) -> xr.Dataset:
    """Dataset `channels`: moments of every site, and weight sizes of every linear, padded to the widest with NaN."""
    widest = max(len(record["weight_size"]) for record in records)
    names = list(sites[0]["values"][SPLITS[0]])

    def padded(values: Any) -> np.ndarray:
        array = np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
        return np.pad(array, (0, widest - len(array)), constant_values=np.nan)

    data: dict[str, Any] = {
        name: (
            ("split", "site", "channel"),
            np.stack([[padded(site["values"][split][name]) for site in sites] for split in SPLITS]),
        )
        for name in names
    }
    data["weight_size"] = (("linear", "channel"), np.stack([padded(record["weight_size"]) for record in records]))
    data["kurtosis_without_group"] = (("site", "group"), np.array([s["kurtosis_without_group"] for s in sites]))
    data["enrichment_without_group"] = (("linear", "group"), np.array([r["enrichment_without_group"] for r in records]))
    coordinates = {
        "split": list(SPLITS),
        "site": [_site_label(site["block"], site["name"]) for site in sites],
        "site_block": ("site", [site["block"] for site in sites]),
        "site_role": ("site", [site["role"] for site in sites]),
        "site_width": ("site", [len(site["values"]["heldout"]["magnitude"]) for site in sites]),
        **_linear_coordinates(records),
    }
    return xr.Dataset(data, coordinates)


def errors_dataset(
    records: list[dict[str, Any]], quantizers: Sequence[str], bits: Sequence[int], choices: Sequence[str]
) -> xr.Dataset:
    """Dataset `errors`: output errors of every linear, and what was replayed group by group."""
    group_error = np.stack([r["group_error"] for r in records])
    return xr.Dataset(
        {
            "output_error": (
                ("linear", "quantizer", "bits", "alpha", "split"),
                np.stack([r["errors"] for r in records]),
            ),
            "group_error": (("linear", "quantizer", "judged_bits", "choice", "group"), group_error),
            "group_power": (("linear", "group"), np.stack([r["group_power"] for r in records])),
            **_mechanism_variables([r["mechanism"] for r in records]),
        },
        {
            "quantizer": list(quantizers),
            "bits": list(bits),
            "alpha": list(ALPHAS),
            "split": list(SPLITS),
            "judged_bits": list(JUDGED_BITS),
            "choice": list(choices),
            "inverse_alpha": list(INVERSE_ALPHAS),
            "factor": list(FACTORS),
            **_linear_coordinates(records),
        },
    )


def _mechanism_variables(found: list[Mechanism]) -> dict[str, Any]:
    return {
        "inverse_error": (
            ("linear", "judged_bits", "inverse_alpha", "split"),
            np.stack([entry.inverse_error for entry in found]),
        ),
        "factor_error": (
            ("linear", "judged_bits", "factor", "split"),
            np.stack([entry.factor_error for entry in found]),
        ),
        "step_changed": (("linear", "factor"), np.stack([entry.step_changed for entry in found])),
        "step_ratio": (("linear", "factor"), np.stack([entry.step_ratio for entry in found])),
        "uniform_changed": (("linear",), np.array([entry.uniform_changed for entry in found])),
    }


def _linear_coordinates(records: list[dict[str, Any]]) -> dict[str, Any]:
    entries: list[LinearWeights] = [record["entry"] for record in records]
    return {
        "linear": [entry.name for entry in entries],
        "linear_block": ("linear", [entry.block for entry in entries]),
        "linear_family": ("linear", [entry.family for entry in entries]),
        "linear_site": ("linear", [_site_label(entry.block, entry.site) for entry in entries]),
        "in_features": ("linear", [entry.weight.shape[1] for entry in entries]),
        "out_features": ("linear", [entry.weight.shape[0] for entry in entries]),
    }


def _site_label(block: int, name: str) -> str:
    return f"block {block} {name}"
