"""`diagnostic.json`: the per-layer record with AWQ-Diag's field names, so that the two can be held against each other.

AWQ-Diag reads everything on the tokens it calibrates on, with one symmetric step per output row; under its names so
do we. Beside them stand the figures that the claims are judged on, under names that say what they are: `heldout_...`
is measured on tokens that chose nothing, `asym_g128_...` with the deployed quantizer, under its name.
`top1pct_importance_share` is in percent, as there; `hidden_dim` is the number of input channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from awq_core.judging import metrics as readings
from awq_core.measured import Measured
from awq_core.quantization.quantizers import DIAGNOSTIC
from reports.evidence_file import json_bytes
from reports.linears import Array, Linears
from reports.writing import write_whole

REPORTED_BITS = 3
"""AWQ-Diag's `awq_report_bit`."""
OUTLIER_SIGMA = 6.0
SPLIT_PREFIXES = {"calibration": "", "heldout": "heldout_"}


def diagnostic(measured: Measured) -> dict[str, Any]:
    """The whole record as plain values."""
    linears = Linears(measured)
    return {
        "model": measured.provenance.get("model_id", measured.name),
        "config": _config(measured),
        "model_info": _model_info(measured, linears),
        "summary": _summary(measured, linears),
        "layers": _layers(measured, linears),
    }


def write_diagnostic(path: Path, measured: Measured) -> None:
    """Write the record, whole or not at all."""
    write_whole(path, json_bytes(diagnostic(measured)))


def _config(measured: Measured) -> dict[str, Any]:
    calibration = measured.tokens.get("calibration")
    return {
        "bit_widths": sorted((int(bits) for bits in measured.errors["bits"].values), reverse=True),
        "num_calibration_samples": None if calibration is None else int(calibration.shape[0]),
        "max_calibration_length": None if calibration is None else int(calibration.shape[1]),
        "outlier_sigma": OUTLIER_SIGMA,
        "awq_report_bit": REPORTED_BITS,
        "seed": measured.provenance.get("seed"),
    }


def _model_info(measured: Measured, linears: Linears) -> dict[str, Any]:
    # The attention's input is as wide as the residual stream; the MLP's output layer reads its inner width.
    widths = dict(
        zip(measured.channels["site_role"].values.tolist(), measured.channels["site_width"].values, strict=True)
    )
    return {
        "num_params": measured.parameters,
        "num_layers": len(np.unique(linears.blocks)),
        "hidden_size": int(widths["attention_in"]) if "attention_in" in widths else None,
        "intermediate_size": int(widths["mlp_out"]) if "mlp_out" in widths else None,
        "num_linear_analyzed": len(linears.names),
    }


def _summary(measured: Measured, linears: Linears) -> dict[str, Any]:
    kurtosis = linears.kurtosis("calibration")
    reduction = linears.reduction(DIAGNOSTIC.name, REPORTED_BITS, "calibration")
    highest = int(np.argmax(kurtosis))
    kinds = np.array([module_type(name) for name in linears.names])
    share = 100 * linears.top_share("calibration")
    error = linears.error(DIAGNOSTIC.name, REPORTED_BITS, "calibration")
    outlier_ratio = readings.outlier_ratio(measured, "calibration").values
    return {
        "per_bit_median_output_error": {
            str(bits): float(np.median(linears.error(DIAGNOSTIC.name, int(bits), "calibration")))
            for bits in sorted(measured.errors["bits"].values, reverse=True)
        },
        "top_kurtosis_layer": {"name": linears.names[highest], "mean_kurtosis": float(kurtosis[highest])},
        "module_family": {
            kind: {
                "count": int((kinds == kind).sum()),
                "mean_kurtosis": float(kurtosis[kinds == kind].mean()),
                "mean_top1pct_importance_share": float(share[kinds == kind].mean()),
                "mean_3bit_output_error": float(error[kinds == kind].mean()),
                "mean_awq_reduction_3bit": float(reduction[kinds == kind].mean()),
            }
            for kind in dict.fromkeys(kinds.tolist())
        },
        "correlations": {
            "kurtosis_vs_awq_reduction_spearman": _spearman(kurtosis, reduction),
            "outlier_ratio_vs_awq_reduction_spearman": _spearman(outlier_ratio, reduction),
        },
        "awq_reduction_3bit": {
            "min": float(reduction.min()),
            "median": float(np.median(reduction)),
            "mean": float(reduction.mean()),
            "max": float(reduction.max()),
        },
    }


def module_type(name: str) -> str:
    """The last part of a linear's name, which is what AWQ-Diag calls its type: `q_proj`."""
    return name.rpartition(".")[2]


def _largest_kurtosis(measured: Measured, split: str) -> Array:
    """The largest channel's excess kurtosis at each linear's input."""
    channels = measured.channels
    largest = channels["excess_kurtosis"].sel(split=split).max("channel", skipna=True)
    return largest.sel(site=channels["linear_site"]).values


def _spearman(first: Array, second: Array) -> list[float] | None:
    """Spearman's rho and its p value, or None where one side does not vary and there is no rank to speak of."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    rho, p_value = spearmanr(first, second)
    return [float(rho), float(p_value)]


def _layers(measured: Measured, linears: Linears) -> dict[str, dict[str, Any]]:
    layers: dict[str, dict[str, Any]] = {
        name: {
            "module_type": module_type(name),
            "layer_idx": int(linears.blocks[index]),
            "hidden_dim": int(linears.widths[index]),
        }
        for index, name in enumerate(linears.names)
    }

    def put(field: str, values: Array) -> None:
        for record, value in zip(layers.values(), values, strict=True):
            record[field] = _finite(value)

    def put_by_bits(field: str, by_bits: dict[str, Array]) -> None:
        for index, record in enumerate(layers.values()):
            record[field] = {bits: _finite(values[index]) for bits, values in by_bits.items()}

    for split, prefix in SPLIT_PREFIXES.items():
        put(f"{prefix}mean_kurtosis", linears.kurtosis(split))
        put(f"{prefix}max_kurtosis", _largest_kurtosis(measured, split))
        put(f"{prefix}mean_outlier_ratio", readings.outlier_ratio(measured, split).values)
        put(f"{prefix}top1pct_importance_share", 100 * linears.top_share(split))
    precisions = sorted((int(bits) for bits in measured.errors["bits"].values), reverse=True)
    prefixes = {DIAGNOSTIC.name: "", linears.deployed: f"{linears.deployed.replace('-', '_')}_"}
    for quantizer, quantizer_prefix in prefixes.items():
        for split, split_prefix in SPLIT_PREFIXES.items():
            prefix = split_prefix + quantizer_prefix
            put_by_bits(f"{prefix}output_error", {str(b): linears.error(quantizer, b, split) for b in precisions})
            put_by_bits(
                f"{prefix}awq_output_error", {str(b): linears.awq_error(quantizer, b, split) for b in precisions}
            )
            put(f"{prefix}awq_reduction_3bit", linears.reduction(quantizer, REPORTED_BITS, split))
        # Alphas are chosen on calibration tokens only, so they have no held-out counterpart.
        put_by_bits(f"{quantizer_prefix}awq_best_alpha", {str(b): linears.best_alpha(quantizer, b) for b in precisions})
    return layers


def _finite(value: float) -> float | None:
    """A plain float; None where the value was not measured (JSON has no NaN)."""
    return float(value) if np.isfinite(value) else None
