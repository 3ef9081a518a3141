"""What one block's input sites are fed: channel moments, second moments and outliers, split by split.

Outliers lie beyond six pooled standard deviations, which are known only when a split has been passed over. Its tokens
are kept until then where they fit into `KEPT_BYTES`; else the block is run once more.
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

KEPT_BYTES = 2**30
"""Most memory for the tokens of one split at all sites of a block."""

Batch = tuple[int, dict[str, Tensor]]
"""A group of windows, and the inputs `(tokens, width)` of every site."""


@dataclass
class SiteInputs:
    """One input site of one block.

    Attributes:
        role: where it stands.
        moments: by split.
        second_moments: by split.
        outliers: by split, how many values of each channel lie beyond six standard deviations, `(width,)`.
    """

    role: Role
    moments: dict[str, ChannelMoments]
    second_moments: dict[str, SecondMoment]
    outliers: dict[str, Tensor] = field(default_factory=dict)


class BlockSites:
    """All input sites of one block.

    Args:
        source: has begun the block.
        block: index of the block.
        linears: of the block.
        groups: groups of held-out windows.
        arithmetic: dtype of products and sums.
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
        for split in SPLITS:  # what judges comes last: its tokens are asked for again
            self._kept = []
            self._gather(split)
            self._count_outliers(split)

    def heldout(self) -> Iterable[Batch]:
        """The held-out tokens once more."""
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
        limits = {}  # of sites that have any
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
