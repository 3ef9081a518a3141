"""Quantities that claims and figures read off the measurements: one value per linear, or per site."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from scipy.stats import mannwhitneyu

from awq_core.measure.layers import datasets
from awq_core.measure.layers import importance as channel_importance
from awq_core.measure.methods.looks import on_common_windows
from awq_core.measured import Measured

OUTLIER_FAMILIES = ("o", "down")
"""The families in which the literature finds the outliers."""

OUTLIER_ROLES = ("attention_out", "mlp_out")
"""The sites that those families read."""


def importance(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """`I_j = mean_i |W_ij| * m_j`, `(linear, channel)`, NaN beyond a linear's width.

    Raises:
        ValueError: if a channel within a linear's width has none.
    """
    channels = measured.channels
    magnitude = channels["magnitude"].sel(split=split).sel(site=channels["linear_site"])
    values = (channels["weight_size"] * magnitude).reset_coords(
        ["site", "site_block", "site_role", "site_width"], drop=True
    )
    # NaN pads narrow linears, so what ranks channels skips it: one that is no padding has to be found here.
    incomplete = values.notnull().sum("channel") != values["in_features"]
    if incomplete.any():
        name = values["linear"].values[incomplete.values][0]
        raise ValueError(f"{name} has channels without an importance: a NaN is an error, never a verdict")
    return values


def top_share(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """Share of importance held by the top 1% of channels, `(linear,)`, 0 to 1."""
    return _per_linear(importance(measured, split), channel_importance.top_share)


def enrichment(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """That share over the fraction of channels that the top 1% are, `(linear,)`; 1 where channels are alike."""
    return _per_linear(importance(measured, split), channel_importance.enrichment)


def hockey_stick(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """Mean importance of the top 1% of channels over the median importance, `(linear,)`."""

    def ratio(values: np.ndarray) -> float:
        if len(values) and not values.any():  # an expert that no token reached: all channels are alike
            return 1.0
        return float(values[channel_importance.salient_channels(values)].mean() / np.median(values))

    return _per_linear(importance(measured, split), ratio)


def large_channels(measured: Measured, split: str = "heldout", times: float = 3.0) -> xr.DataArray:
    """Share of channels whose magnitude exceeds `times` the median, `(linear,)`."""
    channels = measured.channels
    magnitude = channels["magnitude"].sel(split=split)
    share = _per_row(magnitude, lambda m: float((m > times * np.median(m)).mean()), "site")
    return _at_linears(measured, share)


def site_kurtosis(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """Mean over channels of the pooled excess kurtosis, `(site,)`."""
    return measured.channels["excess_kurtosis"].sel(split=split).mean("channel", skipna=True)


def mean_kurtosis(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """The mean excess kurtosis of each linear's input, `(linear,)`."""
    return _at_linears(measured, site_kurtosis(measured, split))


