"""The vocabulary in which an architecture is written down: sites, folds, and the row that holds them.

`{expert}` in a name or a path stands for each expert of a mixture; `model.architecture_of` writes it out for
as many experts as a model's configuration has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["attention_in", "attention_out", "mlp_in", "mlp_out"]
ROLES: tuple[Role, ...] = ("attention_in", "attention_out", "mlp_in", "mlp_out")

FoldKind = Literal["norm", "norm-plus-one", "linear"]
Rows = Literal["all", "last", "last-of-head"]

Requirements = tuple[tuple[str, tuple[Any, ...]], ...]
"""`(attribute of the configuration, values of it that will do)`; an absent attribute counts as None."""


class UnknownArchitectureError(ValueError):
    """A model whose blocks the table does not describe."""


@dataclass(frozen=True)
class Site:
    """An input that linears share.

    Attributes:
        name: unique in the block. It is the role, but for experts, which see different tokens: `mlp_in.3`.
        role: where in the block the input is.
        linears: `(family, path inside the block)` of every linear that reads it.
    """

    name: str
    role: Role
    linears: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Fold:
    """Linears that share one scale, and the previous operation that absorbs its inverse.

    Attributes:
        sites: names of the sites whose channels are scaled; several where one norm feeds them all.
        previous: path inside the block of the norm or linear before them.
        kind: `norm` divides the norm's weight (and bias); `norm-plus-one` a norm that multiplies by 1 + weight;
            `linear` divides the previous linear's output rows (and bias).
        inspected: path of the module on whose output the official search takes its loss; empty for the block itself.
        rows: which output rows of the previous linear are the site's channels: `all`; the `last` of a fused linear;
            `last-of-head`, where each head's query, key and value rows stand together.
        further: paths of modules that read the same input and are not quantized (routers): multiplied too.
        requires: what the configuration must say for this fold to change nothing.
    """

    sites: tuple[str, ...]
    previous: str
    kind: FoldKind
    inspected: str
    rows: Rows = "all"
    further: tuple[str, ...] = ()
    requires: Requirements = ()

    @property
    def name(self) -> str:
        """The first site's name, which no other fold of the block has."""
        return self.sites[0]


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        model_types: values of `model_type` in a model's configuration.
        blocks: path of the list of transformer blocks.
        sites: input sites of a block, in the order in which the forward pass meets them.
        folds: where scales go, in llm-awq's order.
        experts: attribute of the configuration that holds the number of experts; None without a mixture.
        attention: the attention implementation to load with.
        requires: what the configuration must say for the row to describe every block.
    """

    model_types: tuple[str, ...]
    blocks: str
    sites: tuple[Site, ...]
    folds: tuple[Fold, ...]
    experts: str | None = None
    attention: str = "sdpa"
    requires: Requirements = ()

    def site(self, name: str) -> Site:
        """The site with this name."""
        return next(site for site in self.sites if site.name == name)


def unmet(requirements: Requirements, config: Any) -> str | None:
    """The first attribute of a configuration that has none of the required values; None where all have."""
    for attribute, values in requirements:
        value = getattr(config, attribute, None)
        if (tuple(value) if isinstance(value, list) else value) not in values:
            return attribute
    return None
