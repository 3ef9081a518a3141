"""What measuring one model yields: three labelled datasets and where they came from.

Everything a claim, a figure or a report needs is here; none of them touches a model. The datasets'
dimensions and variables are listed in `docs/datasets.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from awq_core.quantization.quantizers import DEPLOYED, DIAGNOSTIC, AsymmetricGroups, Quantizers, quantizer_named

SPLITS = ("calibration", "heldout")
QUANTIZERS: Quantizers = (DEPLOYED, DIAGNOSTIC)
BITS = (2, 3, 4, 6, 8)
JUDGED_BITS = (4, 3)
ALPHAS = tuple(i / 20 for i in range(21))


def is_judged(bits: int, *, deployed: bool) -> bool:
    """Whether claims read a setting: the deployed quantizer at the judged bits, any other at 3; the rest is shown."""
    return bits in JUDGED_BITS and (deployed or bits == 3)


def deployed_quantizer(errors: xr.Dataset) -> AsymmetricGroups:
    """The quantizer that dataset `errors` calls deployed: the first of its coordinate.

    Raises:
        ValueError: if it rounds in no groups with zero points, which methods build on.
    """
    found = quantizer_named(str(errors["quantizer"].values[0]))
    if not isinstance(found, AsymmetricGroups):
        raise ValueError(f"the deployed quantizer must round in asymmetric groups, got {found.name}")
    return found


TRAFFIC_KINDS = ("prose", "code", "json", "long-prompts", "languages")
"""What models are asked in use; the passages are the project's own (`fixtures/texts/traffic`)."""
GROUPS = 16
"""Groups of neighbouring held-out windows, resampled where a claim is about a single linear."""


@dataclass(frozen=True)
class Measured:
    """The measurements of one model (or of one untrained twin, then without losses).

    Attributes:
        name: what `--model` called it, safe as a folder name.
        family: what other sizes it may be compared with (`"qwen2.5"`), or None.
        parameters: number of parameters.
        channels: per input site and channel, and per linear and channel (see `docs/datasets.md`).
        errors: squared relative output errors by linear, quantizer, bits, alpha and split.
        losses: window losses and logit divergences by strategy; None for a twin.
        tokens: the exact ids, `calibration` and `heldout`, each `[sequences, length]`.
        provenance: plain values: model id, revision, hashes, dtype, device, versions, effort, seed, times.
        traffic: magnitudes and errors under each kind of traffic; None where it was not measured.
        twins: the model's untrained twins, one per seed of their initialiser.
        scenarios: a planted control's further scenarios by name; empty for any other model.
    """

    name: str
    family: str | None
    parameters: int
    channels: xr.Dataset
    errors: xr.Dataset
    losses: xr.Dataset | None
    tokens: dict[str, np.ndarray]
    provenance: dict[str, Any]
    traffic: xr.Dataset | None = None
    twins: tuple[Measured, ...] = ()
    scenarios: dict[str, Measured] = field(default_factory=dict)

    @property
    def deployed(self) -> AsymmetricGroups:
        """The quantizer that claims are judged under."""
        return deployed_quantizer(self.errors)

    def for_claim(self, claim_id: str) -> Measured:
        """What a claim is judged on: the measurements themselves, or the planted scenario that plants its effect."""
        scenario = self.provenance.get("scenario_of_claim", {}).get(claim_id)
        return self.scenarios.get(scenario, self)
