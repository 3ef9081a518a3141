"""Measurements made by hand: all alike, for a test to write its effect into, or drawn in a real model's shape.

They are labelled as `docs/datasets.md` says. No model is run: claims, reports and figures are tested in milliseconds.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from awq_core.measure.layers.mechanism import FACTORS, INVERSE_ALPHAS
from awq_core.measure.methods.table import RANDOM_CHOICES
from awq_core.measured import ALPHAS, BITS, GROUPS, JUDGED_BITS, QUANTIZERS, SPLITS, TRAFFIC_KINDS, Measured

ROLE_OF = dict.fromkeys(("q", "k", "v"), "attention_in") | {"o": "attention_out"}
ROLE_OF |= {"gate": "mlp_in", "up": "mlp_in", "down": "mlp_out"}
ROLES = ("attention_in", "attention_out", "mlp_in", "mlp_out")
WIDTHS = {"attention_in": 64, "attention_out": 64, "mlp_in": 64, "mlp_out": 200}
WINDOWS = 16
STRATEGY_COST = {
    "rtn": 1.0,
    "awq-constant-everywhere": 0.72,
    "awq-half": 0.75,
    "awq-linear": 0.7,
    "awq-block": 0.66,
    "awq-block-clip": 0.55,
    "rtn-clip": 0.8,
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
STRATEGIES = ("full", *STRATEGY_COST)

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
        {"largest_difference": 1e-6, "tolerance": 1e-3, "dtype": "float32", "tokens": 2048}
        | {"modules_before": 72, "modules_changed": 0, "operations_changed": 0, "parameters_changed": 0}
        | {"foldable_linears": 30, "linears": 35}
    ),
    "calibration_sequences": json.dumps({"own": 64, "few": 8, "foreign": 64}),
}
"""What a measurement keeps with its losses."""


def hand_made(
    blocks: int = 4,
    *,
    name: str = "hand-made",
    parameters: int = 1,
    twins: int = 0,
    widths: dict[str, int] = WIDTHS,
    windows: int = WINDOWS,
) -> Measured:
    """Everything alike, in the twins too: magnitudes, weights and errors 1, kurtosis 0, losses 2 nats.

    Linears are called `0.down`, sites `0 mlp_out`.
    """
    linears = [(block, family) for block in range(blocks) for family in ROLE_OF]
    labels = {
        "linear": [f"{block}.{family}" for block, family in linears],
        "linear_block": ("linear", [block for block, _ in linears]),
        "linear_family": ("linear", [family for _, family in linears]),
        "linear_site": ("linear", [f"{block} {ROLE_OF[family]}" for block, family in linears]),
        "in_features": ("linear", [widths[ROLE_OF[family]] for _, family in linears]),
        "out_features": ("linear", [64 for _ in linears]),
        "group": np.arange(GROUPS),
    }
    channels = _channels(blocks, widths, labels)
    return Measured(
        name,
        "by hand",
        parameters,
        channels,
        _errors(labels),
        _losses(windows),
        {split: np.arange(12).reshape(3, 4) + 100 * index for index, split in enumerate(SPLITS)},
        {"model_id": f"invented/{name}", "revision": "0123abc", "dtype": "float32", "device": "cpu", "effort": "quick"}
        | {"seed": 0, "tokens": {"calibration": "aa11", "heldout": "bb22"}, "seconds": 1.5}
        | {"calibration_hash": "aa", "heldout_hash": "bb"},
        _traffic(channels),
        tuple(hand_made(blocks, name=f"twin {index}", widths=widths) for index in range(twins)),
    )


def lifelike(
    name: str = "synthetic-small",
    blocks: int = 5,
    width: int = 128,
    seed: int = 0,
    *,
    twins: int = 2,
    with_losses: bool = True,
    rtn_gap: float = 0.03,
    learned: bool = True,
) -> Measured:
    """Measurements drawn in a real model's shape, whose linears are called `model.layers.0.mlp.down_proj`.

    Tails are heavy at o and down, a few channels large, and each bit removed makes errors four-fold.

    Args:
        name: the model's.
        blocks: how many.
        width: of every site but `mlp_out`, which is twice as wide.
        seed: of all that is drawn.
        twins: how many untrained twins stand beside.
        with_losses: whether losses were measured.
        rtn_gap: what 4-bit round-to-nearest costs, nats.
        learned: false of an untrained twin: hardly any large channels, and hardly a gain.
    """
    untrained = tuple(
        lifelike(f"{name} untrained {i}", blocks, width, seed + 100 + i, twins=0, with_losses=False, learned=False)
        for i in range(twins)
    )
    widths = dict.fromkeys(ROLES, width) | {"mlp_out": 2 * width}
    made = hand_made(blocks, name=name, parameters=12 * blocks * width**2, widths=widths, windows=24)
    rng = np.random.default_rng(seed)
    assert made.losses is not None
    _draw_channels(rng, made.channels, learned)
    _draw_errors(rng, made.errors, learned)
    _draw_losses(rng, made.losses, rtn_gap)
    names = [
        f"model.layers.{block}.{'self_attn' if ROLE_OF[family].startswith('attention') else 'mlp'}.{family}_proj"
        for block in range(blocks)
        for family in ROLE_OF
    ]
    channels, errors = (dataset.assign_coords(linear=names) for dataset in (made.channels, made.errors))
    return replace(
        made,
        channels=channels,
        errors=errors,
        losses=made.losses if with_losses else None,
        provenance=made.provenance | {"seed": seed},
        traffic=_traffic(channels) if learned else None,
        twins=untrained,
    )


def set_channel(
    measured: Measured, variable: str, block: int, role: str, channel: int, value: float, **at: str
) -> None:
    """Set one channel of one site, in both splits unless `split` says which."""
    place = dict(site=f"{block} {role}", channel=channel, **at)
    measured.channels[variable].loc[place] = value


def set_site(measured: Measured, variable: str, role: str, by_block: list[float] | float, **at: str) -> None:
    """Set all channels of the sites with a role, one value for each block or one for all."""
    sites = [s for s in measured.channels["site"].values if s.endswith(f" {role}")]
    values = [by_block] * len(sites) if isinstance(by_block, int | float) else by_block
    for site, value in zip(sites, values, strict=True):
        at_site = measured.channels[variable].loc[dict(site=site, **at)]
        measured.channels[variable].loc[dict(site=site, **at)] = xr.where(np.isnan(at_site), np.nan, value)


def set_errors(measured: Measured, value: float, *, families: tuple[str, ...] | None = None, **at: Any) -> None:
    """Set output errors: of some families (all where None), and where `block`, `alpha`, `bits` ... say."""
    errors = measured.errors
    block = at.pop("block", None)
    chosen = [
        n
        for n, b, f in zip(
            errors["linear"].values, errors["linear_block"].values, errors["linear_family"].values, strict=True
        )
        if (families is None or f in families) and (block is None or b == block)
    ]
    errors["output_error"].loc[dict(linear=chosen, **at)] = value


def set_mechanism(measured: Measured, variable: str, value: float, **at: Any) -> None:
    """Set `inverse_error`, `factor_error`, `step_changed` ... where `judged_bits`, `factor`, `split` ... say."""
    measured.errors[variable].loc[at] = value


def set_traffic(measured: Measured, variable: str, value: float, **at: Any) -> None:
    """Set a variable of the dataset where `kind`, `calibrated_on`, `channel` ... say."""
    assert measured.traffic is not None
    at_place = measured.traffic[variable].loc[at]
    measured.traffic[variable].loc[at] = xr.where(np.isnan(at_place), np.nan, value)


def set_attribute(measured: Measured, name: str, **values: Any) -> None:
    """Change entries of a record kept with the losses."""
    assert measured.losses is not None
    measured.losses.attrs[name] = json.dumps(json.loads(measured.losses.attrs[name]) | values)


def set_losses(measured: Measured, strategy: str, values: np.ndarray | float, variable: str = "window_loss") -> None:
    """Set a strategy's windows."""
    assert measured.losses is not None
    measured.losses[variable].loc[{"strategy": strategy}] = values


