"""Metrics of the measurements that claims and figures use: one value per linear, per site or per window."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from awq_core.measure.layers import datasets
from awq_core.measure.layers import importance as channel_importance
from awq_core.measure.methods.looks import on_common_windows
from awq_core.measured import Measured

OUTLIER_FAMILIES = ("o", "down")
"""Families of linears whose inputs have outliers, according to the literature."""

OUTLIER_ROLES = ("attention_out", "mlp_out")
"""Roles of the sites that `OUTLIER_FAMILIES` read."""


def importance(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """Channel importance `I_j = mean_i |W_ij| * m_j`, `(linear, channel)`, NaN beyond a linear's width.

    Raises:
        ValueError: if the importance of a channel within a linear's width is NaN.
    """
    channels = measured.channels
    magnitude = channels["magnitude"].sel(split=split).sel(site=channels["linear_site"])
    values = (channels["weight_size"] * magnitude).reset_coords(
        ["site", "site_block", "site_role", "site_width"], drop=True
    )
    # Rankings of channels skip NaN, which pads narrow linears; any other NaN has to be found here.
    incomplete = values.notnull().sum("channel") != values["in_features"]
    if incomplete.any():
        name = values["linear"].values[incomplete.values][0]
        raise ValueError(f"{name} has channels without an importance: a NaN is an error, never a verdict")
    return values


def top_share(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """Share of importance held by the top 1% of channels, `(linear,)`, 0 to 1."""
    return _per_linear(importance(measured, split), channel_importance.top_share)


def enrichment(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """Share of importance held by the top 1%, divided by their share of channels, `(linear,)`; 1 if all are equal."""
    return _per_linear(importance(measured, split), channel_importance.enrichment)


def hockey_stick(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """Mean importance of the top 1% of channels divided by the median importance, `(linear,)`."""

    def ratio(values: np.ndarray) -> float:
        if len(values) and not values.any():  # an expert that no token reached: all channels are equal
            return 1.0
        return float(values[channel_importance.salient_channels(values)].mean() / np.median(values))

    return _per_linear(importance(measured, split), ratio)


def large_channels(measured: Measured, split: str = "heldout", times: float = 3.0) -> xr.DataArray:
    """Share of channels whose magnitude exceeds `times` the median magnitude, `(linear,)`, 0 to 1."""
    channels = measured.channels
    magnitude = channels["magnitude"].sel(split=split)
    share = _per_row(magnitude, lambda m: float((m > times * np.median(m)).mean()), "site")
    return _at_linears(measured, share)


def site_kurtosis(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """Mean over channels of the pooled excess kurtosis, `(site,)`."""
    return measured.channels["excess_kurtosis"].sel(split=split).mean("channel", skipna=True)


def mean_kurtosis(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """Mean excess kurtosis of each linear's input channels, `(linear,)`."""
    return _at_linears(measured, site_kurtosis(measured, split))


