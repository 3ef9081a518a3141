"""The scale searches of calibrating against slow ones that replay every module, and the averaged fold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from awq_core.block_search import OFFICIAL_ALPHAS, FoundScale
from awq_core.calibrated import BLOCK, DUO, GROUPED, METHODS, Calibrated, calibrate
from awq_core.strategies import applied, folded_parameters

from awq_core import block_inputs, replays
from awq_core.architecture import architecture_of, in_storage_layout
from awq_core.moments import MeasurementError
from awq_core.racing import TOLERANCE
from awq_core.streaming import BlockStream
from fixtures.models.loading import load_model, load_tokenizer
from fixtures.models.resolve import resolve
from fixtures.texts.tokens import sequences, tokenize
from fixtures.texts.traffic import passages
from tests import reference_block_search
from tests.reference_diagnostic import captured_inputs
from tests.structured_model import LLAMA, structured_model, tokens

MODELS = pytest.mark.parametrize(("kind", "key_value_heads"), [("llama", 4), ("qwen2", 2)])


@MODELS
@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize(("method", "formula"), [(BLOCK, "official"), (DUO, "duo")])
def test_every_candidate_s_loss_is_the_replayed_one(
    method: str, formula: str, bits: int, kind: str, key_value_heads: int
) -> None:
    """Losses, scales and winners, for llm-awq's scales and for AutoAWQ's."""
    model = structured_model(key_value_heads, kind)
    calibration = tokens(6)
    found = calibrate(model, LLAMA, calibration, (bits,), (method,), exhaustive=True).scales[method, bits]
    expected = reference_block_search.search(model, torch.from_numpy(calibration), bits, formula)
    assert [(entry.block, entry.fold.inspected) for entry in found] == list(expected)
    assert_losses_are_those(found, expected)
    assert len({entry.alpha for entry in found}) > 2  # the search has something to find here


def test_so_is_a_wide_linear_s_whose_inputs_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """down's, from the MLP's own inputs; o is held by no module that reads every token alone."""
    monkeypatch.setattr(block_inputs, "NARROW", 32)
    monkeypatch.setattr(replays, "BATCH_TOKENS", 40)  # several runs, the last one shorter
    model, calibration = structured_model(), tokens(7)[:, :-3]  # no whole number of cases
    found = calibrate(model, LLAMA, calibration, (3,), (BLOCK,), exhaustive=True).scales[BLOCK, 3]
    assert_losses_are_those(found, reference_block_search.search(model, torch.from_numpy(calibration), 3))
    stream = BlockStream(model, LLAMA, {"calibration": calibration}, groups=1)
    stream.begin(0)
    inputs = block_inputs.BlockInputs(stream, 0, moments=False)
    assert [inputs.by_moment(fold) for fold in LLAMA.folds] == [False, True, False, False]
    assert set(inputs.second_moments) == {"attention_out"}  # nothing else is needed


def assert_losses_are_those(found: list[FoundScale], expected: dict[tuple[int, str], Any]) -> None:
    """Every candidate's loss, the winner, and its scales."""
    for entry in found:
        candidates = expected[entry.block, entry.fold.inspected]
        losses = {alpha: loss for alpha, (loss, _) in candidates.items()}
        np.testing.assert_allclose(entry.losses, list(losses.values()), rtol=1e-5)
        assert entry.alpha == min(losses, key=losses.__getitem__)
        np.testing.assert_allclose(entry.scales, candidates[entry.alpha][1], rtol=1e-5)


