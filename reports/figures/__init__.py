"""The figures of one model, by name, in the order in which the report shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from awq_core.measured import Measured
from reports.figures.canvas import Drawing, style
from reports.figures.direction import error_by_direction
from reports.figures.error import error_by_bits
from reports.figures.kurtosis import kurtosis_and_importance_by_family, kurtosis_by_block
from reports.figures.perplexity import perplexity_by_strategy
from reports.figures.reduction import reduction_across_models, reduction_by_family, reduction_by_linear
from reports.figures.saliency import hockey_stick
from reports.figures.surface import importance_surface

__all__ = ["Drawing", "draw_all"]


def draw_all(measured: Measured, all_measured: Sequence[Measured]) -> dict[str, Drawing]:
    """Every figure that the model's measurements allow.

    Args:
        measured: the model that the figures are about.
        all_measured: every model measured in the session, it included, for the comparison across models.
    """
    # The families behind attention and behind the MLP: o and down, or what the architecture calls them.
    behind = {
        str(role): str(family)
        for family, role in zip(
            measured.channels["linear_family"].values,
            measured.channels["site_role"].sel(site=measured.channels["linear_site"]).values,
            strict=True,
        )
    }
    figures: dict[str, Callable[[], Drawing | None]] = {"hockey_stick": lambda: hockey_stick(measured)}
    for role in ("mlp_out", "attention_out"):
        if family := behind.get(role):
            figures[f"importance_surface_{family}"] = lambda family=family: importance_surface(measured, family)  # type: ignore[misc]
    figures |= {
        "kurtosis_by_block": lambda: kurtosis_by_block(measured),
        "kurtosis_and_importance_by_family": lambda: kurtosis_and_importance_by_family(measured),
        "error_by_bits": lambda: error_by_bits(measured),
        "reduction_by_linear": lambda: reduction_by_linear(measured),
        "reduction_by_family": lambda: reduction_by_family(measured),
        "reduction_across_models": lambda: reduction_across_models(all_measured),
        "error_by_direction": lambda: error_by_direction(measured),
        "perplexity_by_strategy": lambda: perplexity_by_strategy(measured),
    }
    with style():
        drawn = {name: draw() for name, draw in figures.items()}
    return {name: drawing for name, drawing in drawn.items() if drawing is not None}
