"""Channel moments, pooled exactly over all tokens in one streamed pass.

Two mistakes are common: averaging kurtoses of texts, which is not the kurtosis of the pooled tokens, and estimating
kurtosis from few tokens, whose number bounds it. Sums of powers in float64 pool tokens exactly, in any order.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_BYTES = 1_000_000
"""Largest chunk of values whose powers are computed together, in bytes, so that they stay in the processor's cache."""


class MeasurementError(Exception):
    """Error for a measurement on which no verdict may rest, such as an infinite activation."""


class ChannelMoments:
    """Power sums of every channel of one input site, by group of tokens.

    The sums are of powers of `x - shift`, where `shift` is the first batch's mean, so that a large mean does not cancel
    the variance.

    Args:
        width: number of channels.
        groups: number of groups of tokens, which are pooled or left out later.
        device: device of the inputs.
        may_be_empty: whether all moments are 0 without tokens, instead of an error: an expert of a mixture may receive
            no token, or tokens of one group only.
        powers: dtype in which one batch's powers are computed and summed; batches are always added in float64.
    """

    def __init__(
        self,
        width: int,
        groups: int = 1,
        device: torch.device | str = "cpu",
        *,
        may_be_empty: bool = False,
        powers: torch.dtype = torch.float64,
    ) -> None:
        self.may_be_empty = may_be_empty
        self.powers = powers
        # MPS is the only device of torch without float64.
        self.counts = torch.zeros(groups, dtype=torch.float64, device=device)
        self.power_sums = torch.zeros(groups, 4, width, dtype=torch.float64, device=device)  # of (x - shift)^k
        self.absolute_sums = torch.zeros(groups, width, dtype=torch.float64, device=device)
        self.max_abs = torch.zeros(width, dtype=torch.float64, device=device)
        self.shift: Tensor | None = None

    def update(self, inputs: Tensor, group: int = 0) -> None:
        """Add tokens.

        Args:
            inputs: `(tokens, width)`, any floating dtype.
            group: index of the group of the tokens.

        Raises:
            MeasurementError: if any value is NaN or infinite.
        """
        if self.may_be_empty and not len(inputs):
            return
        for part in inputs.split(max(1, CHUNK_BYTES // (self.powers.itemsize * inputs.shape[1]))):
            self._add(part.to(self.powers), group)

    def _add(self, x: Tensor, group: int) -> None:
        total = x.sum(dim=0)
        if not torch.isfinite(total).all() and not torch.isfinite(x).all():
            bad = int((~torch.isfinite(x)).any(dim=0).sum())
            raise MeasurementError(f"NaN or infinite activations in {bad} of {x.shape[1]} channels")
        if self.shift is None:
            self.shift = (total / len(x)).to(torch.float64)  # float64 holds it exactly
        self.counts[group] += len(x)
        absolute = x.abs()
        self.absolute_sums[group] += absolute.sum(dim=0)
        self.max_abs = torch.maximum(self.max_abs, absolute.amax(dim=0).to(self.max_abs))
        centred = torch.sub(x, self.shift.to(x), out=absolute)
        power = centred.clone()
        for k in range(4):
            self.power_sums[group, k] += power.sum(dim=0)
            if k < 3:
                power *= centred

    def magnitude(self, without: int | None = None) -> Tensor:
        """Mean over tokens of abs(x), `(width,)`, optionally with one group left out."""
        return self._pool(self.absolute_sums, without) / self._count(without)

    def mean(self) -> Tensor:
        """Mean over tokens, `(width,)`."""
        return self._shift() + self._pool(self.power_sums, None)[0] / self._count(None)

    def variance(self) -> Tensor:
        """Population variance over tokens, `(width,)`."""
        return self._central(None)[0]

    def excess_kurtosis(self, without: int | None = None) -> Tensor:
        """Excess kurtosis `E[(x - mu)^4] / sigma^4 - 3`, `(width,)`; 0 for a constant channel, by convention."""
        variance, fourth = self._central(without)
        # If a channel varies only by rounding noise, its kurtosis is meaningless.
        floor = (1e-12 * (self._shift().abs() + variance.sqrt())) ** 2
        alive = variance > floor
        safe = torch.where(alive, variance, torch.ones_like(variance))
        return torch.where(alive, fourth / safe**2 - 3.0, torch.zeros_like(variance))

    def _central(self, without: int | None) -> tuple[Tensor, Tensor]:
        first, second, third, fourth = self._pool(self.power_sums, without) / self._count(without)
        variance = (second - first**2).clamp(min=0.0)
        return variance, fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4

    def _shift(self) -> Tensor:
        if self.shift is not None:
            return self.shift
        if self.may_be_empty:
            return torch.zeros_like(self.max_abs)
        raise MeasurementError("no tokens were measured")

    def _count(self, without: int | None) -> Tensor:
        count = self._pool(self.counts, without)
        return count.clamp(min=1.0) if self.may_be_empty else count

    def _pool(self, sums: Tensor, without: int | None) -> Tensor:
        total = sums.sum(dim=0)
        return total if without is None else total - sums[without]
