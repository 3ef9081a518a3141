"""Mechanical claims hold of any network, so what could refute one is a broken instrument: on it each must fail.

A small model is measured by the suite's own instruments, whole and with one thing in them broken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import awq_core.quantization.quantizers
import awq_core.quantization.scales
from awq_core.judging.evidence import Evidence, Verdict
from awq_core.measure.methods.block_rounding import LayerFindings
from awq_core.measure.methods.table import FULL, METHODS, Strategy
from awq_core.measured import Measured
from awq_core.quantization.quantizers import AsymmetricGroups
from claims.support.catalogue import whole_catalogue
from claims.support.claim import Setting
from claims.support.judge import judge
from fixtures.measuring.losses_dataset import losses_dataset
from tests.structured_model import (
    a_module,
    a_parameter,
    an_operation,
    measured_layers,
    method_pass,
    structured_model,
    tokens,
    while_folded,
)

CLAIMS = {claim.id: claim for claim in whole_catalogue().values() if claim.kind == "mechanical"}

Break = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Broken:
    """One way to break an instrument.

    Attributes:
        claim: the claim that must notice.
        words: what is broken.
        breaks: patches it in.
    """

    claim: str
    words: str
    breaks: Break


EVERY: list[Broken] = []


def breaks(claim: str, words: str) -> Callable[[Break], Break]:
    """Adds a broken instrument to those on which a claim must fail."""

    def add(function: Break) -> Break:
        EVERY.append(Broken(claim, words, function))
        return function

    return add


def exchanged(target: str, value: Any) -> Break:
    """Exchanges one thing."""
    return lambda monkeypatch: monkeypatch.setattr(target, value)


FOLDING, LAYERS = "awq_core.architectures.folding", "awq_core.measure.layers"
for words, name in (
    ("a norm before scaled linears is not divided", "_divide_norm"),
    ("a linear before scaled linears is not divided", "_divide_linear"),
    ("the bias of a linear before scaled linears is not divided", "_divide_bias"),
):
    breaks("mechanism.equivalence", words)(exchanged(f"{FOLDING}.{name}", lambda *_: None))


@breaks("mechanism.equivalence", "columns are divided by their scale, as the operation before them is")
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    def divide(parameters: dict[str, Tensor], name: str, scale: Tensor) -> None:
        parameters[name] = parameters[name] / scale.to(parameters[name])

    monkeypatch.setattr(f"{FOLDING}._multiply_columns", divide)


REAL_SCALES = awq_core.quantization.scales.linear_scales
for words, scales in (
    ("scales and their inverse are exchanged", lambda size, alphas: REAL_SCALES(size, -alphas)),
    ("small channels are taken for the large ones", lambda size, alphas: REAL_SCALES(1 / size, alphas)),
    ("no scale is applied at all", lambda size, alphas: size.new_ones(len(alphas), len(size))),
):

    @breaks("mechanism.direction", words)
    def _(monkeypatch: pytest.MonkeyPatch, scales: Callable[[Tensor, Tensor], Tensor] = scales) -> None:
        for module in ("errors", "mechanism"):
            monkeypatch.setattr(f"{LAYERS}.{module}.linear_scales", scales)


@breaks("mechanism.step-stays", "steps follow the group's mean size and not its range")
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        size = groups.square().mean(dim=-1).sqrt()
        return size, torch.zeros_like(size)

    monkeypatch.setattr(f"{LAYERS}.mechanism.steps_and_zero_points", steps)


@breaks("mechanism.step-stays", "steps are taken over the whole tensor")
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    real = awq_core.quantization.quantizers.steps_and_zero_points

    def steps(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        step, zero = real(groups.flatten(), bits)
        return step.expand(groups.shape[:-1]), zero.expand(groups.shape[:-1])

    monkeypatch.setattr(f"{LAYERS}.mechanism.steps_and_zero_points", steps)


breaks("mechanism.step-stays", "half of the channels are taken for salient")(
    exchanged(f"{LAYERS}.mechanism.salient_channels", lambda values: np.argsort(-values)[: len(values) // 2])
)
breaks("mechanism.uniform-is-nothing", "the floor under a group's range is as large as the weights")(
    exchanged("awq_core.quantization.quantizers.SMALLEST_RANGE", 1.0)
)


@breaks("mechanism.uniform-is-nothing", "the scale is not divided out of one weight of all")
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    real = awq_core.quantization.scales.scaled_round_to_nearest
    found = []

    def forgets(weight: Tensor, scales: Tensor, *rest: Any) -> Tensor:
        quantized = real(weight, scales, *rest)
        if not found:
            place = tuple(quantized.nonzero()[0])
            quantized[place] *= scales[place[-1]]
            found.append(place)
        return quantized

    monkeypatch.setattr(f"{LAYERS}.mechanism.scaled_round_to_nearest", forgets)


for words, add in (
    ("folding adds a module", a_module),
    ("folding adds a parameter", a_parameter),
    ("folding adds an operation", an_operation),
):
    breaks("mechanism.no-overhead", words)(partial(while_folded, add=add))


for words, name, value in (
    ("importance is the weight alone", "importance", lambda weight, magnitude: weight),
    ("importance is the activation alone", "importance", lambda weight, magnitude: magnitude),
    ("importance is a sum", "importance", lambda weight, magnitude: weight + magnitude),
    ("the least important channel is protected", "salient_channels", lambda values: np.argsort(values)[:1]),
):
    breaks("mechanism.traffic-arithmetic", words)(exchanged(f"claims.support.worked_examples.{name}", value))


def with_bits(change: Callable[[int], int]) -> Break:
    real = awq_core.quantization.scales.round_to_nearest
    return exchanged(
        "awq_core.quantization.scales.round_to_nearest", lambda weight, name, bits: real(weight, name, change(bits))
    )


breaks("bits.four-per-bit", "bits beyond 4 are ignored")(with_bits(lambda bits: min(bits, 4)))
breaks("bits.four-per-bit", "every bit is spent twice")(with_bits(lambda bits: 2 * bits))


breaks("bits.four-times-smaller", "every eight weights have a step of their own")(
    exchanged("awq_core.quantization.quantizers.AsymmetricGroups.group_size_for", lambda self, width: 8)
)


@breaks("bits.four-times-smaller", "codes are stored in a byte each")
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    real = AsymmetricGroups.stored_bytes
    monkeypatch.setattr(
        AsymmetricGroups, "stored_bytes", lambda self, *shape_and_bits: real(self, *shape_and_bits[:2], 8)
    )


def measure(level: str) -> Measured:
    """The model's layers, or its losses beside them: through the suite's own instruments, as they are at the time."""
    model = structured_model(kind="qwen2", num_hidden_layers=4)
    calibration, heldout = tokens(8), tokens(16, seed=1)
    measured = measured_layers(model, calibration, heldout)
    if level == "layer":
        return measured
    layers = LayerFindings.of(measured.channels, measured.errors, (), 0)
    made, listed = method_pass(model, layers), [FULL, Strategy(METHODS["rtn"], 3)]
    losses = losses_dataset(listed, made.score(listed, heldout), made, heldout, 0)
    return replace(measured, losses=losses, parameters=model.num_parameters())


@cache
def whole(level: str) -> Measured:
    """The same through instruments that nothing was done to."""
    return measure(level)


COMPUTED = ("mechanism.traffic-arithmetic", "bits.four-times-smaller")
"""Claims that compute when they are judged: whatever breaks them, the measurements are the same."""


def judged(claim: str, measured: Measured) -> list[Evidence]:
    """At every precision that the claim has a verdict for."""
    entry = CLAIMS[claim]
    return [judge(entry, measured, Setting(bits)) for bits in entry.bits or (None,)]


@pytest.mark.parametrize("claim", CLAIMS)
def test_sound_instruments_support_every_mechanical_claim(claim: str) -> None:
    for evidence in judged(claim, whole(CLAIMS[claim].level)):
        assert evidence.verdict is Verdict.SUPPORTED, evidence


@pytest.mark.parametrize("broken", EVERY, ids=lambda broken: f"{broken.claim}: {broken.words}")
def test_a_broken_instrument_refutes_its_claim(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    level = CLAIMS[broken.claim].level
    measured = whole(level) if broken.claim in COMPUTED else None
    broken.breaks(monkeypatch)
    for evidence in judged(broken.claim, measured or measure(level)):
        assert evidence.verdict is Verdict.REFUTED, evidence


def test_every_mechanical_claim_has_a_broken_instrument() -> None:
    assert {broken.claim for broken in EVERY} == set(CLAIMS)
