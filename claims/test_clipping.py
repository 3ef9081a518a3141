"""Clipping: what llm-awq's clip search does by itself, and what the scales still add to it."""

from awq_core.judging.intervals import Estimate
from awq_core.measured import Measured
from claims.support.claim import Setting, claim
from claims.support.readers import recovered


@claim(
    "clipping.alone",
    "Clipping by itself helps: round-to-nearest with llm-awq's clip search, and no scales, loses less",
    source="AWQ paper: clipping is part of the method, and no ablation separates it",
    above=0.005,
    unit="nats recovered",
    level="model",
    bits=(4, 3),
)
def test_alone(measured: Measured, setting: Setting) -> Estimate:
    return recovered(measured, setting, "rtn", "rtn-clip")


@claim(
    "clipping.scales-add",
    "With clipping, the scales still add: AWQ as published loses less than round-to-nearest with the same clip search",
    source="AWQ paper: no ablation separates the two",
    above=0.005,
    unit="nats recovered beyond clipping's",
    level="model",
    bits=(4, 3),
)
def test_scales_add(measured: Measured, setting: Setting) -> Estimate:
    return recovered(measured, setting, "rtn-clip", "awq-block-clip")
