"""Measurements of one model: labelled datasets and their provenance.

Claims, figures and reports read only these and never touch a model. `docs/datasets.md` lists the datasets' dimensions
and variables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from awq_core.quantization.quantizers import QuantizerName

SPLITS = ("calibration", "heldout")
QUANTIZERS: tuple[QuantizerName, ...] = ("asym-g128", "sym-channel")
BITS = (2, 3, 4, 6, 8)
JUDGED_BITS = (4, 3)
ALPHAS = tuple(i / 20 for i in range(21))


def is_judged(quantizer: str, bits: int) -> bool:
    """Whether claims read a setting: the deployed quantizer at the judged bits, AWQ-Diag's at 3; others are shown."""
    return bits in JUDGED_BITS and (quantizer == "asym-g128" or bits == 3)


TRAFFIC_KINDS = ("prose", "code", "json", "long-prompts", "languages")
"""Kinds of text that models meet in use; the passages are the project's own (`fixtures/texts/traffic`)."""
GROUPS = 16
"""Number of groups of neighbouring held-out windows, which claims about a single linear resample."""


@dataclass(frozen=True)
class Measured:
    """Measurements of one model, or of one untrained twin.

    Attributes:
        name: name of the model, safe as a folder name.
        family: family of models of different sizes with which it may be compared (`"qwen2.5"`), or None.
        parameters: number of parameters.
        channels: statistics by input site and channel, and by linear and channel (see `docs/datasets.md`).
        errors: squared relative output errors by linear, quantizer, bits, alpha and split.
        losses: window losses and logit divergences by strategy; None if they were not measured, as for a twin.
        tokens: token ids `[sequences, length]` by split.
        provenance: plain values: model id, revision, hashes, dtype, device, versions, effort, seed, times.
        traffic: magnitudes and errors under each kind of traffic; None if they were not measured.
        twins: measurements of the model's untrained twins, one for each of their seeds.
        scenarios: measurements of a planted control's further scenarios by name; empty for any other model.
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

    def for_claim(self, claim_id: str) -> Measured:
        """Measurements on which a claim is judged: these, or those of the scenario that plants the claim's effect."""
        scenario = self.provenance.get("scenario_of_claim", {}).get(claim_id)
        return self.scenarios.get(scenario, self)
