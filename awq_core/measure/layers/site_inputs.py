"""Statistics of the inputs of one block's sites: channel moments, second moments and outliers, by split.

Outliers lie beyond six pooled standard deviations, which are known only after a pass over the whole split. The tokens
stay in memory until then if they fit into `KEPT_BYTES`; otherwise the block is run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from awq_core.architectures.model import Role
from awq_core.architectures.sources import LayerSource, LinearWeights
from awq_core.measure.layers.moments import ChannelMoments, MeasurementError
from awq_core.measure.layers.second_moment import SecondMoment
from awq_core.measured import SPLITS

OUTLIER_SIGMA = 6.0
"""Number of standard deviations beyond which a value is an outlier."""

KEPT_BYTES = 2**30
"""Largest size of one split's inputs at all sites of a block that stay in memory, in bytes."""

Batch = tuple[int, dict[str, Tensor]]
"""Index of a group of windows, and the inputs `(tokens, width)` of every site."""


@dataclass
class SiteInputs:
    """Statistics of the inputs of one site.

    Attributes:
        role: position of the site in the block.
        moments: channel moments by split.
        second_moments: second moments by split.
        outliers: number of values of each channel beyond `OUTLIER_SIGMA` standard deviations, `(width,)`, by split.
    """

    role: Role
    moments: dict[str, ChannelMoments]
    second_moments: dict[str, SecondMoment]
    outliers: dict[str, Tensor] = field(default_factory=dict)


class BlockSites:
    """Statistics of the inputs of all sites of one block, measured on construction.

    Args:
        source: source in which the block has begun.
        block: index of the block.
        linears: linears of the block.
        groups: number of groups of held-out windows.
        arithmetic: dtype of products and sums.

    Attributes:
        sites: statistics by name of the site.

    Raises:
        MeasurementError: if an activation is NaN or infinite.
    """

    def __init__(
        self,
        source: LayerSource,
        block: int,
        linears: list[LinearWeights],
        groups: int,
        arithmetic: torch.dtype,
    ) -> None:
        self._source = source
        self._block = block
        self._arithmetic = arithmetic
        self._kept: list[Batch] | None = None
        self.sites: dict[str, SiteInputs] = {}
        for entry in linears:
            if entry.site in self.sites:
                continue
            width, device = entry.weight.shape[1], entry.weight.device
            of_an_expert = entry.site != entry.role
            self.sites[entry.site] = SiteInputs(
                entry.role,
                {
                    split: ChannelMoments(width, groups, device, may_be_empty=of_an_expert, powers=arithmetic)
                    for split in SPLITS
                },
                {split: SecondMoment(width, arithmetic, device) for split in SPLITS},
            )
        for split in SPLITS:  # held-out last, because its tokens are read again
            self._kept = []
            self._gather(split)
            self._count_outliers(split)

    def heldout(self) -> Iterable[Batch]:
        """Iterate over the held-out batches again."""
        return self._again("heldout")

    def _gather(self, split: str) -> None:
        room = KEPT_BYTES
        for group, inputs in self._source.passes(self._block, split):
            for name, site in self.sites.items():
                try:
                    site.moments[split].update(inputs[name], group)
                except MeasurementError as problem:
                    raise MeasurementError(f"block {self._block}, {name}: {problem}") from None
                site.second_moments[split].update(inputs[name])
            room -= sum(inputs[name].nbytes for name in self.sites)
            if self._kept is not None:
                self._kept = [*self._kept, (group, {name: inputs[name] for name in self.sites})] if room >= 0 else None

    def _again(self, split: str) -> Iterator[Batch]:
        yield from self._source.passes(self._block, split) if self._kept is None else self._kept

    def _count_outliers(self, split: str) -> None:
        limits = {}  # of sites that have outliers
        for name, site in self.sites.items():
            moments = site.moments[split]
            site.outliers[split] = torch.zeros_like(moments.max_abs)
            limit = OUTLIER_SIGMA * moments.variance().sqrt()
            if (moments.max_abs > limit).any():
                limits[name] = limit.to(self._arithmetic)
        for _, inputs in self._again(split) if limits else ():
            for name, limit in limits.items():
                x = inputs[name].to(self._arithmetic)
                self.sites[name].outliers[split] += (x.abs() > limit).sum(dim=0)