def outlier_ratio(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """Share of values beyond six standard deviations at each linear's input, `(linear,)`."""
    ratio = measured.channels["outlier_ratio"].sel(split=split).mean("channel", skipna=True)
    return _at_linears(measured, ratio)


def magnitude_spread(measured: Measured, split: str = "heldout") -> xr.DataArray:
    """ln(largest / median channel magnitude), `(site,)`."""
    magnitude = measured.channels["magnitude"].sel(split=split)
    return _per_row(
        magnitude, lambda m: float(np.log(m.max() / np.median(m))) if m.any() or not len(m) else 0.0, "site"
    )


def best_alpha(measured: Measured, quantizer: str, bits: int) -> xr.DataArray:
    """Each linear's best exponent on calibration tokens, `(linear,)`."""
    return datasets.best_alpha(measured.errors, quantizer, bits)


def constant_alpha(measured: Measured, quantizer: str, bits: int) -> float:
    """The one exponent that is best for the sum of calibration errors."""
    return datasets.constant_alpha(measured.errors, quantizer, bits)


def error_at(
    measured: Measured, quantizer: str, bits: int, alpha: float | xr.DataArray, split: str = "heldout"
) -> xr.DataArray:
    """Squared relative output error at an exponent, one for all or one for each linear, `(linear,)`."""
    table = _error_table(measured, quantizer, bits, split)  # (linear, alpha)
    wanted = np.broadcast_to(np.asarray(alpha), len(table))
    nearest = np.abs(measured.errors["alpha"].values - wanted[:, None]).argmin(axis=1)
    return _per_linear_error(measured, _known(np.take_along_axis(table, nearest[:, None], axis=1)[:, 0]))


def error_ratio(errors: xr.DataArray, reference: xr.DataArray) -> xr.DataArray:
    """`errors / reference`, `(linear,)`; 1 where both are zero: an expert that no token reached."""
    neither = (errors.values == 0) & (reference.values == 0)
    return errors.copy(data=np.where(neither, 1.0, errors.values / np.where(neither, 1.0, reference.values)))


def tried_exponents(measured: Measured, quantizer: str, bits: int) -> bool:
    """Whether exponents were tried at a setting; where not, round-to-nearest's errors are all there is."""
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
    """`e(RTN) / e(AWQ)` with the exponent chosen on calibration tokens, `(linear,)`; 1 where neither errs."""
    best = _known(_error_table(measured, quantizer, bits, "calibration")).argmin(axis=1)
    table = _error_table(measured, quantizer, bits, split)
    rtn, awq = _known(table[:, 0]), _known(np.take_along_axis(table, best[:, None], axis=1)[:, 0])
    with_nothing_left = np.where(rtn > 0, np.inf, 1.0)  # an infinite gain is an error further on, never a verdict
    return _per_linear_error(measured, np.where(awq > 0, rtn / np.where(awq > 0, awq, 1.0), with_nothing_left))


def _error_table(measured: Measured, quantizer: str, bits: int, split: str) -> np.ndarray:
    """Errors `[linears, alphas]`. Plain indexing: a judgement reads hundreds of these, and labels cost milliseconds."""
    errors = measured.errors
    at = {
        "quantizer": errors["quantizer"].values.tolist().index(quantizer),
        "bits": errors["bits"].values.tolist().index(bits),
        "split": errors["split"].values.tolist().index(split),
    }
    table: np.ndarray = errors["output_error"].variable.isel(at).transpose("linear", "alpha").values
    return table


def _known(errors: np.ndarray) -> np.ndarray:
    """The same errors.

    Raises:
        ValueError: if one is NaN: the comparisons that follow would take it for no gain.
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
    """True for the linears that read the attention's or the MLP's inner output, `(linear,)`."""
    return values["linear_family"].isin(OUTLIER_FAMILIES)


def window_values(measured: Measured, strategies: Sequence[str], variable: str = "window_loss") -> list[np.ndarray]:
    """What several strategies have on each window, `[windows]` each, nats per token: the windows that all have.

    Raises:
        LookupError: without model-level measurements, or where a strategy was not scored.
    """
    return on_common_windows(losses_of(measured), strategies, variable)


def window_differences(measured: Measured, strategy: str, variable: str = "window_loss") -> np.ndarray:
    """Each window's value under a strategy, minus full precision's for losses, `[windows]`, nats per token."""
    if variable != "window_loss":
        return window_values(measured, [strategy], variable)[0]
    values, full = window_values(measured, [strategy, "full"])
    return values - full


def mean_loss(measured: Measured, strategy: str) -> float:
    """Mean window loss of a strategy, nats per token.

    A strategy that was scored on fewer windows than full precision stands beside it as if on all of them: by its mean
    difference to full precision on its own windows, which the windows' difficulty drops out of.
    """
    (full,) = window_values(measured, ["full"])
    (values,) = window_values(measured, [strategy])
    if len(values) == len(full):
        return float(values.mean())
    return float(full.mean() + window_differences(measured, strategy).mean())


def losses_of(measured: Measured) -> xr.Dataset:
    """The model-level measurements.

    Raises:
        LookupError: where there are none.
    """
    if measured.losses is None:
        raise LookupError(f"{measured.name} has no model-level measurements")
    return measured.losses


def natural_log(values: xr.DataArray) -> xr.DataArray:
    """ln of every value, labels kept."""
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
    """Chance that a salient channel's kurtosis exceeds another channel's (the AUC), `(site,)`.

    A site's channels are salient by the mean weight size of the linears that read it. Sites under 64 channels are
    left out: the top 1% would be one channel of few.
    """
    channels = measured.channels
    values = []
    wide = np.flatnonzero(channels["site_width"].values >= channel_importance.SMALLEST_WIDTH)
    for site in channels["site"].values[wide]:
        readers = np.flatnonzero(channels["linear_site"].values == site)
        width = int(channels["site_width"].sel(site=site))
        weight_size = channels["weight_size"].isel(linear=readers).mean("linear").values[:width]
        at_site = channels.sel(site=site, split=split)
        weighted = channel_importance.importance(weight_size, at_site["magnitude"].values[:width])
        salient = np.zeros(width, dtype=bool)
        salient[channel_importance.salient_channels(weighted)] = True
        kurtosis = at_site["excess_kurtosis"].values[:width]
        statistic = mannwhitneyu(kurtosis[salient], kurtosis[~salient]).statistic
        values.append(float(statistic) / (salient.sum() * (~salient).sum()))
    return xr.DataArray(np.array(values), dims=("site",), coords=_site_coordinates(channels.isel(site=wide)))


def _site_coordinates(channels: xr.Dataset) -> dict[str, xr.DataArray]:
    return {name: channels[name] for name in ("site", "site_block", "site_role", "site_width")}
