"""The layer-level instrument's records, assembled into the datasets that `docs/datasets.md` describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from awq_core.layer_records import Record
from awq_core.measured import ALPHAS, JUDGED_BITS, SPLITS
from awq_core.mechanism import FACTORS, INVERSE_ALPHAS


def channels_dataset(sites: list[Record], records: list[Record]) -> xr.Dataset:
    """Dataset `channels`: moments of every site, and weight sizes of every linear, padded to the widest with NaN."""
    widest = max(len(record["weight_size"]) for record in records)
    names = list(sites[0]["values"][SPLITS[0]])

    def padded(values: Any) -> np.ndarray:
        array = np.asarray(values, dtype=np.float64)
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
    records: list[Record], quantizers: Sequence[str], bits: Sequence[int], choices: Sequence[str]
) -> xr.Dataset:
    """Dataset `errors`: output errors of every linear, and what was replayed group by group."""
    group_error = np.stack([r["group_error"] for r in records])
    return xr.Dataset(
        {
            "output_error": (
                ("linear", "quantizer", "bits", "alpha", "split"),
                np.stack([r["errors"] for r in records]),
            ),
            "row_share": (
                ("linear", "quantizer", "bits", "alpha", "split"),
                np.stack([r["row_share"] for r in records]),
            ),
            "group_error": (("linear", "quantizer", "judged_bits", "choice", "group"), group_error),
            "group_power": (("linear", "group"), np.stack([r["group_power"] for r in records])),
            **_mechanism_variables(records),
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


def _mechanism_variables(records: list[Record]) -> dict[str, Any]:
    dimensions = {
        "inverse_error": ("linear", "judged_bits", "inverse_alpha", "split"),
        "factor_error": ("linear", "judged_bits", "factor", "split"),
        "step_changed": ("linear", "factor"),
        "step_ratio": ("linear", "factor"),
        "uniform_changed": ("linear",),
    }
    return {name: (of, np.stack([record["mechanism"][name] for record in records])) for name, of in dimensions.items()}


def _linear_coordinates(records: list[Record]) -> dict[str, Any]:
    return {
        "linear": [record["name"] for record in records],
        "linear_block": ("linear", [record["block"] for record in records]),
        "linear_family": ("linear", [record["family"] for record in records]),
        "linear_site": ("linear", [_site_label(record["block"], record["site"]) for record in records]),
        "in_features": ("linear", [record["in_features"] for record in records]),
        "out_features": ("linear", [record["out_features"] for record in records]),
    }


def _site_label(block: int, name: str) -> str:
    return f"block {block} {name}"
