"""One block's layer-level results as plain arrays: what is kept of a block once it has been measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from awq_core.kept_blocks import Arrays

Record = dict[str, Any]
"""One site's or one linear's results by name: numbers, text, arrays, or records of these."""


def to_arrays(sites: list[Record], linears: list[Record]) -> Arrays:
    """A block's records as arrays under names such as `linears/3/errors`; what `from_arrays` makes of them is equal."""
    flat: Arrays = {}
    for kind, records in (("sites", sites), ("linears", linears)):
        for index, record in enumerate(records):
            _flatten(record, f"{kind}/{index}", flat)
    return flat


def from_arrays(arrays: Arrays) -> tuple[list[Record], list[Record]]:
    """The records `(sites, linears)` that `to_arrays` was given."""
    found: dict[str, dict[int, Record]] = {"sites": {}, "linears": {}}
    for name, values in arrays.items():
        kind, index, *path, last = name.split("/")
        record = found[kind].setdefault(int(index), {})
        for step in path:
            record = record.setdefault(step, {})
        record[last] = values if values.ndim else values.item()
    return tuple([records[index] for index in sorted(records)] for records in found.values())  # type: ignore[return-value]


def _flatten(record: Record, prefix: str, flat: Arrays) -> None:
    for name, value in record.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}/{name}", flat)
        else:
            flat[f"{prefix}/{name}"] = np.asarray(value.cpu() if isinstance(value, Tensor) else value)
