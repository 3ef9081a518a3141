"""Which figure draws what a claim is judged by, in which group it stands, and its number on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports.figures import Drawing
from reports.verdict_words import Claim

PERPLEXITY = "perplexity_by_strategy"
LINEARS = "reduction_by_linear"
FAMILIES = "kurtosis_and_importance_by_family"
SURFACE = "importance_surface"
DIRECTION = "error_by_direction"

DRAWN_BY = {
    "concentration": "hockey_stick",
    "concentration.few-large": SURFACE,
    "concentration.typical-layer": FAMILIES,
    "outliers": "kurtosis_by_block",
    "outliers.salient-are-outliers": FAMILIES,
    "learned": "kurtosis_by_block",
    "learned.concentration": FAMILIES,
    "learned.channels": SURFACE,
    "learned.payoff": LINEARS,
    "localization": "reduction_by_family",
    "localization.kurtosis": "kurtosis_by_block",
    "localization.importance": FAMILIES,
    "payoff": LINEARS,
    "payoff.perplexity": PERPLEXITY,
    "payoff.as-published": PERPLEXITY,
    "payoff.logits": PERPLEXITY,
    "payoff.two-to-five": PERPLEXITY,
    "clipping": PERPLEXITY,
    "replication.benefit": "reduction_across_models",
    "replication.profile": "kurtosis_by_block",
    "constant-alpha": DIRECTION,
    "constant-alpha.non-inferior": PERPLEXITY,
    "constant-alpha.better": PERPLEXITY,
    "salience": PERPLEXITY,
    "salience.consistent": SURFACE,
    "salience.size-misleads": SURFACE,
    "mechanism.direction": DIRECTION,
    "mechanism.sweet-spot": DIRECTION,
    "bits.cliff": PERPLEXITY,
    "bits.two-percent": PERPLEXITY,
    "bits.near-lossless": PERPLEXITY,
    "bits.awq-degrades": PERPLEXITY,
    "bits.four-per-bit": "error_by_bits",
    "calibration.few-suffice": PERPLEXITY,
    "calibration.robust": PERPLEXITY,
    "gptq.close": PERPLEXITY,
    "gptq.better": PERPLEXITY,
    "gptq.two-percent": PERPLEXITY,
}
"""The beginning of a figure's name, by claim, or by group for claims not listed. Exact claims have none."""

STANDS_IN = {
    "hockey_stick": "concentration",
    SURFACE: "concentration",
    "kurtosis_by_block": "outliers",
    FAMILIES: "localization",
    "reduction_by_family": "localization",
    LINEARS: "payoff",
    PERPLEXITY: "payoff",
    "reduction_across_models": "replication",
    DIRECTION: "mechanism",
    "error_by_bits": "bits",
}
"""The group at whose end a figure stands in full, by the beginning of its name."""


@dataclass(frozen=True)
class Figure:
    """A figure of the page. Its picture is in the file once, in full; beside a claim that one is drawn again.

    Attributes:
        name: unique on the page.
        number: figures are counted down the page.
        group: the group at whose end it stands in full; empty where none on the page is its own.
        drawing: as drawn.
    """

    name: str
    number: int
    group: str
    drawing: Drawing


def figures(drawings: Mapping[str, Drawing], groups: Sequence[str]) -> list[Figure]:
    """The figures in the order of a page that has these groups; those of no group on it come last."""
    homes = {name: next((STANDS_IN[start] for start in STANDS_IN if name.startswith(start)), "") for name in drawings}
    places = {name: groups.index(home) if home in groups else len(groups) for name, home in homes.items()}
    return [
        Figure(name, number, [*groups, ""][places[name]], drawings[name])
        for number, name in enumerate(sorted(drawings, key=places.__getitem__), start=1)
    ]


def figure_of(claim: Claim, shown: Sequence[Figure]) -> Figure | None:
    """The figure that draws what the claim is judged by; None where none does."""
    start = DRAWN_BY.get(claim["id"], DRAWN_BY.get(claim["group"], ""))
    return next((figure for figure in shown if start and figure.name.startswith(start)), None)