@pytest.mark.parametrize("narrow", [block_inputs.NARROW, 0], ids=["by second moment", "on tokens"])
@pytest.mark.parametrize("name", ["embedded-tiny", "embedded-small"])
def test_racing_loses_at_most_its_tolerance_on_the_embedded_models(
    name: str, narrow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against trying every exponent on every token, for llm-awq's scales and for AutoAWQ's."""
    monkeypatch.setattr(block_inputs, "NARROW", narrow)
    source = resolve(name, None)
    model = load_model(source, "cpu", torch.float32)
    architecture = architecture_of(model.config)
    ids = tokenize(load_tokenizer(source), passages("code", "calibration"), model.config.vocab_size)
    calibration = sequences(ids, 64, 32)
    raced, exhaustive = (
        calibrate(model, architecture, calibration, (3,), (BLOCK, DUO), exhaustive=everything).scales
        for everything in (False, True)
    )
    assert raced.keys() == exhaustive.keys()
    for key, entries in exhaustive.items():
        for entry, found in zip(entries, raced[key], strict=True):
            losses = np.array(entry.losses)
            chosen = losses[OFFICIAL_ALPHAS.index(found.alpha)]
            assert chosen <= losses.min() * (1 + TOLERANCE), (entry.block, entry.fold.name)
    assert min(sum(entry.tried) for entry in raced[BLOCK, 3]) < len(OFFICIAL_ALPHAS)


@pytest.fixture(scope="module")
def grouped_query() -> tuple[Any, Calibrated]:
    model = structured_model(2, "qwen2")
    return model, calibrate(model, LLAMA, tokens(6), (3,), (BLOCK, GROUPED), arithmetic=torch.float64)


def test_the_averaged_fold_has_one_scale_for_the_heads_that_share_a_value(
    grouped_query: tuple[Any, Calibrated],
) -> None:
    model, found = grouped_query
    inputs = captured_inputs(model, tokens(6))
    averaged = [entry for entry in found.scales[GROUPED, 3] if entry.fold.name == "attention_out"]
    assert [entry.block for entry in averaged] == [0, 1]
    for entry in averaged:
        magnitude = np.abs(inputs[f"model.layers.{entry.block}.self_attn.o_proj"]).mean(axis=0)
        mean = np.zeros(64)
        for channel in range(64):  # query heads 0 and 1 read value head 0; 2 and 3 read value head 1
            head, place = channel // 16, channel % 16
            first = head // 2 * 2
            mean[channel] = (magnitude[first * 16 + place] + magnitude[(first + 1) * 16 + place]) / 2
        expected = reference_block_search.scales(torch.from_numpy(mean), [], entry.alpha, "official")
        np.testing.assert_allclose(entry.scales, expected, rtol=1e-9)
        assert entry.alpha > 0


def test_everything_else_is_as_the_exact_folds_have_it(grouped_query: tuple[Any, Calibrated]) -> None:
    _, found = grouped_query
    others = [entry for entry in found.scales[GROUPED, 3] if entry.fold.name != "attention_out"]
    assert [(e.block, e.fold, e.alpha) for e in others] == [(e.block, e.fold, e.alpha) for e in found.scales[BLOCK, 3]]
    names = [entry.fold.name for entry in found.scales[GROUPED, 3]]
    assert names == ["attention_in", "attention_out", "mlp_in", "mlp_out"] * 2


def test_folding_the_averaged_scale_changes_nothing_before_rounding(grouped_query: tuple[Any, Calibrated]) -> None:
    model, found = grouped_query
    ids = torch.from_numpy(tokens(3, seed=5))
    linears, others = folded_parameters(model, LLAMA, found.scales[GROUPED, 3])
    changed = [name for name, weight in linears.items() if not torch.equal(weight, model.get_parameter(name))]
    assert len(changed) == 14
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with applied(model, in_storage_layout(model, linears) | others):
            after = model(input_ids=ids).logits
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


def test_without_grouped_queries_there_is_nothing_to_average() -> None:
    found = calibrate(structured_model(), LLAMA, tokens(2), (3,), (BLOCK, GROUPED))
    assert (GROUPED, 3) not in found.scales
    assert GROUPED not in found.costs


def test_calibrating_leaves_the_model_as_it_was() -> None:
    model = structured_model(2, "qwen2")
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    steps: list[tuple[int, int]] = []
    found = calibrate(model, LLAMA, tokens(3), (3, 4), METHODS, progress=lambda *step: steps.append(step))
    for name, parameter in model.named_parameters():
        place, value = before[name]
        assert parameter.data_ptr() == place, name
        assert torch.equal(parameter, value), name
    assert steps == [(1, 2), (2, 2)]
    assert set(found.costs) == set(METHODS)
    assert all(cost.seconds > 0 for cost in found.costs.values())
    assert found.costs["gptq"].operations == found.costs["gptq-order"].operations > 0
    assert found.costs["awq-block"].operations > 0


def test_an_infinite_loss_is_named() -> None:
    model = structured_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0] = float("inf")
    with pytest.raises(MeasurementError, match="block 1, mlp_in: the block-level search met a NaN or infinite loss"):
        calibrate(model, LLAMA, tokens(2), (3,), (BLOCK,))