def set_gap(measured: Measured, strategy: str, gap: np.ndarray | float) -> None:
    """Set a strategy's windows to full precision's and so many nats."""
    assert measured.losses is not None
    set_losses(measured, strategy, measured.losses["window_loss"].sel(strategy="full").values + gap)


def _channels(blocks: int, widths: dict[str, int], labels: dict[str, Any]) -> xr.Dataset:
    sites = [(block, role) for block in range(blocks) for role in ROLES]
    site_widths, widest = [widths[role] for _, role in sites], max(widths.values())

    def padded(rows: list[int], value: float) -> np.ndarray:
        return np.array([[value] * width + [np.nan] * (widest - width) for width in rows])

    ones, zeros = ("magnitude", "variance", "max_abs"), ("mean", "excess_kurtosis", "outlier_ratio")
    data: dict[str, Any] = {
        variable: (("split", "site", "channel"), np.stack([padded(site_widths, value)] * 2))
        for variable, value in (dict.fromkeys(ones, 1.0) | dict.fromkeys(zeros, 0.0)).items()
    }
    data["weight_size"] = (("linear", "channel"), padded(labels["in_features"][1], 1.0))
    data["kurtosis_without_group"] = (("site", "group"), np.zeros((len(sites), GROUPS)))
    data["enrichment_without_group"] = (("linear", "group"), np.ones((len(labels["linear"]), GROUPS)))
    coordinates = {
        "split": list(SPLITS),
        "site": [f"{block} {role}" for block, role in sites],
        "site_block": ("site", [block for block, _ in sites]),
        "site_role": ("site", [role for _, role in sites]),
        "site_width": ("site", site_widths),
        "channel": np.arange(widest),
    }
    return xr.Dataset(data, coordinates | labels)


