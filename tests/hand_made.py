"""Measurements in which nothing stands out, for a test to write its effect into: every number is set by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from awq_core.measure.layers.mechanism import FACTORS, INVERSE_ALPHAS
from awq_core.measured import ALPHAS, BITS, GROUPS, JUDGED_BITS, QUANTIZERS, SPLITS, Measured
from tests.synthetic_measured import RECORDS, STRATEGY_COST, synthetic_traffic

ROLE_OF = {
    "q": "attention_in",
    "k": "attention_in",
    "v": "attention_in",
    "o": "attention_out",
    "gate": "mlp_in",
    "up": "mlp_in",
    "down": "mlp_out",
}
ROLES = ("attention_in", "attention_out", "mlp_in", "mlp_out")
WIDTHS = {"attention_in": 64, "attention_out": 64, "mlp_in": 64, "mlp_out": 200}
STRATEGIES = ("full", *STRATEGY_COST)
WINDOWS = 16


def linear_name(block: int, family: str) -> str:
    """A linear's name in these measurements: `0.down`."""
    return f"{block}.{family}"


def site_name(block: int, role: str) -> str:
    """A site's name in these measurements: `0 mlp_out`."""
    return f"{block} {role}"


def hand_made(
    blocks: int = 4,
    *,
    name: str = "hand-made",
    parameters: int = 1,
    twins: tuple[Measured, ...] = (),
    widths: dict[str, int] = WIDTHS,
) -> Measured:
    """Every channel and every error alike: magnitudes, weights and errors 1, kurtosis 0, losses 2 nats."""
    channels = _channels(blocks, widths)
    return Measured(
        name,
        "by hand",
        parameters,
        channels,
        _errors(blocks, widths),
        _losses(),
        {split: np.zeros((2, 2), dtype=np.int64) for split in SPLITS},
        {"effort": "quick", "dtype": "float32", "seed": 0, "calibration_hash": "aa", "heldout_hash": "bb"},
        synthetic_traffic(channels),
        twins,
    )


def set_channel(
    measured: Measured, variable: str, block: int, role: str, channel: int, value: float, **at: str
) -> None:
    """Set one channel of one site, in both splits unless `split` says which."""
    place = dict(site=site_name(block, role), channel=channel, **at)
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


def _linears(blocks: int) -> list[tuple[int, str]]:
    return [(block, family) for block in range(blocks) for family in ROLE_OF]


def _linear_coordinates(blocks: int, widths: dict[str, int]) -> dict[str, Any]:
    linears = _linears(blocks)
    return {
        "linear": [linear_name(*entry) for entry in linears],
        "linear_block": ("linear", [block for block, _ in linears]),
        "linear_family": ("linear", [family for _, family in linears]),
        "linear_site": ("linear", [site_name(block, ROLE_OF[family]) for block, family in linears]),
        "in_features": ("linear", [widths[ROLE_OF[family]] for _, family in linears]),
        "out_features": ("linear", [64 for _ in linears]),
    }


def _channels(blocks: int, widths: dict[str, int]) -> xr.Dataset:
    sites = [(block, role) for block in range(blocks) for role in ROLES]
    widest = max(widths.values())
    linears = _linears(blocks)

    def padded(rows: list[int], value: float) -> np.ndarray:
        return np.array([[value] * width + [np.nan] * (widest - width) for width in rows])

    site_widths = [widths[role] for _, role in sites]
    values = {
        "magnitude": 1.0,
        "mean": 0.0,
        "variance": 1.0,
        "excess_kurtosis": 0.0,
        "max_abs": 1.0,
        "outlier_ratio": 0.0,
    }
    data: dict[str, Any] = {
        variable: (("split", "site", "channel"), np.stack([padded(site_widths, value)] * 2))
        for variable, value in values.items()
    }
    data["weight_size"] = (("linear", "channel"), padded([widths[ROLE_OF[family]] for _, family in linears], 1.0))
    data["kurtosis_without_group"] = (("site", "group"), np.zeros((len(sites), GROUPS)))
    data["enrichment_without_group"] = (("linear", "group"), np.ones((len(linears), GROUPS)))
    coordinates = {
        "split": list(SPLITS),
        "site": [site_name(*entry) for entry in sites],
        "site_block": ("site", [block for block, _ in sites]),
        "site_role": ("site", [role for _, role in sites]),
        "site_width": ("site", site_widths),
        "channel": np.arange(widest),
        **_linear_coordinates(blocks, widths),
    }
    return xr.Dataset(data, coordinates)


def _errors(blocks: int, widths: dict[str, int]) -> xr.Dataset:
    count = len(_linears(blocks))
    return xr.Dataset(
        {
            "output_error": (
                ("linear", "quantizer", "bits", "alpha", "split"),
                np.ones((count, len(QUANTIZERS), len(BITS), len(ALPHAS), len(SPLITS))),
            ),
            "group_error": (
                ("linear", "quantizer", "judged_bits", "choice", "group"),
                np.ones((count, len(QUANTIZERS), len(JUDGED_BITS), 2, GROUPS)),
            ),
            "group_power": (("linear", "group"), np.ones((count, GROUPS))),
            **{
                f"{tried}_error": (
                    ("linear", "judged_bits", coordinate, "split"),
                    np.ones((count, len(JUDGED_BITS), len(values), len(SPLITS))),
                )
                for tried, coordinate, values in (
                    ("inverse", "inverse_alpha", INVERSE_ALPHAS),
                    ("factor", "factor", FACTORS),
                )
            },
            "step_changed": (("linear", "factor"), np.zeros((count, len(FACTORS)))),
            "step_ratio": (("linear", "factor"), np.ones((count, len(FACTORS)))),
            "uniform_changed": (("linear",), np.zeros(count, dtype=int)),
        },
        {
            "quantizer": [quantizer.name for quantizer in QUANTIZERS],
            "bits": list(BITS),
            "alpha": list(ALPHAS),
            "split": list(SPLITS),
            "judged_bits": list(JUDGED_BITS),
            "choice": ["rtn", "best"],
            "inverse_alpha": list(INVERSE_ALPHAS),
            "factor": list(FACTORS),
            **_linear_coordinates(blocks, widths),
        },
    )


def _losses() -> xr.Dataset:
    names = ["full", "rtn-2"] + [f"{method}-{bits}" for bits in (3, 4) for method in STRATEGIES[1:]]
    return xr.Dataset(
        {
            "window_loss": (("strategy", "window"), np.full((len(names), WINDOWS), 2.0)),
            "window_kl": (("strategy", "window"), np.zeros((len(names), WINDOWS))),
        },
        {"strategy": names},
        RECORDS,
    )