def outlier_ratio(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """Share of each linear's input values beyond six standard deviations, `(linear,)`, 0 to 1."""
    ratio = measured.channels["outlier_ratio"].sel(split=split).mean("channel", skipna=True)
    return _at_linears(measured, ratio)


def magnitude_spread(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """Natural logarithm of the largest channel magnitude over the median one, `(site,)`; 0 if all are 0."""
    magnitude = measured.channels["magnitude"].sel(split=split)
    return _per_row(
        magnitude, lambda m: float(np.log(m.max() / np.median(m))) if m.any() or not len(m) else 0.0, "site"
    )


def best_alpha(measured: Measured, quantizer: str, bits: int) -> xr.DataArray:
    """Best exponent of each linear on calibration tokens, `(linear,)`."""
    return datasets.best_alpha(measured.errors, quantizer, bits)


def constant_alpha(measured: Measured, quantizer: str, bits: int) -> float:
    """Single exponent that minimises the calibration error summed over linears."""
    return datasets.constant_alpha(measured.errors, quantizer, bits)


def error_at(
    measured: Measured, quantizer: str, bits: int, alpha: float | xr.DataArray, split: str = "heldout"
) -> xr.DataArray:
    """Squared relative output error at a given exponent, `(linear,)`.

    Args:
        measured: the measurements.
        quantizer: name of the quantizer.
        bits: precision.
        alpha: exponent, one for all linears or one for each, `(linear,)`; the nearest measured one is used.
        split: `calibration` or `heldout`.

    Raises:
        ValueError: if an error at these exponents was not measured (NaN).
    """
    table = _error_table(measured, quantizer, bits, split)  # (linear, alpha)
    wanted = np.broadcast_to(np.asarray(alpha), len(table))
    nearest = np.abs(measured.errors["alpha"].values - wanted[:, None]).argmin(axis=1)
    return _per_linear_error(measured, _known(np.take_along_axis(table, nearest[:, None], axis=1)[:, 0]))


def error_ratio(errors: xr.DataArray, reference: xr.DataArray) -> xr.DataArray:
    """Ratio `errors / reference`, `(linear,)`; 1 if both are 0, as for an expert that no token reached."""
    neither = (errors.values == 0) & (reference.values == 0)
    return errors.copy(data=np.where(neither, 1.0, errors.values / np.where(neither, 1.0, reference.values)))


def tried_exponents(measured: Measured, quantizer: str, bits: int) -> bool:
    """Whether exponents other than 0 (round-to-nearest) were measured at a setting."""
    return not np.isnan(_error_table(measured, quantizer, bits, "calibration")[:, 1:]).all()


def inverse_error(measured: Measured, bits: int, alpha: float, split: str = "heldout") -> xr.DataArray:
    """Output error with `1 / s`, the salient weights scaled down, under the deployed quantizer, `(linear,)`."""
    values = measured.errors["inverse_error"].sel(judged_bits=bits, inverse_alpha=alpha, split=split)
    return _per_linear_error(measured, values.values)


def factor_error(measured: Measured, bits: int, factor: float, split: str = "heldout") -> xr.DataArray:
    """Output error with the top 1% of channels times a factor, under the deployed quantizer, `(linear,)`."""
    values = measured.errors["factor_error"].sel(judged_bits=bits, factor=factor, split=split)
    return _per_linear_error(measured, values.values)


def reduction(measured: Measured, quantizer: str, bits: int, split: str = "heldout") -> xr.DataArray:
    """Error reduction `e(RTN) / e(AWQ)` at the best exponent on calibration tokens, `(linear,)`; 1 if both are 0."""
    best = _known(_error_table(measured, quantizer, bits, "calibration")).argmin(axis=1)
    table = _error_table(measured, quantizer, bits, split)
    rtn, awq = _known(table[:, 0]), _known(np.take_along_axis(table, best[:, None], axis=1)[:, 0])
    with_nothing_left = np.where(rtn > 0, np.inf, 1.0)  # an infinite gain is an error further on, never a verdict
    return _per_linear_error(measured, np.where(awq > 0, rtn / np.where(awq > 0, awq, 1.0), with_nothing_left))


def _error_table(measured: Measured, quantizer: str, bits: int, split: str) -> np.ndarray:
    """Extract errors `[linears, alphas]`, by plain indices: hundreds are read, and labels take milliseconds each."""
    errors = measured.errors
    at = {
        "quantizer": errors["quantizer"].values.tolist().index(quantizer),
        "bits": errors["bits"].values.tolist().index(bits),
        "split": errors["split"].values.tolist().index(split),
    }
    table: np.ndarray = errors["output_error"].variable.isel(at).transpose("linear", "alpha").values
    return table


def _known(errors: np.ndarray) -> np.ndarray:
    """Return errors after checking that none is NaN, which later comparisons would take for no gain.

    Raises:
        ValueError: if an error is NaN.
    """
    if np.isnan(errors).any():
        raise ValueError("an output error in the measurements is NaN")
    return errors


def _per_linear_error(measured: Measured, values: np.ndarray) -> xr.DataArray:
    names = ("linear", "linear_block", "linear_family", "linear_site", "in_features", "out_features")
    return xr.DataArray(
        values, dims=("linear",), coords={name: measured.errors.coords[name].variable for name in names}
    )


def is_outlier_family(values: xr.DataArray) -> xr.DataArray:
    """Whether each linear belongs to `OUTLIER_FAMILIES`, `(linear,)`."""
    return values["linear_family"].isin(OUTLIER_FAMILIES)


def window_values(measured: Measured, strategies: Sequence[str], variable: str = "window_loss") -> list[np.ndarray]:
    """Values of several strategies on the windows on which all were scored, `[windows]` each, in nats per token.

    Args:
        measured: the measurements.
        strategies: names of strategies.
        variable: variable of the losses, such as `window_loss`.

    Raises:
        LookupError: if there are no model-level measurements, or a strategy was not scored.
    """
    return on_common_windows(losses_of(measured), strategies, variable)


def window_differences(measured: Measured, strategy: str, variable: str = "window_loss") -> np.ndarray:
    """Damage of a strategy by window, `[windows]`, in nats per token.

    It is the difference from full precision for `window_loss`, and the value itself for any other variable.
    """
    if variable != "window_loss":
        return window_values(measured, [strategy], variable)[0]
    values, full = window_values(measured, [strategy, "full"])
    return values - full


def mean_loss(measured: Measured, strategy: str) -> float:
    """Mean window loss of a strategy, in nats per token.

    For a strategy that was scored on fewer windows than full precision, it is full precision's mean loss on all windows
    plus the mean difference on the strategy's own windows. The difficulty of the windows cancels in this difference.
    """
    (full,) = window_values(measured, ["full"])
    (values,) = window_values(measured, [strategy])
    if len(values) == len(full):
        return float(values.mean())
    return float(full.mean() + window_differences(measured, strategy).mean())


def losses_of(measured: Measured) -> xr.Dataset:
    """Return the model-level measurements.

    Raises:
        LookupError: if there are none.
    """
    if measured.losses is None:
        raise LookupError(f"{measured.name} has no model-level measurements")
    return measured.losses


def natural_log(values: xr.DataArray) -> xr.DataArray:
    """Natural logarithm of every value, with the same labels."""
    return values.copy(data=np.log(values.values))


def _per_linear(values: xr.DataArray, function: Callable[[np.ndarray], float]) -> xr.DataArray:
    return _per_row(values, function, "linear")


def _per_row(values: xr.DataArray, function: Callable[[np.ndarray], float], dimension: str) -> xr.DataArray:
    rows = [function(row[~np.isnan(row)]) for row in values.transpose(dimension, "channel").values]
    kept = {name: c for name, c in values.coords.items() if set(c.dims) <= {dimension}}
    return xr.DataArray(np.array(rows), dims=(dimension,), coords=kept)


def _at_linears(measured: Measured, per_site: xr.DataArray) -> xr.DataArray:
    channels = measured.channels
    values = per_site.sel(site=channels["linear_site"])
    return values.drop_vars([name for name in values.coords if str(name).startswith("site") or name == "split"])


def salient_auc(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """Probability that a salient channel's kurtosis exceeds another channel's (the AUC), `(site,)`.

    A site's salient channels are its top 1% by importance, with the mean weight size of the linears that read it. Sites
    with fewer than 64 channels are left out, because there the top 1% is one channel of few.
    """
    channels, values = measured.channels, []
    widths, linear_sites = channels["site_width"].values, channels["linear_site"].values
    weight_sizes = channels["weight_size"].transpose("linear", "channel").values
    at_sites = channels[["magnitude", "excess_kurtosis"]].sel(split=split).transpose("site", "channel")
    magnitudes, kurtoses = at_sites["magnitude"].values, at_sites["excess_kurtosis"].values
    wide = np.flatnonzero(widths >= channel_importance.SMALLEST_WIDTH)
    for site in wide:
        width = int(widths[site])
        weight_size = weight_sizes[linear_sites == channels["site"].values[site], :width].mean(axis=0)
        salient = channel_importance.salient_channels(
            channel_importance.importance(weight_size, magnitudes[site, :width])
        )
        # Mann and Whitney's statistic over its largest value.
        ranks, count = rankdata(kurtoses[site, :width]), len(salient)
        values.append((ranks[salient].sum() - count * (count + 1) / 2) / (count * (width - count)))
    return xr.DataArray(np.array(values), dims=("site",), coords=_site_coordinates(channels.isel(site=wide)))


def _site_coordinates(channels: xr.Dataset) -> dict[str, xr.DataArray]:
    return {name: channels[name] for name in ("site", "site_block", "site_role", "site_width")}
