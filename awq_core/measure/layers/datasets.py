"""Layer-level datasets (`docs/datasets.md`), the records from which they are built, and best exponents.

A block's records convert to plain arrays, which checkpoints store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from awq_core.measure.checkpoints import Arrays
from awq_core.measure.layers.mechanism import FACTORS, INVERSE_ALPHAS
from awq_core.measured import ALPHAS, JUDGED_BITS, SPLITS


def channels_dataset(sites: list[Record], records: list[Record]) -> xr.Dataset:
    """Build the dataset `channels`: channel moments of all sites and weight sizes of all linears.

    Channels beyond a site's or linear's width are NaN.
    """
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
    """Build the dataset `errors`: output errors of all linears, in total and by group of held-out windows.

    Args:
        records: one for each linear.
        quantizers: quantizers of the errors.
        bits: precisions of the errors.
        choices: labels of the exponents whose errors are known by group.
    """
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


Record = dict[str, Any]
"""Results of one site or one linear by name: numbers, text, arrays, or records of these."""


def to_arrays(sites: list[Record], linears: list[Record]) -> Arrays:
    """Convert a block's records to arrays by path, such as `linears/3/errors`; `from_arrays` is the exact inverse."""
    flat: Arrays = {}
    for kind, records in (("sites", sites), ("linears", linears)):
        for index, record in enumerate(records):
            _flatten(record, f"{kind}/{index}", flat)
    return flat


def from_arrays(arrays: Arrays) -> tuple[list[Record], list[Record]]:
    """Convert arrays of `to_arrays` back to records `(sites, linears)`."""
    found: dict[str, dict[int, Record]] = {"sites": {}, "linears": {}}
    for name, values in arrays.items():
        kind, index, *path, last = name.split("/")
        record = found[kind].setdefault(int(index), {})
        for step in path:
            record = record.setdefault(step, {})
        record[last] = values if values.ndim else values.item()
    return tuple([records[index] for index in sorted(records)] for records in found.values())  # type: ignore[return-value]


def _flatten(record: Record, prefix: str, flat: Arrays) -> None:
    for name, value in record.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}/{name}", flat)
        else:
            flat[f"{prefix}/{name}"] = np.asarray(value.cpu() if isinstance(value, Tensor) else value)


def best_alpha(errors: xr.Dataset, quantizer: str, bits: int) -> xr.DataArray:
    """Find each linear's exponent with the least calibration error, `(linear,)`; a tie goes to the smaller one."""
    calibration = errors["output_error"].sel(quantizer=quantizer, bits=bits, split="calibration")
    return calibration["alpha"].isel(alpha=calibration.argmin("alpha")).drop_vars("alpha")


def constant_alpha(errors: xr.Dataset, quantizer: str, bits: int) -> float:
    """Find the single exponent that minimises the calibration error summed over linears."""
    calibration = errors["output_error"].sel(quantizer=quantizer, bits=bits, split="calibration")
    return float(calibration["alpha"][int(calibration.sum("linear").argmin("alpha"))])
