"""A small, plausible set of measurements, drawn at random and labelled as `docs/datasets.md` says.

No model is run: the numbers are shaped like a real model's (heavy tails at o and down, a few large channels,
an error that grows four-fold for each bit removed), so that reports and figures can be tested in milliseconds.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from awq_core.measure.layers.mechanism import FACTORS, INVERSE_ALPHAS
from awq_core.measure.methods.table import RANDOM_CHOICES
from awq_core.measured import ALPHAS, BITS, GROUPS, JUDGED_BITS, QUANTIZERS, SPLITS, TRAFFIC_KINDS, Measured
from awq_core.quantization.quantizers import DEPLOYED, DIAGNOSTIC

FAMILY_SITES = {
    "q": "attention_in",
    "k": "attention_in",
    "v": "attention_in",
    "o": "attention_out",
    "gate": "mlp_in",
    "up": "mlp_in",
    "down": "mlp_out",
}
ROLES = ("attention_in", "attention_out", "mlp_in", "mlp_out")
STRATEGY_COST = {
    "rtn": 1.0,
    "awq-constant-everywhere": 0.72,
    "awq-half": 0.75,
    "awq-linear": 0.7,
    "awq-block": 0.66,
    "awq-block-clip": 0.55,
    "gptq": 0.6,
    "gptq-order": 0.58,
    "keep-activation": 0.4,
    "keep-weight": 0.97,
    **{f"keep-random{choice}": 0.98 for choice in range(RANDOM_CHOICES)},
    "awq-block-few": 0.67,
    "awq-block-foreign": 0.7,
    "awq-block-matched": 0.66,
    "gptq-foreign": 0.9,
    "gptq-matched": 0.6,
}
"""What each strategy loses, as a share of what round-to-nearest loses."""


RECORDS = {
    "search": "{}",
    "cost": json.dumps(
        {
            f"{method}-{bits}": {"seconds": 2.0, "operations": 10**9}
            for method in ("awq-block", "awq-block-clip", "gptq")
            for bits in JUDGED_BITS
        }
    ),
    "folding": json.dumps(
        {
            "largest_difference": 1e-6,
            "tolerance": 1e-3,
            "dtype": "float32",
            "tokens": 2048,
            "modules_before": 72,
            "modules_changed": 0,
            "operations_changed": 0,
            "parameters_changed": 0,
            "foldable_linears": 30,
            "linears": 35,
        }
    ),
    "calibration_sequences": json.dumps({"own": 64, "few": 8, "foreign": 64}),
}
"""What a measurement keeps with its losses."""


def synthetic_measured(
    name: str = "synthetic-small",
    blocks: int = 5,
    width: int = 128,
    seed: int = 0,
    *,
    twins: int = 2,
    with_losses: bool = True,
    rtn_gap: float = 0.03,
) -> Measured:
    """Measurements of an invented model; `rtn_gap` is what 4-bit round-to-nearest costs it, in nats."""
    rng = np.random.default_rng(seed)
    channels = _channels(rng, blocks, width, learned=True)
    return Measured(
        name=name,
        family="synthetic",
        parameters=12 * blocks * width**2,
        channels=channels,
        errors=_errors(rng, channels, learned=True),
        losses=_losses(rng, rtn_gap) if with_losses else None,
        tokens={split: rng.integers(0, 500, size=(3, 64), dtype=np.int64) for split in SPLITS},
        provenance=_provenance(name, seed),
        traffic=synthetic_traffic(channels),
        twins=tuple(_twin(f"{name} untrained {index}", blocks, width, seed + 100 + index) for index in range(twins)),
    )


def _twin(name: str, blocks: int, width: int, seed: int) -> Measured:
    rng = np.random.default_rng(seed)
    channels = _channels(rng, blocks, width, learned=False)
    return Measured(
        name=name,
        family="synthetic",
        parameters=12 * blocks * width**2,
        channels=channels,
        errors=_errors(rng, channels, learned=False),
        losses=None,
        tokens={},
        provenance=_provenance(name, seed),
    )


def _provenance(name: str, seed: int) -> dict[str, Any]:
    return {
        "model_id": f"invented/{name}",
        "revision": "0123abc",
        "dtype": "float32",
        "device": "cpu",
        "effort": "quick",
        "seed": seed,
        "tokens": {"calibration": "aa11", "heldout": "bb22"},
        "seconds": 1.5,
    }


def _channels(rng: np.random.Generator, blocks: int, width: int, *, learned: bool) -> xr.Dataset:
    sites = [(block, role) for block in range(blocks) for role in ROLES]
    widths = np.array([2 * width if role == "mlp_out" else width for _, role in sites])
    widest = int(widths.max())
    shape = (len(SPLITS), len(sites), widest)
    outside = np.arange(widest)[None, :] >= widths[:, None]

    # Log-normal sizes with a few channels that training made far larger.
    magnitude = np.exp(rng.normal(0, 0.45 if learned else 0.1, size=shape[1:]))
    if learned:
        for index in range(len(sites)):
            large = rng.choice(widths[index], size=2, replace=False)
            magnitude[index, large] *= rng.uniform(4, 12, size=2)
    magnitude = magnitude * np.exp(rng.normal(0, 0.03, size=shape))
    heavy = np.array([role in ("attention_out", "mlp_out") for _, role in sites])
    tail = np.where(heavy, 4.0 if learned else 2.5, 0.1)
    kurtosis = tail[None, :, None] * rng.gamma(2.0, 0.5, size=shape) - 0.15
    variance = (1.4 * magnitude) ** 2

    linears = [(block, family) for block in range(blocks) for family in FAMILY_SITES]
    names = [_linear_name(block, family) for block, family in linears]
    site_labels = [f"{block}.{role}" for block, role in sites]
    linear_sites = [f"{block}.{FAMILY_SITES[family]}" for block, family in linears]
    in_features = widths[[site_labels.index(label) for label in linear_sites]]
    weight_size = 0.02 * np.exp(rng.normal(0, 0.2, size=(len(linears), widest)))
    weight_size[np.arange(widest)[None, :] >= in_features[:, None]] = np.nan
    for values in (magnitude, kurtosis, variance):
        values[:, outside] = np.nan
    return xr.Dataset(
        {
            "magnitude": (("split", "site", "channel"), magnitude),
            "mean": (("split", "site", "channel"), 0.05 * magnitude),
            "variance": (("split", "site", "channel"), variance),
            "excess_kurtosis": (("split", "site", "channel"), kurtosis),
            "max_abs": (("split", "site", "channel"), 9 * magnitude),
            "outlier_ratio": (("split", "site", "channel"), np.where(outside, np.nan, 1e-4 * np.maximum(kurtosis, 0))),
            "weight_size": (("linear", "channel"), weight_size),
            "kurtosis_without_group": (
                ("site", "group"),
                np.nanmean(kurtosis[1], axis=1)[:, None] + rng.normal(0, 0.02, size=(len(sites), GROUPS)),
            ),
            "enrichment_without_group": (("linear", "group"), rng.uniform(2, 6, size=(len(linears), GROUPS))),
        },
        coords={
            "split": list(SPLITS),
            "site": site_labels,
            "site_block": ("site", [block for block, _ in sites]),
            "site_role": ("site", [role for _, role in sites]),
            "site_width": ("site", widths),
            "channel": np.arange(widest),
            "linear": names,
            **_linear_coordinates(linears, linear_sites, in_features, width),
            "group": np.arange(GROUPS),
        },
    )


def _linear_name(block: int, family: str) -> str:
    room = "self_attn" if family in ("q", "k", "v", "o") else "mlp"
    return f"model.layers.{block}.{room}.{family}_proj"


def _linear_coordinates(
    linears: list[tuple[int, str]], sites: list[str], in_features: np.ndarray, width: int
) -> dict[str, Any]:
    return {
        "linear_block": ("linear", [block for block, _ in linears]),
        "linear_family": ("linear", [family for _, family in linears]),
        "linear_site": ("linear", sites),
        "in_features": ("linear", in_features),
        "out_features": ("linear", [2 * width if family in ("gate", "up") else width for _, family in linears]),
    }


def _errors(rng: np.random.Generator, channels: xr.Dataset, *, learned: bool) -> xr.Dataset:
    count = channels.sizes["linear"]
    heavy = np.isin(channels["linear_family"].values, ("o", "down"))
    bits = np.array(BITS)
    alphas = np.array(ALPHAS)
    # Round-to-nearest: four times the error for each bit removed.
    rtn = 0.08 * np.exp(rng.normal(0, 0.3, size=count))[:, None] * 4.0 ** (3 - bits)[None, :]
    gain = np.where(heavy, 1.9, 1.25) if learned else np.full(count, 1.03)
    gain = 1 + (gain - 1) * rng.uniform(0.4, 1.6, size=count)
    best = rng.uniform(0.2, 0.6, size=count)
    valley = (alphas[None, :] - best[:, None]) ** 2 / best[:, None] ** 2
    curve = np.exp(np.log(gain)[:, None] * (np.minimum(valley, 6) - 1))
    curve = curve / curve[:, :1]
    error = rtn[:, None, :, None, None] * curve[:, None, None, :, None]
    error = np.broadcast_to(error, (count, len(QUANTIZERS), len(BITS), len(ALPHAS), len(SPLITS))).copy()
    error[:, QUANTIZERS.index(DIAGNOSTIC)] *= 1.6
    error *= np.exp(rng.normal(0, 0.01, size=error.shape))
    group_error = (
        error[:, :, [BITS.index(b) for b in JUDGED_BITS], 0, 1][..., None, None] * np.array([1.0, 0.8])[:, None]
    )
    return xr.Dataset(
        {
            "output_error": (("linear", "quantizer", "bits", "alpha", "split"), error),
            "group_error": (
                ("linear", "quantizer", "judged_bits", "choice", "group"),
                np.broadcast_to(group_error, (*group_error.shape[:-1], GROUPS)) / GROUPS,
            ),
            "group_power": (("linear", "group"), np.full((count, GROUPS), 1.0 / GROUPS)),
            **_mechanism(error),
        },
        coords={
            "linear": channels["linear"].values,
            **{
                name: ("linear", channels[name].values)
                for name in ("linear_block", "linear_family", "linear_site", "in_features", "out_features")
            },
            "quantizer": [quantizer.name for quantizer in QUANTIZERS],
            "bits": bits,
            "alpha": alphas,
            "split": list(SPLITS),
            "judged_bits": list(JUDGED_BITS),
            "choice": ["rtn", "best"],
            "group": np.arange(GROUPS),
            "inverse_alpha": list(INVERSE_ALPHAS),
            "factor": list(FACTORS),
        },
    )


def _mechanism(error: np.ndarray) -> dict[str, Any]:
    """Scaling down hurts the more the farther; of the factors, 1.5 is the best."""
    judged = error[:, QUANTIZERS.index(DEPLOYED)][:, [BITS.index(bits) for bits in JUDGED_BITS]]
    rtn = judged[:, :, 0, None, :]  # (linear, judged_bits, 1, split)
    changed = np.array([0.0, 0.03, 0.05, 0.1, 0.3])
    return {
        "inverse_error": (
            ("linear", "judged_bits", "inverse_alpha", "split"),
            rtn * (1 + np.array(INVERSE_ALPHAS))[:, None],
        ),
        "factor_error": (
            ("linear", "judged_bits", "factor", "split"),
            rtn * np.array([1.0, 0.9, 0.8, 0.85, 1.2])[:, None],
        ),
        "step_changed": (("linear", "factor"), np.tile(changed, (len(error), 1))),
        "step_ratio": (("linear", "factor"), np.tile(1 + changed / 3, (len(error), 1))),
        "uniform_changed": (("linear",), np.zeros(len(error), dtype=int)),
    }


def synthetic_traffic(channels: xr.Dataset) -> xr.Dataset:
    """The same channels are large under every kind of traffic, and the usual calibration halves the error."""
    linears, kinds = channels.sizes["linear"], len(TRAFFIC_KINDS)
    errors = np.broadcast_to(np.array([0.08, 0.04, 0.035]), (kinds, linears, len(JUDGED_BITS), 3))
    magnitude = channels["magnitude"].sel(split="heldout").transpose("site", "channel").values
    names = ("linear_block", "linear_family", "linear_site")
    return xr.Dataset(
        {
            "kind_error": (("kind", "linear", "judged_bits", "calibrated_on"), errors.copy()),
            "kind_magnitude": (("kind", "site", "channel"), np.stack([magnitude] * kinds)),
            "random_error": (("linear", "judged_bits"), np.full((linears, len(JUDGED_BITS)), 0.06)),
            "usual_error": (("linear", "judged_bits"), np.full((linears, len(JUDGED_BITS)), 0.04)),
        },
        {
            "kind": list(TRAFFIC_KINDS),
            "linear": channels["linear"].values,
            "judged_bits": list(JUDGED_BITS),
            "calibrated_on": ["rtn", "usual", "own"],
            "site": channels["site"].values,
            **{name: ("linear", channels[name].values) for name in names},
            **{name: ("site", channels[name].values) for name in ("site_block", "site_role", "site_width")},
        },
    )


def _losses(rng: np.random.Generator, rtn_gap: float, windows: int = 24) -> xr.Dataset:
    full = rng.normal(2.7, 0.25, size=windows)
    strategies, methods, bits, rows = ["full"], ["full"], [0], [full]
    for precision in JUDGED_BITS:
        cost = rtn_gap * (5.0 if precision == 3 else 1.0)
        for method, share in STRATEGY_COST.items():
            strategies.append(f"{method}-{precision}")
            methods.append(method)
            bits.append(precision)
            rows.append(full + cost * share + rng.normal(0, 0.15 * cost, size=windows))
    strategies.append("rtn-2")
    methods.append("rtn")
    bits.append(2)
    rows.append(full + 30 * rtn_gap + rng.normal(0, rtn_gap, size=windows))
    loss = np.array(rows)
    return xr.Dataset(
        {
            "window_loss": (("strategy", "window"), loss),
            "window_kl": (("strategy", "window"), np.abs(loss - full[None, :])),
        },
        coords={
            "strategy": strategies,
            "strategy_method": ("strategy", methods),
            "strategy_bits": ("strategy", bits),
            "strategy_deploys": ("strategy", [1 if m in ("full", "rtn", "awq-block") else 0 for m in methods]),
            "strategy_needs": ("strategy", ["" if m in ("full", "rtn", "awq-block") else "something" for m in methods]),
            "window": np.arange(windows),
        },
        attrs=RECORDS,
    )
