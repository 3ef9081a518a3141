"""Architecture of a model: its row of the table, its blocks and their linears.

The table is in `table.py`, and the classes of which its rows consist are in `description.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from awq_core.architectures.description import ROLES, Architecture, Fold, Role, Site, UnknownArchitectureError, unmet
from awq_core.architectures.experts import separate_experts
from awq_core.architectures.fold_rows import applicable_folds, shared_magnitude
from awq_core.architectures.linear_modules import in_storage_layout, is_linear, linear, stored, weight_of
from awq_core.architectures.table import ARCHITECTURES

__all__ = [
    "ARCHITECTURES",
    "ROLES",
    "SUPPORTED_MODEL_TYPES",
    "Architecture",
    "Fold",
    "LinearName",
    "Role",
    "Site",
    "UnknownArchitectureError",
    "applicable_folds",
    "architecture_of",
    "blocks_of",
    "in_storage_layout",
    "is_linear",
    "linear",
    "linears_of_block",
    "separate_experts",
    "shared_magnitude",
    "stored",
    "weight_of",
]

SUPPORTED_MODEL_TYPES: frozenset[str] = frozenset(t for row in ARCHITECTURES for t in row.model_types)

_EXPERT = "{expert}"


def architecture_of(config: Any) -> Architecture:
    """Find the table's row for a model, with one site for each of its experts.

    Args:
        config: the model's configuration; for a model without experts, its `model_type` is enough.

    Raises:
        UnknownArchitectureError: if no row describes the model.
        ValueError: if `config` is the model type of a mixture, whose number of experts only the configuration gives.
    """
    model_type = config if isinstance(config, str) else config.model_type
    for row in ARCHITECTURES:
        if model_type in row.model_types:
            break
    else:
        known = ", ".join(sorted(SUPPORTED_MODEL_TYPES))
        raise UnknownArchitectureError(
            f"model type {model_type!r} is not in the table of architectures; known: {known}"
        )
    if isinstance(config, str):
        if row.experts is not None:
            raise ValueError(f"a model of type {model_type!r} has experts: its configuration is needed to count them")
        return row
    if attribute := unmet(row.requires, config):
        raise UnknownArchitectureError(
            f"a model of type {model_type!r} with {attribute} = {getattr(config, attribute, None)!r} "
            "is not in the table of architectures"
        )
    return row if row.experts is None else _with_experts(row, getattr(config, row.experts))


def _with_experts(row: Architecture, count: int) -> Architecture:
    """Expand `{expert}` in a row to `count` experts.

    Sites, and folds between an expert's own linears, are repeated for each expert. A fold into the norm before the
    experts covers the sites of all of them.
    """
    sites = [site for pattern in row.sites for site in _sites_of_experts(pattern, count)]
    folds = []
    for pattern in row.folds:
        if _EXPERT in pattern.previous:
            folds += [
                replace(
                    pattern,
                    sites=tuple(_named(name, expert) for name in pattern.sites),
                    previous=_named(pattern.previous, expert),
                    inspected=_named(pattern.inspected, expert),
                )
                for expert in range(count)
            ]
        else:
            names = [name for site in pattern.sites for name in dict.fromkeys(_named(site, e) for e in range(count))]
            folds.append(replace(pattern, sites=tuple(names)))
    return replace(row, sites=tuple(sites), folds=tuple(folds))


def _sites_of_experts(pattern: Site, count: int) -> list[Site]:
    if _EXPERT not in pattern.name:
        return [pattern]
    return [
        Site(
            _named(pattern.name, expert),
            pattern.role,
            tuple((family, _named(path, expert)) for family, path in pattern.linears),
        )
        for expert in range(count)
    ]


def _named(pattern: str, expert: int) -> str:
    return pattern.replace(_EXPERT, str(expert))


@dataclass(frozen=True)
class LinearName:
    """Full name of a linear and its position in the model."""

    name: str
    block: int
    family: str
    role: Role
    site: str


def blocks_of(model: nn.Module, architecture: Architecture) -> nn.ModuleList:
    """Find the model's list of transformer blocks.

    Raises:
        UnknownArchitectureError: if the module at the row's path is not a list.
    """
    blocks = model.get_submodule(architecture.blocks)
    if not isinstance(blocks, nn.ModuleList):
        raise UnknownArchitectureError(f"{architecture.blocks} is a {type(blocks).__name__}, not a list of blocks")
    return blocks


def linears_of_block(architecture: Architecture, block: int) -> Iterator[LinearName]:
    """Iterate over the linears of one block, site by site."""
    for site in architecture.sites:
        for family, path in site.linears:
            yield LinearName(f"{architecture.blocks}.{block}.{path}", block, family, site.role, site.name)
