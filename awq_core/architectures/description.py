"""Description of an architecture: input sites, folds and the table row that holds them.

`{expert}` in a name or a path is a placeholder for each expert of a mixture; `model.architecture_of` expands it to the
number of experts in a model's configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["attention_in", "attention_out", "mlp_in", "mlp_out"]
ROLES: tuple[Role, ...] = ("attention_in", "attention_out", "mlp_in", "mlp_out")

FoldKind = Literal["norm", "norm-plus-one", "linear"]
Rows = Literal["all", "last", "last-of-head"]

Requirements = tuple[tuple[str, tuple[Any, ...]], ...]
"""Requirements on a configuration: `(attribute, accepted values)` pairs. An absent attribute counts as None."""


class UnknownArchitectureError(ValueError):
    """Error for a model whose blocks the table of architectures does not describe."""


@dataclass(frozen=True)
class Site:
    """Input site: an input that one or more linears of a block read.

    Attributes:
        name: unique name in the block: the role, with the expert's index if the site is an expert's (`mlp_in.3`), as
            experts see different tokens.
        role: position of the input in the block.
        linears: `(family, path inside the block)` of every linear that reads it.
    """

    name: str
    role: Role
    linears: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Fold:
    """Fold: linears that share one scale, and the previous operation that absorbs its inverse.

    Attributes:
        sites: names of the sites whose channels are scaled; several if one norm feeds them all.
        previous: path inside the block of the norm or linear that produces the input.
        kind: how the inverse scale is absorbed: `norm` divides the norm's weight and bias; `norm-plus-one` is for a
            norm that multiplies by 1 + weight; `linear` divides the previous linear's output rows and bias.
        inspected: path of the module on whose output llm-awq's search takes its loss; empty for the block itself.
        rows: output rows of the previous linear that produce the site's channels: `all`; the `last` of a fused linear;
            `last-of-head`, where each head's query, key and value rows are adjacent.
        further: paths of modules that read the same input and are not quantized (routers); their weights are scaled
            too.
        requires: requirements on the configuration for the fold to preserve the model's function.
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
        """Name of the first site, unique among the block's folds."""
        return self.sites[0]


@dataclass(frozen=True)
class Architecture:
    """Row of the table of architectures.

    Attributes:
        model_types: values of `model_type` in the configurations that the row describes.
        blocks: path of the list of transformer blocks.
        sites: input sites of a block, in the order of the forward pass.
        folds: folds of a block, in llm-awq's order.
        experts: configuration attribute that holds the number of experts; None without a mixture.
        attention: attention implementation with which the model is loaded.
        requires: requirements on the configuration for the row to describe every block.
    """

    model_types: tuple[str, ...]
    blocks: str
    sites: tuple[Site, ...]
    folds: tuple[Fold, ...]
    experts: str | None = None
    attention: str = "sdpa"
    requires: Requirements = ()

    def site(self, name: str) -> Site:
        """Find a site by its name."""
        return next(site for site in self.sites if site.name == name)


def unmet(requirements: Requirements, config: Any) -> str | None:
    """Name the first configuration attribute whose value is not accepted; None if all requirements are met."""
    for attribute, values in requirements:
        value = getattr(config, attribute, None)
        if (tuple(value) if isinstance(value, list) else value) not in values:
            return attribute
    return None
