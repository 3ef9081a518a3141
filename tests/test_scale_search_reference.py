"""The scale searches against slow ones that replay every module, and the race against trying everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from awq_core.architectures.model import architecture_of, linear
from awq_core.measure.methods import alpha_race, scale_losses
from awq_core.measure.methods.alpha_race import LARGEST_REGRET, REGRET
from awq_core.measure.methods.scale_search import OFFICIAL_ALPHAS, Formula, FoundScale
from fixtures.models.loading import load_model, load_tokenizer
from fixtures.models.resolve import resolve
from fixtures.texts.tokens import sequences, tokenize
from fixtures.texts.traffic import passages
from tests import reference_block_search as reference
from tests.structured_model import LLAMA, searched, structured_model, tokens
from tests.tiny_architectures import Case, case, every_case, tiny, token_ids

FORMULAS: tuple[Formula, ...] = ("official", "duo")


def assert_found(found: FoundScale, candidates: reference.Candidates) -> None:
    """Every candidate's loss, the winner, and its scales."""
    np.testing.assert_allclose(found.losses, [loss for loss, _ in candidates.values()], rtol=1e-9, atol=1e-15)
    assert found.alpha == reference.best(candidates)
    torch.testing.assert_close(found.scales, candidates[found.alpha][1], rtol=1e-9, atol=1e-12)
    assert found.tried == (1.0,) * 20


@pytest.mark.parametrize(("kind", "key_value_heads"), [("llama", 4), ("qwen2", 2)])
@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("raced", [False, True], ids=["at once", "in samples"])
def test_every_candidate_s_loss_is_the_replayed_one(
    formula: Formula, bits: int, kind: str, key_value_heads: int, raced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, scales and winners; on all tokens at once, and in the race's samples when nothing is dropped."""
    if raced:
        monkeypatch.setattr(alpha_race, "survivors", lambda means, *_: (np.arange(len(means)), 0.0))
        monkeypatch.setattr(alpha_race, "FIRST_TOKENS", 20)
        monkeypatch.setattr(alpha_race, "LARGEST_TOKENS", 5)
        monkeypatch.setattr(alpha_race, "FIRST_POSITIONS", 3)
        monkeypatch.setattr(scale_losses, "BATCH_TOKENS", 50)
    model, calibration = structured_model(key_value_heads, kind), tokens(6)
    found = searched(model, LLAMA, calibration, bits, formula, grouped=True, exhaustive=not raced)
    expected = reference.search(model, torch.from_numpy(calibration), bits, formula, grouped=True)
    assert [(entry.block, entry.fold.inspected) for entry in found] == list(expected)
    for entry in found:
        assert_found(entry, expected[entry.block, entry.fold.inspected])
    assert len({entry.alpha for entry in found}) > 2  # the search has something to find here


def test_under_grouped_queries_o_has_one_scale_for_the_heads_that_share_a_value() -> None:
    found = searched(structured_model(2, "qwen2"), LLAMA, tokens(6), 3, grouped=True)
    averaged = [entry for entry in found if entry.fold.name == "attention_out"]
    assert [entry.block for entry in averaged] == [0, 1]
    for entry in averaged:
        heads = entry.scales.view(2, 2, 16)  # value heads, query heads of each
        assert torch.equal(heads[:, 0], heads[:, 1])
        assert entry.alpha > 0


@every_case
def test_so_it_is_in_every_architecture(shape: Case) -> None:
    """Experts that share a scale, whole blocks that are inspected, weights that are stored transposed."""
    model, architecture = tiny(shape)
    ids = token_ids(4, 24)
    for entry in searched(model, architecture, ids.numpy(), 3):
        block = model.get_submodule(f"{architecture.blocks}.{entry.block}")
        sites = [architecture.site(name).linears for name in entry.fold.sites]
        candidates = reference.search_group(
            model,
            block.get_submodule(entry.fold.inspected) if entry.fold.inspected else block,
            [block.get_submodule(linears[0][1]) for linears in sites],
            [block.get_submodule(path) for linears in sites for _, path in linears],
            ids,
            3,
        )
        assert_found(entry, candidates)


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("name", ["embedded-tiny", "embedded-small"])
def test_racing_loses_next_to_nothing_on_the_embedded_models(name: str, bits: int) -> None:
    """Against trying every exponent on every token, in single precision, for llm-awq's scales and for AutoAWQ's."""
    source = resolve(name, None)
    model = load_model(source, "cpu", torch.float32)
    architecture = architecture_of(model.config)
    ids = tokenize(load_tokenizer(source), passages("code", "calibration"), model.config.vocab_size)
    calibration = sequences(ids, 64, 64)
    regrets, tried = [], []
    for formula in FORMULAS:
        raced, everything = (
            searched(model, architecture, calibration, bits, formula, arithmetic=torch.float32, exhaustive=exhaustive)
            for exhaustive in (False, True)
        )
        for entry, found in zip(everything, raced, strict=True):
            losses = np.array(entry.losses)
            regrets.append(losses[OFFICIAL_ALPHAS.index(found.alpha)] / losses.min() - 1)
            tried.append(sum(found.tried) / 20)
    assert np.mean(regrets) <= REGRET
    assert max(regrets) <= LARGEST_REGRET
    assert np.mean(tried) < 0.5  # and it is a race


def test_an_expert_that_no_token_reached_is_left_as_it_is() -> None:
    """All its losses are zero: the first exponent, which scales nothing."""
    model, architecture = tiny(case("mixtral-gqa"), num_experts_per_tok=1)
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.gate.weight[1] = -block.mlp.gate.weight[0]
            block.mlp.gate.weight[3] = 0
    for exhaustive in (False, True):
        found = searched(model, architecture, token_ids(4, 24).numpy(), 3, exhaustive=exhaustive)
        idle = [entry for entry in found if entry.fold.name == "mlp_out.3"]
        assert len(idle) == 2
        for entry in idle:
            assert entry.alpha == 0
            assert not any(entry.losses)
            assert torch.equal(entry.scales, torch.ones_like(entry.scales))


def test_searching_leaves_the_model_as_it_was() -> None:
    model = structured_model(2, "qwen2")
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    searched(model, LLAMA, tokens(3), 3, exhaustive=False)
    for name, parameter in model.named_parameters():
        place, value = before[name]
        assert parameter.data_ptr() == place, name
        assert torch.equal(parameter, value), name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_magnitude_that_scales_were_made_of_is_kept() -> None:
    model = structured_model()
    for entry in searched(model, LLAMA, tokens(3), 3):
        path = LLAMA.site(entry.fold.name).linears[0][1]
        weight = linear(model, f"model.layers.{entry.block}.{path}").weight
        expected = reference.scales(entry.magnitude, [weight], entry.alpha, "official")
        torch.testing.assert_close(entry.scales, expected, rtol=1e-12, atol=0)