def _errors(labels: dict[str, Any]) -> xr.Dataset:
    settings: dict[str, Any] = {
        "quantizer": [quantizer.name for quantizer in QUANTIZERS],
        "bits": list(BITS),
        "alpha": list(ALPHAS),
        "split": list(SPLITS),
        "judged_bits": list(JUDGED_BITS),
        "choice": ["rtn", "best"],
        "inverse_alpha": list(INVERSE_ALPHAS),
        "factor": list(FACTORS),
    }
    coordinates = labels | settings

    def full(value: float, *settings: str) -> tuple[tuple[str, ...], np.ndarray]:
        dimensions = ("linear", *settings)
        return dimensions, np.full([len(coordinates[name]) for name in dimensions], value)

    return xr.Dataset(
        {
            "output_error": full(1.0, "quantizer", "bits", "alpha", "split"),
            "group_error": full(1.0, "quantizer", "judged_bits", "choice", "group"),
            "group_power": full(1.0, "group"),
            "inverse_error": full(1.0, "judged_bits", "inverse_alpha", "split"),
            "factor_error": full(1.0, "judged_bits", "factor", "split"),
            "step_changed": full(0.0, "factor"),
            "step_ratio": full(1.0, "factor"),
            "uniform_changed": full(0),
        },
        coordinates,
    )


def _losses(windows: int) -> xr.Dataset:
    listed = [("full", 0), ("rtn", 2), *((method, bits) for bits in (3, 4) for method in STRATEGY_COST)]
    deployed = [method in ("full", "rtn", "awq-block") for method, _ in listed]
    return xr.Dataset(
        {
            "window_loss": (("strategy", "window"), np.full((len(listed), windows), 2.0)),
            "window_kl": (("strategy", "window"), np.zeros((len(listed), windows))),
        },
        {
            "strategy": [f"{method}-{bits}" if bits else method for method, bits in listed],
            "strategy_method": ("strategy", [method for method, _ in listed]),
            "strategy_bits": ("strategy", [bits for _, bits in listed]),
            "strategy_deploys": ("strategy", [int(deploys) for deploys in deployed]),
            "strategy_needs": ("strategy", ["" if deploys else "something" for deploys in deployed]),
            "window": np.arange(windows),
        },
        RECORDS,
    )


def _traffic(channels: xr.Dataset) -> xr.Dataset:
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


