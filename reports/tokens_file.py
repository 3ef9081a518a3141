"""`tokens.npz`: the exact token ids that a model was measured on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from awq_core.measured import SPLITS, Measured
from reports.writing import write_whole


def write_tokens(path: Path, measured: Measured) -> None:
    """Write arrays `calibration` and `heldout`, each `[sequences, length]`, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{split: measured.tokens[split] for split in SPLITS})  # type: ignore[arg-type]
    write_whole(path, buffer.getvalue())
