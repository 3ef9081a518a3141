"""Which figure draws what a claim is judged by, in which group it stands, and its number on the page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

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
    "payoff.logits": PERPLEXITY,
    "payoff.two-to-five": PERPLEXITY,
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
    "bits.four-per-bit": "error_by_bits",
    "calibration.few-suffice": PERPLEXITY,
    "calibration.robust": PERPLEXITY,
    "gptq.close": PERPLEXITY,
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
class Pictures:
    """The page's figures. Each picture is in the file once; wherever else it is shown, that one is drawn again.

    Attributes:
        drawings: by name, as drawn.
        groups: the groups of the page, in its order.
    """

    drawings: Mapping[str, Drawing]
    groups: Sequence[str]

    def of(self, claim: Claim) -> str:
        """The name of the figure that draws what the claim is judged by; empty where none does."""
        start = DRAWN_BY.get(claim["id"], DRAWN_BY.get(claim["group"], ""))
        return next((name for name in self.drawings if start and name.startswith(start)), "")

    def at(self, group: str) -> list[str]:
        """The figures at the group's end; those of no group on the page for the empty name."""
        return [name for name in self.drawings if self._home(name) == group]

    def number(self, name: str) -> int:
        """The figure's number: they are counted down the page."""
        in_order = [each for group in (*self.groups, "") for each in self.at(group)]
        return in_order.index(name) + 1

    def full(self, name: str) -> str:
        """The figure in full: its finding as a title, how to read it, the picture."""
        drawing, ident, picture = self.drawings[name], escape(name, quote=True), self.drawings[name].below_title
        size = f'width="{picture.width}" height="{picture.height}"'
        source = f"data:image/png;base64,{b64encode(picture.png).decode()}"
        image = f'<image id="picture-{ident}" {size} href="{source}"/>'
        return (
            f'<figure class="drawn" id="figure-{ident}"><figcaption id="caption-{ident}">'
            f"<b>Figure {self.number(name)}. {escape(drawing.finding)}</b>"
            f"<span>{escape(drawing.reading)}</span></figcaption>"
            f"{self._shown(name, image)}</figure>"
        )

    def beside(self, name: str) -> str:
        """The same figure beside a claim: small, and in full on demand."""
        again = f'<use href="#picture-{escape(name, quote=True)}"/>'
        return (
            f'<details class="figure"><summary><svg class="thumb" aria-hidden="true" {self._box(name)}>{again}</svg>'
            f"<span><b>Figure {self.number(name)}.</b> {escape(self.drawings[name].finding)}</span></summary>"
            f"{self._shown(name, again)}</details>"
        )

    def _shown(self, name: str, picture: str) -> str:
        """A picture that scrolls sideways where the page is narrower than it can be read."""
        caption = f"caption-{escape(name, quote=True)}"
        return (
            f'<div class="scrolls" role="group" aria-label="Figure {self.number(name)}" tabindex="0">'
            f'<svg class="picture" role="img" aria-labelledby="{caption}" {self._box(name)}>{picture}</svg></div>'
        )

    def _box(self, name: str) -> str:
        picture = self.drawings[name].below_title
        return f'viewBox="0 0 {picture.width} {picture.height}"'

    def _home(self, name: str) -> str:
        group = next((group for start, group in STANDS_IN.items() if name.startswith(start)), "")
        return group if group in self.groups else ""
