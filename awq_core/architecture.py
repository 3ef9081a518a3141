"""What the suite knows of model architectures: one row says where the linears are and where scales fold.

Adding a family of models is adding a row to `ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

Role = Literal["attention_in", "attention_out", "mlp_in", "mlp_out"]
ROLES: tuple[Role, ...] = ("attention_in", "attention_out", "mlp_in", "mlp_out")


@dataclass(frozen=True)
class Site:
    """An input that linears share.

    Attributes:
        role: where in the block the input is.
        linears: `(family, path inside the block)` of every linear that reads it.
    """

    role: Role
    linears: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Fold:
    """Linears that share one scale, and the previous operation that absorbs its inverse.

    Attributes:
        role: the site whose channels are scaled.
        previous: path inside the block of the norm or linear before the site.
        kind: `norm` divides the norm's weight; `linear` divides the previous linear's output rows (and bias),
            and applies only where those rows are as many as the site's channels (not `v -> o` under
            grouped-query attention).
        inspected: path of the module on whose output the official search takes its loss.
    """

    role: Role
    previous: str
    kind: Literal["norm", "linear"]
    inspected: str


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        model_types: values of `model_type` in a model's configuration.
        blocks: path of the list of transformer blocks.
        sites: input sites of a block, in the order in which the forward pass meets them.
        folds: where scales go, in llm-awq's order.
    """

    model_types: tuple[str, ...]
    blocks: str
    sites: tuple[Site, ...]
    folds: tuple[Fold, ...]

    def site(self, role: Role) -> Site:
        """The site with this role."""
        return next(site for site in self.sites if site.role == role)


_LLAMA_SITES = (
    Site("attention_in", (("q", "self_attn.q_proj"), ("k", "self_attn.k_proj"), ("v", "self_attn.v_proj"))),
    Site("attention_out", (("o", "self_attn.o_proj"),)),
    Site("mlp_in", (("gate", "mlp.gate_proj"), ("up", "mlp.up_proj"))),
    Site("mlp_out", (("down", "mlp.down_proj"),)),
)

_LLAMA_FOLDS = (
    Fold("attention_in", "input_layernorm", "norm", inspected="self_attn"),
    Fold("attention_out", "self_attn.v_proj", "linear", inspected="self_attn.o_proj"),
    Fold("mlp_in", "post_attention_layernorm", "norm", inspected="mlp"),
    Fold("mlp_out", "mlp.up_proj", "linear", inspected="mlp.down_proj"),
)

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(("llama", "mistral", "qwen2"), "model.layers", _LLAMA_SITES, _LLAMA_FOLDS),
)

SUPPORTED_MODEL_TYPES: frozenset[str] = frozenset(t for row in ARCHITECTURES for t in row.model_types)


class UnknownArchitectureError(ValueError):
    """A model whose blocks the table does not describe."""


def architecture_of(model_type: str) -> Architecture:
    """The table's row for a `model_type`.

    Raises:
        UnknownArchitectureError: if there is none.
    """
    for row in ARCHITECTURES:
        if model_type in row.model_types:
            return row
    known = ", ".join(sorted(SUPPORTED_MODEL_TYPES))
    raise UnknownArchitectureError(f"model type {model_type!r} is not in the table of architectures; known: {known}")


@dataclass(frozen=True)
class LinearName:
    """One linear of a model: its full name, and where it stands."""

    name: str
    block: int
    family: str
    role: Role


def blocks_of(model: nn.Module, architecture: Architecture) -> nn.ModuleList:
    """The model's list of transformer blocks."""
    blocks = model.get_submodule(architecture.blocks)
    if not isinstance(blocks, nn.ModuleList):
        raise UnknownArchitectureError(f"{architecture.blocks} is a {type(blocks).__name__}, not a list of blocks")
    return blocks


def linears_of_block(architecture: Architecture, block: int) -> Iterator[LinearName]:
    """Every linear of one block, site by site."""
    for site in architecture.sites:
        for family, path in site.linears:
            yield LinearName(f"{architecture.blocks}.{block}.{path}", block, family, site.role)


def linear(model: nn.Module, name: str) -> nn.Linear:
    """The linear called `name`.

    Raises:
        UnknownArchitectureError: if the module there is not a linear: an adapter or an already quantized layer.
    """
    module: Any = model.get_submodule(name)
    if not isinstance(module, nn.Linear):
        raise UnknownArchitectureError(f"{name} is a {type(module).__name__}, where the table expects a linear")
    return module


def applicable_folds(model: nn.Module, architecture: Architecture, block: int) -> tuple[Fold, ...]:
    """The folds that the shapes allow: a linear's outputs must be as many as the site's channels."""
    prefix = f"{architecture.blocks}.{block}"

    def fits(fold: Fold) -> bool:
        if fold.kind == "norm":
            return True
        reader = architecture.site(fold.role).linears[0][1]
        return (
            linear(model, f"{prefix}.{fold.previous}").out_features == linear(model, f"{prefix}.{reader}").in_features
        )

    return tuple(fold for fold in architecture.folds if fits(fold))
