"""Overlap of the salient channels of different texts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import xarray as xr

from awq_core.measure.layers.importance import SMALLEST_WIDTH, salient_channels


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Share of one text's top 1% of channels that are also in another text's top 1%, 0 to 1.

    Args:
        first: magnitudes on one text, `[channels]`.
        second: magnitudes on the other text, `[channels]`.

    Raises:
        ValueError: if a magnitude is NaN.
    """
    if np.isnan(first).any() or np.isnan(second).any():
        raise ValueError("a channel has no magnitude: a NaN is an error, never a verdict")
    mine, other = salient_channels(first), salient_channels(second)
    return len(np.intersect1d(mine, other)) / len(mine)


def overlap_of_texts(magnitudes: xr.DataArray, text: str) -> xr.DataArray:
    """Mean overlap over all pairs of texts, `(site,)`; sites with fewer than 64 channels are left out.

    Args:
        magnitudes: `(text, site, channel)`, NaN beyond a site's width.
        text: name of the dimension of texts.
    """
    wide = np.flatnonzero(magnitudes["site_width"].values >= SMALLEST_WIDTH)
    kept = magnitudes.isel(site=wide).transpose("site", text, "channel")
    values = [
        np.mean([overlap(a[:width], b[:width]) for a, b in combinations(table, 2)])
        for table, width in zip(kept.values, kept["site_width"].values, strict=True)
    ]
    names = ("site", "site_block", "site_role", "site_width")
    return xr.DataArray(np.array(values), dims=("site",), coords={name: kept[name].variable for name in names})
