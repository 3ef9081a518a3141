"""Colours: the same family, the same method, in the same colour in every figure.

Families take Okabe and Ito's colours, which readers with any colour vision can tell apart; a marker of its own
doubles each. Methods take an indigo and greys that no family has.
"""

from __future__ import annotations

import zlib

FAMILY_COLOURS = {
    "q": "#56B4E9",
    "k": "#009E73",
    "v": "#000000",
    "o": "#D55E00",
    "gate": "#CC79A7",
    "up": "#E69F00",
    "down": "#0072B2",
    # Fused linears take the colour of one of their parts.
    "qkv": "#009E73",
    "gate_up": "#CC79A7",
}
FAMILY_MARKERS = {
    "q": "o",
    "k": "s",
    "v": "^",
    "o": "D",
    "gate": "v",
    "up": "P",
    "down": "X",
    "qkv": "s",
    "gate_up": "v",
}
_SPARE_COLOURS = ("#7F6000", "#5D3A9B", "#4B7B7B", "#8A2D3B")

INK = "#1c2026"
MUTED = "#5c6570"
RULE = "#d5d9de"
FAINT = "#b9bfc7"

RTN = "#7a828c"
AWQ = "#3b2a8c"
AWQ_LIGHT = "#9a8fd6"
GPTQ = "#0f7c78"
KEPT = "#a35a00"
TWIN = "#8a929c"
GAIN_SHADES = "PuOr_r"
"""Diverging: purple where AWQ loses, orange where it gains; safe for the colour-blind."""


def family_colour(family: str) -> str:
    """The family's colour; one that the table does not know gets the same spare colour every time."""
    return FAMILY_COLOURS.get(family) or _SPARE_COLOURS[zlib.crc32(family.encode()) % len(_SPARE_COLOURS)]


def family_marker(family: str) -> str:
    """The family's marker, for readers and printers without colour."""
    return FAMILY_MARKERS.get(family, "h")
