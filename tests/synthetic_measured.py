"""A small, plausible set of measurements, drawn at random and labelled as `docs/datasets.md` says.

No model is run: the numbers are shaped like a real model's (heavy tails at o and down, a few large channels,
an error that grows four-fold for each bit removed), so that reports and figures can be tested in milliseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from awq_core.measured import ALPHAS, BITS, GROUPS, JUDGED_BITS, QUANTIZERS, SPLITS, Measured

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
STRATEGY_COST = {"rtn": 1.0, "awq-constant": 0.72, "awq-half": 0.75, "awq-linear": 0.7, "awq-block": 0.66}
"""What each strategy loses, as a share of what round-to-nearest loses."""


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
    error[:, QUANTIZERS.index("sym-channel")] *= 1.6
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
        },
        coords={
            "linear": channels["linear"].values,
            **{
                name: ("linear", channels[name].values)
                for name in ("linear_block", "linear_family", "linear_site", "in_features", "out_features")
            },
            "quantizer": list(QUANTIZERS),
            "bits": bits,
            "alpha": alphas,
            "split": list(SPLITS),
            "judged_bits": list(JUDGED_BITS),
            "choice": ["rtn", "best"],
            "group": np.arange(GROUPS),
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
            "window": np.arange(windows),
        },
        attrs={"search": "{}"},
    )
