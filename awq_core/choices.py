"""Exponents chosen on calibration tokens, from the measured errors."""

from __future__ import annotations

import xarray as xr


def best_alpha(errors: xr.Dataset, quantizer: str, bits: int) -> xr.DataArray:
    """Each linear's exponent with the least calibration error, `(linear,)`; the smaller one of a tie."""
    calibration = errors["output_error"].sel(quantizer=quantizer, bits=bits, split="calibration")
    return calibration["alpha"].isel(alpha=calibration.argmin("alpha")).drop_vars("alpha")


def constant_alpha(errors: xr.Dataset, quantizer: str, bits: int) -> float:
    """The one exponent with the least calibration error summed over linears (design: "AWQ variants")."""
    calibration = errors["output_error"].sel(quantizer=quantizer, bits=bits, split="calibration")
    return float(calibration["alpha"][int(calibration.sum("linear").argmin("alpha"))])
