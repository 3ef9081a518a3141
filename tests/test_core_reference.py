"""The layer-level instrument against an independent, slow computation."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reports.diagnostic_file import diagnostic
from tests.reference_diagnostic import disagreements, reference_layers
from tests.structured_model import embedded, measured_layers, structured_model, tokens


@pytest.mark.parametrize(("kind", "key_value_heads"), [("llama", 4), ("qwen2", 2)])
def test_the_instrument_agrees_with_the_reference(kind: str, key_value_heads: int) -> None:
    """Every field of every linear, in float64; the splits differ in length, and are no multiple of the 16 groups."""
    model = structured_model(key_value_heads, kind)
    calibration, heldout = tokens(7), tokens(19, length=24, seed=1)
    measured = diagnostic(measured_layers(model, calibration, heldout))["layers"]
    reference = reference_layers(model, calibration, heldout)
    assert len(reference) == 14
    assert disagreements(measured, reference, relative=1e-9, absolute=1e-12) == []


def test_the_comparison_sees_a_small_difference_in_any_field() -> None:
    model = structured_model()
    calibration, heldout = tokens(2), tokens(16, length=8, seed=1)
    reference = reference_layers(model, calibration, heldout)
    same = json.loads(json.dumps(reference))
    assert disagreements(same, reference) == []
    name = "model.layers.1.self_attn.o_proj"
    for field, value in reference[name].items():
        if field.endswith("curves"):
            continue
        changed = json.loads(json.dumps(reference))
        if field.endswith("awq_best_alpha"):
            worst = int(np.argmax(reference[name][field.replace("awq_best_alpha", "curves")]["3"]))
            changed[name][field]["3"] = worst / 20
        elif isinstance(value, dict):
            changed[name][field]["3"] *= 1.001
        else:
            changed[name][field] = value * 1.001 + 2e-6
        assert len(disagreements(changed, reference)) == 1, field
    del same[name]
    assert disagreements(same, reference) == [f"other linears: ['{name}']"]


def test_group_sums_add_up_to_the_whole() -> None:
    """The held-out errors by group of windows, and what is left when one group is taken away."""
    model = structured_model()
    heldout = tokens(19, seed=1)
    measured = measured_layers(model, tokens(7), heldout)
    errors = measured.errors
    for quantizer, bits in (("asym-g128", 4), ("asym-g128", 3), ("sym-channel", 3)):
        both = errors["output_error"].sel(quantizer=quantizer, bits=bits)
        calibration, unseen = both.sel(split="calibration").values, both.sel(split="heldout").values
        for choice, index in (("rtn", np.zeros(14, dtype=int)), ("best", calibration.argmin(axis=1))):
            group = errors["group_error"].sel(quantizer=quantizer, judged_bits=bits, choice=choice)
            total = (group.sum("group") / errors["group_power"].sum("group")).values
            np.testing.assert_allclose(total, unseen[np.arange(14), index], rtol=1e-5)  # replayed in float32
    groups = np.array_split(heldout, 16)
    for group in (0, 15):
        rest = np.concatenate([g for i, g in enumerate(groups) if i != group])
        reference = reference_layers(model, tokens(1), rest)
        site = measured.channels["kurtosis_without_group"].sel(site="block 1 mlp_out").values[group]
        down = "model.layers.1.mlp.down_proj"
        assert site == pytest.approx(reference[down]["heldout_mean_kurtosis"], rel=1e-9)
        enrichment = measured.channels["enrichment_without_group"].sel(linear=down).values[group]
        assert enrichment * 100 / 96 == pytest.approx(reference[down]["heldout_top1pct_importance_share"], rel=1e-9)


COMPARED_SEQUENCES = {"calibration": 8, "heldout": 16}
COMPARED_LENGTH = 128


def test_the_diagnostic_file_of_an_embedded_model_agrees_with_the_reference() -> None:
    """Every linear, on the suite's default texts; the model runs in float32 as by default, the reference in float64.

    Replaying every token for 210 candidates is slow, so both take the first windows of those texts.
    `python -m tests.reference_diagnostic` does the same on all tokens of a written report.
    """
    model, selected = embedded("embedded-tiny")
    calibration = selected.calibration[: COMPARED_SEQUENCES["calibration"], :COMPARED_LENGTH]
    heldout = selected.heldout[: COMPARED_SEQUENCES["heldout"], :COMPARED_LENGTH]
    measured = diagnostic(measured_layers(model, calibration, heldout))["layers"]
    reference = reference_layers(model.double(), calibration, heldout)
    assert len(measured) == 7 * model.config.num_hidden_layers
    assert disagreements(measured, reference) == []
