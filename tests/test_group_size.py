"""Another group size, from the option to the evidence, and a quantizer that the suite does not have."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from awq_core.architectures.block_stream import BlockStream
from awq_core.measure.layers.instrument import LayerSettings, measure_layers
from awq_core.measure.methods.block_rounding import LayerFindings
from awq_core.measure.methods.table import METHODS, Strategy
from awq_core.measured import JUDGED_BITS, Measured
from awq_core.quantization import quantizers
from awq_core.quantization.output_error import relative_output_error
from awq_core.quantization.quantizers import (
    DEPLOYED,
    DIAGNOSTIC,
    AsymmetricGroups,
    Quantizer,
    Quantizers,
    quantizer_named,
)
from claims.support.catalogue import whole_catalogue
from claims.support.claim import Setting
from claims.support.judge import judge
from claims.support.published_readings import READINGS, NotApplicableError
from reports.diagnostic_file import diagnostic
from tests import reference_block_search, reference_diagnostic
from tests.reference_diagnostic import disagreements, reference_layers
from tests.reference_methods import ReferenceMethods, scores
from tests.structured_model import LLAMA, method_pass, structured_model, texts, tokens
from tests.suite_sessions import assert_no_traceback, everything

SIZES = [32, 64]
HELDOUT = tokens(3, seed=3)


def model() -> Any:
    """All widths are multiples of 64."""
    return structured_model(intermediate_size=128)


def measured_with(asked: Quantizers, **settings: Any) -> Measured:
    calibration, heldout = texts()[""], tokens(16, seed=1)
    stream = BlockStream(model(), LLAMA, {"calibration": calibration, "heldout": heldout})
    channels, errors = measure_layers(stream, LayerSettings(asked, **settings))
    return Measured("m", None, 0, channels, errors, None, {"calibration": calibration, "heldout": heldout}, {})


@pytest.fixture
def reference_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Gives the references another group size, which divides every width."""

    def at(group_size: int) -> None:
        for reference in (reference_diagnostic, reference_block_search):
            monkeypatch.setattr(reference, "group_size", lambda width: group_size)

    return at


def differences(group_size: int) -> list[str]:
    """What the layer-level instrument and the reference disagree on, field by field."""
    measured = measured_with((AsymmetricGroups(group_size), DIAGNOSTIC))
    layers = json.dumps(diagnostic(measured)["layers"]).replace(f"asym_g{group_size}_", "asym_g128_")
    expected = reference_layers(model(), measured.tokens["calibration"], measured.tokens["heldout"])
    return disagreements(json.loads(layers), expected, relative=1e-9, absolute=1e-12)


@pytest.mark.parametrize("group_size", SIZES)
def test_layers_are_measured_in_groups_of_this_size(group_size: int, reference_at: Callable[[int], None]) -> None:
    reference_at(group_size)
    assert differences(group_size) == []


