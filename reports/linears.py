"""A model's linears side by side: metrics as plain arrays, for the diagnostic file and the figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from awq_core.judging import metrics as readings
from awq_core.measure.layers.importance import SMALLEST_WIDTH
from awq_core.measured import Measured

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Linears:
    """Per-linear readings of one model, every array `(linears,)` in the measurements' own order."""

    measured: Measured

    @property
    def deployed(self) -> str:
        """Name of the deployed quantizer."""
        return self.measured.deployed.name

    @cached_property
    def names(self) -> list[str]:
        """The modules' full names."""
        return [str(name) for name in self.measured.channels["linear"].values]

    @cached_property
    def families(self) -> NDArray[np.str_]:
        """Each linear's role: q, k, v, o, gate, up, down or the architecture's own."""
        return self.measured.channels["linear_family"].values.astype(str)

    @cached_property
    def family_order(self) -> list[str]:
        """The families present, in the order in which a block applies them."""
        return list(dict.fromkeys(self.families.tolist()))

    @cached_property
    def blocks(self) -> NDArray[np.int_]:
        """The transformer block each linear is in."""
        return self.measured.channels["linear_block"].values.astype(int)

    @cached_property
    def widths(self) -> NDArray[np.int_]:
        """Number of input channels."""
        return self.measured.channels["in_features"].values.astype(int)

    @cached_property
    def roles(self) -> NDArray[np.str_]:
        """The role of each linear's input site."""
        channels = self.measured.channels
        return channels["site_role"].sel(site=channels["linear_site"]).values.astype(str)

    @cached_property
    def behind(self) -> NDArray[np.bool_]:
        """Whether the linear reads what attention or the MLP puts out: o and down, under whatever name."""
        return np.isin(self.roles, readings.OUTLIER_ROLES)

    @property
    def behind_words(self) -> str:
        """Those families by name: `o and down`."""
        return " and ".join(dict.fromkeys(self.families[self.behind].tolist()))

    @cached_property
    def _importance(self) -> dict[str, Array]:
        splits = self.measured.channels["split"].values.tolist()
        return {
            split: readings.importance(self.measured, split).transpose("linear", "channel").values for split in splits
        }

    def importance(self, index: int, split: str = "heldout") -> Array:
        """Importance of each input channel of one linear, `(its own width,)`."""
        return self._importance[split][index][: self.widths[index]]

    def kurtosis(self, split: str = "heldout") -> Array:
        """Mean over channels of the excess kurtosis of each linear's input."""
        return readings.mean_kurtosis(self.measured, split).values

    def top_share(self, split: str = "heldout") -> Array:
        """Share of importance held by the top 1% of channels, 0 to 1."""
        return readings.top_share(self.measured, split).values

    def enrichment(self, split: str = "heldout") -> Array:
        """That share over the fraction of channels they are; NaN under the smallest width where it means something."""
        return np.where(self.widths >= SMALLEST_WIDTH, readings.enrichment(self.measured, split).values, np.nan)

    def error(self, quantizer: str, bits: int, split: str = "heldout") -> Array:
        """Squared relative output error of round-to-nearest."""
        return readings.error_at(self.measured, quantizer, bits, 0.0, split).values

    def best_alpha(self, quantizer: str, bits: int) -> Array:
        """The exponent with the smallest error on calibration tokens; NaN where none were tried."""
        if not readings.tried_exponents(self.measured, quantizer, bits):
            return self._unknown
        return readings.best_alpha(self.measured, quantizer, bits).values

    def awq_error(self, quantizer: str, bits: int, split: str = "heldout") -> Array:
        """Squared relative output error at the exponent chosen on calibration tokens; NaN where none were tried."""
        if not readings.tried_exponents(self.measured, quantizer, bits):
            return self._unknown
        best = readings.best_alpha(self.measured, quantizer, bits)
        return readings.error_at(self.measured, quantizer, bits, best, split).values

    def reduction(self, quantizer: str, bits: int, split: str = "heldout") -> Array:
        """e(RTN) / e(AWQ): above 1 where AWQ helps; NaN where no exponents were tried."""
        if not readings.tried_exponents(self.measured, quantizer, bits):
            return self._unknown
        return readings.reduction(self.measured, quantizer, bits, split).values

    @property
    def _unknown(self) -> Array:
        return np.full(len(self.names), np.nan)

    def where(self, index: int) -> str:
        """A linear's place in words: `block 3's down`."""
        return f"block {self.blocks[index]}'s {self.families[index]}"