def _draw_channels(rng: np.random.Generator, channels: xr.Dataset, learned: bool) -> None:
    """Log-normal sizes, with a few channels that training made far larger."""
    shape = channels["magnitude"].shape
    magnitude = np.exp(rng.normal(0, 0.45 if learned else 0.1, size=shape[1:]))
    for row, width in zip(magnitude, channels["site_width"].values, strict=True):
        if learned:
            row[rng.choice(width, size=2, replace=False)] *= rng.uniform(4, 12, size=2)
    magnitude = magnitude * np.exp(rng.normal(0, 0.03, size=shape))
    heavy = channels["site_role"].isin(["attention_out", "mlp_out"]).values[:, None]
    kurtosis = np.where(heavy, 4.0 if learned else 2.5, 0.1) * rng.gamma(2.0, 0.5, size=shape) - 0.15
    drawn = {
        "magnitude": magnitude,
        "mean": 0.05 * magnitude,
        "variance": (1.4 * magnitude) ** 2,
        "excess_kurtosis": kurtosis,
        "max_abs": 9 * magnitude,
        "outlier_ratio": 1e-4 * np.maximum(kurtosis, 0),
        "weight_size": 0.02 * np.exp(rng.normal(0, 0.2, size=channels["weight_size"].shape)),
    }
    for name, values in drawn.items():  # beyond a site's width there is nothing
        channels[name][:] = np.where(channels[name].isnull(), np.nan, values)
    means = channels["excess_kurtosis"].sel(split="heldout").mean("channel").values[:, None]
    channels["kurtosis_without_group"][:] = means + rng.normal(0, 0.02, size=(len(means), GROUPS))
    channels["enrichment_without_group"][:] = rng.uniform(2, 6, size=channels["enrichment_without_group"].shape)


def _draw_errors(rng: np.random.Generator, errors: xr.Dataset, learned: bool) -> None:
    """A valley over exponents, deeper at o and down; scaling down hurts, and of the factors 1.5 is the best."""
    count, alphas = errors.sizes["linear"], np.array(ALPHAS)
    rtn = 0.08 * np.exp(rng.normal(0, 0.3, size=count))[:, None] * 4.0 ** (3 - np.array(BITS))
    gain = np.where(errors["linear_family"].isin(["o", "down"]), 1.9, 1.25) if learned else np.full(count, 1.03)
    gain = 1 + (gain - 1) * rng.uniform(0.4, 1.6, size=count)
    best = rng.uniform(0.2, 0.6, size=count)[:, None]
    curve = gain[:, None] ** (np.minimum((alphas / best - 1) ** 2, 6) - 1)
    error = errors["output_error"]
    error[:] = rtn[:, None, :, None, None] * (curve / curve[:, :1])[:, None, None, :, None]
    error.loc[{"quantizer": "sym-channel"}] *= 1.6
    error[:] *= np.exp(rng.normal(0, 0.01, size=error.shape))
    unscaled = error.sel(alpha=0.0, bits=list(JUDGED_BITS))
    errors["group_error"][:] = unscaled.sel(split="heldout").values[..., None, None] * np.array([[1.0], [0.8]]) / GROUPS
    errors["group_power"][:] = 1.0 / GROUPS
    deployed = unscaled.sel(quantizer="asym-g128").transpose("linear", "bits", "split").values[:, :, None]
    errors["inverse_error"][:] = deployed * (1 + np.array(INVERSE_ALPHAS))[:, None]
    errors["factor_error"][:] = deployed * np.array([1.0, 0.9, 0.8, 0.85, 1.2])[:, None]
    errors["step_changed"][:] = np.array([0.0, 0.03, 0.05, 0.1, 0.3])
    errors["step_ratio"][:] = 1 + errors["step_changed"] / 3


def _draw_losses(rng: np.random.Generator, losses: xr.Dataset, rtn_gap: float) -> None:
    full = rng.normal(2.7, 0.25, size=losses.sizes["window"])
    for row, method, bits in zip(
        losses["window_loss"].values, losses["strategy_method"].values, losses["strategy_bits"].values, strict=True
    ):
        cost = rtn_gap * {0: 0.0, 2: 30.0, 3: 5.0, 4: 1.0}[int(bits)]
        row[:] = full + cost * STRATEGY_COST.get(str(method), 0.0) + rng.normal(0, 0.15 * cost, size=len(full))
    losses["window_kl"][:] = abs(losses["window_loss"] - full)
