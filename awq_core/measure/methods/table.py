"""Table of methods: each row says how a method calibrates a block and how it rounds it.

All round under the deployed quantizer. A method that *deploys* is an ordinary checkpoint of the same architecture; one
that does not would need something more at run time, which its `needs` names. Adding a method is adding a row to
`METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from awq_core.architectures.folding import Parameters
from awq_core.architectures.model import Architecture, applicable_folds, blocks_of
from awq_core.measure.methods import block_rounding as rounding
from awq_core.measure.methods import searches
from awq_core.measure.methods.block_rounding import Rounding
from awq_core.measure.methods.search_results import SearchResults
from awq_core.measure.methods.searches import Calibration

RANDOM_CHOICES = 9
"""Number of random choices of kept channels, the chance level with which choosing by weight is compared."""

CHOICES_AT_ONCE = 3
"""Number of random choices by which each look at the losses scores more, until a claim is decided."""

A_SCALE_AT_RUN_TIME = "a multiplication at run time wherever no operation absorbs the scale"
MIXED_PRECISION = "two precisions in one matrix"


@dataclass(frozen=True)
class Method:
    """Method of quantizing a model, block by block.

    Attributes:
        name: such as `rtn` or `awq-block`.
        round: an opened block's changed parameters, in the model's own layout.
        search: finds what rounding builds on, from what reaches the block; None where nothing is calibrated.
        builds_on: the method whose search it rounds with, or its own search starts from.
        needs: what it needs beyond an ordinary checkpoint; empty where it deploys as it is.
        folds_everywhere: it deploys where an operation absorbs every linear's scale; elsewhere it needs its `needs`.
        own_inputs: its search sees what the blocks before, rounded by it, make of the text.
        draws_searched: its search rounds, and is made anew for every redraw.
        reads_layers: it rounds with what the layer-level instruments found (`LayerFindings`).
        elsewhere: text sets, beside the usual one, that it is calibrated on too.
        shown: no claim waits for it; it is scored where all methods are.
        grouped: it differs from the others only under grouped-query attention.
    """

    name: str
    round: Callable[[Rounding], Parameters]
    search: Callable[[Calibration], SearchResults] | None = None
    builds_on: str = ""
    needs: str = ""
    folds_everywhere: bool = False
    own_inputs: bool = False
    draws_searched: bool = False
    reads_layers: bool = False
    elsewhere: tuple[str, ...] = ()
    shown: bool = False
    grouped: bool = False


_EVERYWHERE: dict[str, Any] = {"needs": A_SCALE_AT_RUN_TIME, "folds_everywhere": True}

_ROWS = (
    Method("rtn", rounding.plain),
    Method(
        "rtn-clip",
        partial(rounding.folded, limits="rtn-clip"),
        partial(searches.clip_limits, scaled=False),
    ),
    Method(
        "awq-linear",
        partial(rounding.scaled, alpha_of=lambda layers, bits, name: layers.alphas[bits][name]),
        needs=A_SCALE_AT_RUN_TIME,
        reads_layers=True,
        shown=True,
    ),
    Method("awq-site", rounding.scaled_by_site, searches.site_scales, shown=True, **_EVERYWHERE),
    Method(
        "awq-constant-everywhere",
        partial(rounding.scaled, alpha_of=lambda layers, bits, name: layers.constant[bits]),
        reads_layers=True,
        **_EVERYWHERE,
    ),
    Method(
        "awq-half",
        partial(rounding.scaled, alpha_of=lambda layers, bits, name: 0.5),
        reads_layers=True,
        shown=True,
        **_EVERYWHERE,
    ),
    Method(
        "awq-block",
        partial(rounding.folded, scales="awq-block"),
        searches.block_scales,
        elsewhere=("few", "foreign", "matched"),
    ),
    Method(
        "awq-block-clip",
        partial(rounding.folded, scales="awq-block", limits="awq-block-clip"),
        searches.clip_limits,
        builds_on="awq-block",
    ),
    Method(
        "awq-constant",
        partial(rounding.folded, scales=rounding.one_exponent),
        builds_on="awq-block",
        reads_layers=True,
        shown=True,
    ),
    Method(
        "awq-duo",
        partial(rounding.folded, scales="awq-duo"),
        partial(searches.block_scales, formula="duo"),
        shown=True,
    ),
    Method(
        "awq-grouped",
        partial(rounding.folded, scales="awq-grouped"),
        searches.grouped_scales,
        builds_on="awq-block",
        shown=True,
        grouped=True,
    ),
    Method(
        "gptq",
        partial(rounding.coded, method="gptq"),
        searches.gptq,
        own_inputs=True,
        draws_searched=True,
        elsewhere=("foreign", "matched"),
    ),
    Method(
        "gptq-parallel",
        partial(rounding.coded, method="gptq-parallel"),
        searches.gptq,
        draws_searched=True,
        shown=True,
    ),
    Method(
        "gptq-order",
        partial(rounding.coded, method="gptq-order"),
        partial(searches.gptq, activation_order=True),
        draws_searched=True,
        shown=True,
    ),
    Method(
        "keep-activation",
        partial(rounding.keeping, chosen=rounding.by_activation),
        needs=MIXED_PRECISION,
        reads_layers=True,
    ),
    Method("keep-weight", partial(rounding.keeping, chosen=rounding.by_weight), needs=MIXED_PRECISION),
    *(
        Method(
            f"keep-random{choice}",
            partial(rounding.keeping, chosen=partial(rounding.at_random, choice=choice)),
            needs=MIXED_PRECISION,
            reads_layers=True,
        )
        for choice in range(RANDOM_CHOICES)
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ROWS}
"""Methods by name."""


@dataclass(frozen=True)
class Strategy:
    """Method at one precision and on one text set, as it is scored.

    Attributes:
        method: the method.
        bits: precision; 0 for full precision.
        text: name of the calibration text set; empty for the usual one.
        draw: number of the redraw (see `Rounding`); 0 for none.
        needs: what the strategy needs beyond an ordinary checkpoint of this model; empty if it deploys as one.
    """

    method: Method
    bits: int
    text: str = ""
    draw: int = 0
    needs: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """Name of the method and its text set, such as `awq-block-few`."""
        return f"{self.method.name}-{self.text}" if self.text else self.method.name

    @property
    def name(self) -> str:
        """Name of the strategy: label, bits, and the draw of a redraw, such as `full`, `awq-block-3`, `rtn-4~2`."""
        parts = [self.label, str(self.bits)] if self.bits else [self.label]
        return "-".join(parts) + (f"~{self.draw}" if self.draw else "")

    def searches(self) -> list[Strategy]:
        """List the searches that rounding needs, in order: of the method that this one builds on, and its own."""
        before = [METHODS[self.method.builds_on]] if self.method.builds_on else []
        return [
            Strategy(method, self.bits, self.text, self.draw if method.draws_searched else 0)
            for method in (*before, self.method)
            if method.search is not None
        ]


FULL = Strategy(Method("full", rounding.nothing), 0)
RTN_AT_TWO_BITS = Strategy(METHODS["rtn"], 2)


def strategies(model: Any, architecture: Architecture, bits: tuple[int, ...], *, all_methods: bool) -> list[Strategy]:
    """List the strategies that are scored for a model: full precision first, then all methods at each precision.

    Args:
        model: the model; its blocks need not be open.
        architecture: the model's row of the table.
        bits: precisions.
        all_methods: whether to include methods that no claim needs, and round-to-nearest at 2 bits.
    """
    blocks = range(len(blocks_of(model, architecture)))
    folds = [applicable_folds(model, architecture, block) for block in blocks]
    everywhere = all(
        {site for fold in of for site in fold.sites} == {s.name for s in architecture.sites} for of in folds
    )
    grouped = any(
        len(applicable_folds(model, architecture, block, grouped=True)) > len(of)
        for block, of in zip(blocks, folds, strict=True)
    )
    listed = [FULL, *([RTN_AT_TWO_BITS] if all_methods else [])]
    for precision in sorted(bits):
        for method in METHODS.values():
            if (method.shown and not all_methods) or (method.grouped and not grouped):
                continue
            needs = "" if method.folds_everywhere and everywhere else method.needs
            listed += [Strategy(method, precision, text, needs=needs) for text in ("", *method.elsewhere)]
    return listed