def test_a_wrong_group_size_is_seen(reference_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an instrument rounds in other groups than it says, nearly every error differs."""
    reference_at(32)
    monkeypatch.setattr(AsymmetricGroups, "group_size_for", lambda self, width: 64)
    assert len(differences(32)) > 100


@pytest.mark.parametrize("group_size", SIZES)
def test_every_method_rounds_in_groups_of_this_size(group_size: int, reference_at: Callable[[int], None]) -> None:
    reference_at(group_size)
    measured = measured_with((AsymmetricGroups(group_size), DIAGNOSTIC))
    findings = LayerFindings.of(measured.channels, measured.errors, JUDGED_BITS, 0)
    subject = model()
    made, reference = method_pass(subject, findings), ReferenceMethods(subject, texts(), 0)
    listed = [Strategy(method, 3) for method in METHODS.values() if not method.grouped]
    for strategy, found in zip(listed, made.score(listed, HELDOUT), strict=True):
        loss, divergence = scores(subject, reference.quantized(strategy.method.name, 3), HELDOUT)
        np.testing.assert_allclose(found.loss, loss, rtol=2e-6, err_msg=strategy.name)
        np.testing.assert_allclose(found.divergence, divergence, rtol=2e-5, err_msg=strategy.name)


def test_evidence_is_read_at_the_group_size_that_was_asked_for() -> None:
    """A run that asks for one group size and is handed measurements at another ends in an error, not in a verdict."""
    measured = measured_with((AsymmetricGroups(64), DIAGNOSTIC), bits=JUDGED_BITS)
    claim = whole_catalogue()["payoff.layers"]
    with pytest.raises(ValueError, match="asym-g128"):
        judge(claim, measured, Setting(3), beside=False)
    assert "blocks" in judge(claim, measured, Setting(3, "asym-g64"), beside=False).reason  # of which there are two


def test_published_numbers_are_of_groups_of_128() -> None:
    measured = measured_with((AsymmetricGroups(64), DIAGNOSTIC), bits=JUDGED_BITS)
    for reading in ("perplexity-rtn-3", "steps-changed-2", f"constant-alpha-{DEPLOYED.name}-3"):
        with pytest.raises(NotApplicableError, match="measured in groups of 64, theirs of 128"):
            READINGS[reading](measured)
    assert READINGS["largest-reduction"](measured).value > 1  # under AWQ-Diag's quantizer


# sessions


def record(suite: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((suite.output / "tiny" / "evidence.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("group_size", SIZES)
def test_a_run_at_another_group_size(suite: Any, group_size: int) -> None:
    claims = ("claims/test_bits.py", "claims/test_payoff.py")
    chosen = ("-k", "four_times or layers or perplexity")
    result = suite.run(f"--group-size={group_size}", *chosen, claims=claims)
    assert_no_traceback(result)
    result.stdout.fnmatch_lines([f"  cpu (CPU), float32, groups of {group_size}, effort quick, seed 0"])
    found = record(suite)
    assert found["model"]["group_size"] == group_size
    assert found["answer"].startswith(f"At 4 bits, groups of {group_size}, tiny has perplexity ")
    estimates = {claim["key"]: claim["estimate"] for claim in found["claims"]}
    assert estimates["bits.four-times-smaller@4"] == pytest.approx(16 / (4 + 20 / group_size))
    layers = json.loads((suite.output / "tiny" / "diagnostic.json").read_text(encoding="utf-8"))["layers"]
    assert f"heldout_asym_g{group_size}_output_error" in next(iter(layers.values()))
    page = (suite.output / "tiny" / "report.html").read_text(encoding="utf-8")
    assert f"--group-size {group_size}" in page
    # Nothing of it is taken for a run at the default size, nor the other way round.
    before = everything(suite.run(f"--group-size={group_size}", *chosen, claims=claims))
    assert "judged from the cache" in before
    suite.run(*chosen, claims=claims)
    default = record(suite)
    assert default["model"]["group_size"] == 128
    by_default = {claim["key"]: claim["estimate"] for claim in default["claims"]}
    same = group_size == 64  # as wide as every linear, which 128 comes down to
    assert (by_default["payoff.layers@3"] == estimates["payoff.layers@3"]) is same
    assert "--group-size" not in (suite.output / "tiny" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("given", ["0", "-64", "1", "64.5", "many", ""])
def test_an_impossible_group_size_is_refused_in_one_line(suite: Any, given: str) -> None:
    result = suite.run(f"--group-size={given}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"--group-size {given!r} is none; give a whole number from 2 on, such as 64" in everything(result)
    assert_no_traceback(result)


def test_a_group_size_beyond_every_width_is_the_row() -> None:
    assert AsymmetricGroups(10**9).group_size_for(96) == 96


# a quantizer of one's own


@pytest.mark.parametrize("name", ["asym", "asym-g", "asym-g064", "sym-channel-g32", "nothing", ""])
def test_a_name_that_no_quantizer_has_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no quantizer is called"):
        quantizer_named(name)


def test_two_quantizers_are_not_of_one_kind() -> None:
    with pytest.raises(ValueError, match="two quantizers are of kind 'asym': AsymmetricGroups and Mine"):

        class Mine(AsymmetricGroups):
            kind = "asym"


def test_a_quantizer_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, stored, and measured beside the deployed one, exhaustively and in a race."""
    monkeypatch.setattr(quantizers, "KINDS", dict(quantizers.KINDS))

    @dataclass(frozen=True)
    class GroupsAroundZero(Quantizer):
        kind = "sym"
        group_size: int = 32

        def round(self, weight: Tensor, bits: int) -> Tensor:
            groups = weight.unflatten(-1, (-1, self.group_size))
            step = groups.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
            return (torch.round(groups / step) * step).flatten(-2)

        def stored_bytes(self, out_features: int, in_features: int, bits: int) -> float:
            return out_features * in_features * (bits / 8 + 2 / self.group_size)

    mine = GroupsAroundZero()
    assert quantizer_named("sym-g32") == mine
    assert mine.stored_bytes(8, 64, 4) == 8 * 32 + 16 * 2
    subject = model()
    for raced in (False, True):
        measured = measured_with((DEPLOYED, mine), raced=raced)
        assert measured.deployed == DEPLOYED
        for name, x in reference_diagnostic.captured_inputs(subject, measured.tokens["heldout"]).items():
            weight, moment = subject.get_submodule(name).weight.detach(), torch.from_numpy(x.T @ x)
            for quantizer in (mine, DEPLOYED):
                at = {"linear": name, "quantizer": quantizer.name, "bits": 3, "alpha": 0.0, "split": "heldout"}
                expected = relative_output_error(weight, quantizer.round(weight, 3), moment)
                assert float(measured.errors["output_error"].sel(at)) == pytest.approx(float(expected), rel=1e-9)
