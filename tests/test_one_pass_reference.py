"""A pass with every method against whole quantized models, and against itself in turns, in batches and in slices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from awq_core.architectures import block_stream
from awq_core.measure.layers.moments import MeasurementError
from awq_core.measure.methods import losses, one_pass
from awq_core.measure.methods.calibrated_blocks import Searching
from awq_core.measure.methods.losses import Scores
from awq_core.measure.methods.one_pass import MethodPass
from awq_core.measure.methods.table import FULL, METHODS, RANDOM_CHOICES, RTN_AT_TWO_BITS, Strategy, strategies
from fixtures.texts.calibration import calibration_texts
from tests.reference_methods import ReferenceMethods, scores
from tests.structured_model import LLAMA, SHAPE, layer_findings, method_pass, structured_model, tokens

HELDOUT = tokens(5, seed=3)
SEED = 3


class Case:
    """A model, a pass with every method over it, and the slow way to the same."""

    def __init__(self, key_value_heads: int, kind: str) -> None:
        self.model = structured_model(key_value_heads, kind)
        self.layers = layer_findings(self.model, SEED)
        self.made = self.fresh()
        self.listed = strategies(self.model, LLAMA, (3, 4), all_methods=True)
        self.scored = dict(zip((s.name for s in self.listed), self.made.score(self.listed, HELDOUT), strict=True))
        self.reference = ReferenceMethods(self.model, self.made.texts, SEED)

    def fresh(self) -> MethodPass:
        """A pass that has searched nothing yet."""
        return method_pass(self.model, self.layers)


@pytest.fixture(scope="module")
def plain() -> Case:
    return Case(4, "llama")


@pytest.fixture(scope="module")
def grouped_query() -> Case:
    return Case(2, "qwen2")


def assert_scores(found: Scores, expected: Scores, rtol: float = 0.0) -> None:
    np.testing.assert_allclose(found.loss, expected.loss, rtol=rtol)
    np.testing.assert_allclose(found.divergence, expected.divergence, rtol=rtol, atol=rtol)


METHOD_AND_TEXT = [(method.name, text) for method in METHODS.values() for text in ("", *method.elsewhere)]


@pytest.mark.parametrize(
    ("method", "text"), METHOD_AND_TEXT, ids=[f"{method}-{text}".rstrip("-") for method, text in METHOD_AND_TEXT]
)
@pytest.mark.parametrize("which", ["plain", "grouped_query"])
def test_every_method_scores_as_its_whole_quantized_model(
    which: str, method: str, text: str, request: pytest.FixtureRequest
) -> None:
    """Made by another writing of the method, its losses and divergences taken from whole logits."""
    if METHODS[method].grouped and which == "plain":
        pytest.skip("every value head has one query head")
    case: Case = request.getfixturevalue(which)
    for bits in (3, 4):
        strategy = Strategy(METHODS[method], bits, text)
        loss, divergence = scores(case.model, case.reference.quantized(method, bits, text), HELDOUT)
        found = case.scored[strategy.name]
        # The model's norms round to single precision inside; where scales are folded, another last bit.
        np.testing.assert_allclose(found.loss, loss, rtol=2e-6)
        np.testing.assert_allclose(found.divergence, divergence, rtol=2e-5)
        assert divergence.mean() > 1e-3


@pytest.mark.parametrize("which", ["plain", "grouped_query"])
def test_full_precision_and_two_bits_are_scored_too(which: str, request: pytest.FixtureRequest) -> None:
    case: Case = request.getfixturevalue(which)
    loss, divergence = scores(case.model, {}, HELDOUT)
    np.testing.assert_allclose(case.scored["full"].loss, loss, rtol=1e-12)
    assert not divergence.any()
    assert not case.scored["full"].divergence.any()
    loss, divergence = scores(case.model, case.reference.quantized("rtn", 2), HELDOUT)
    assert_scores(case.scored["rtn-2"], Scores(loss, divergence), 1e-6)


def test_no_two_methods_are_the_same(plain: Case, grouped_query: Case) -> None:
    """What could not be told apart here would be no test of either."""
    for case in (plain, grouped_query):
        for bits in (3, 4):
            losses_of = {name: float(s.loss.sum()) for name, s in case.scored.items() if name.endswith(f"-{bits}")}
            # Folded or in place, one exponent is the same function where every scale folds; 0.5 may be that exponent.
            folded, in_place = losses_of.pop(f"awq-constant-{bits}"), losses_of.pop(f"awq-constant-everywhere-{bits}")
            assert (abs(folded - in_place) < 1e-6) == (case is plain)
            assert len({round(loss, 6) for loss in losses_of.values()}) == len(losses_of)


def test_the_model_is_the_same_afterwards(plain: Case, grouped_query: Case) -> None:
    for case, fresh in (
        (plain, structured_model(4, "llama")),
        (grouped_query, structured_model(2, "qwen2")),
    ):
        for (name, parameter), (_, expected) in zip(
            case.model.named_parameters(), fresh.named_parameters(), strict=True
        ):
            assert torch.equal(parameter, expected), name


# in parts


def some(case: Case) -> list[Strategy]:
    wanted = ("full", "rtn-3", "awq-block-3", "gptq-3", "awq-block-clip-4", "keep-activation-3")
    return [strategy for strategy in case.listed if strategy.name in wanted]


def assert_the_same(case: Case, made: MethodPass, rtol: float) -> None:
    listed = some(case)
    for strategy, found in zip(listed, made.score(listed, HELDOUT), strict=True):
        assert_scores(found, case.scored[strategy.name], rtol)


@pytest.mark.parametrize("windows", [1, 2, 3])
def test_windows_in_turns_give_the_same(plain: Case, windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the searches are made once, whatever the turns."""
    listed, steps, searched = some(plain), [], []
    window = (1 + len(listed)) * 32 * SHAPE["hidden_size"] * 8
    monkeypatch.setattr(one_pass, "STATE_BYTES", windows * window)
    genuine = Searching.visit
    monkeypatch.setattr(Searching, "visit", lambda *given: searched.append(given[1]) or genuine(*given))
    made = plain.fresh()
    found = made.score(listed, HELDOUT, lambda *step: steps.append(step))
    for strategy, score in zip(listed, found, strict=True):
        assert_scores(score, plain.scored[strategy.name], 1e-9)
    total = 2 * (1 + -(-5 // windows))  # blocks of the searches and of each turn
    assert list(dict.fromkeys(steps)) == [(done, total) for done in range(total + 1)]
    searches = len(made.searches(listed))  # each is told, in both blocks
    assert [steps.count((done, total)) for done in (0, 1)] == [searches, searches + 1]
    assert searched == [0, 1]


@pytest.mark.parametrize("batch", [1, 64, 100])
def test_batches_of_any_size_give_the_same(plain: Case, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_stream, "BATCH_TOKENS", batch)
    assert_the_same(plain, plain.fresh(), 1e-9)


@pytest.mark.parametrize(
    ("name", "elements"),
    [("LOGIT_ELEMENTS", 1), ("LOGIT_ELEMENTS", 7 * SHAPE["vocab_size"]), ("ROW_ELEMENTS", 3 * SHAPE["vocab_size"])],
)
def test_logits_in_slices_give_the_same(plain: Case, name: str, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, name, elements)
    assert_the_same(plain, plain.fresh(), 1e-9)


def test_one_at_a_time_and_in_any_order_they_score_the_same(plain: Case) -> None:
    for strategy in reversed(some(plain)):
        (found,) = plain.fresh().score([strategy], HELDOUT)
        assert_scores(found, plain.scored[strategy.name], 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_in_single_and_half_precision_losses_are_about_those(plain: Case, dtype: torch.dtype) -> None:
    """Methods that round weights to nearest, and the head's products of differences in bfloat16 on top of it."""
    model = structured_model(4, "llama").to(dtype)
    listed = [FULL, *(Strategy(METHODS["rtn"], bits) for bits in (3, 4))]
    made = method_pass(model, plain.layers, arithmetic=torch.float32)
    for bfloat16 in (False, True):
        for strategy, found in zip(listed, made.score(listed, HELDOUT, bfloat16=bfloat16), strict=True):
            change = found.loss - plain.scored[strategy.name].loss
            each, all_ = ((2e-3, 1e-3) if bfloat16 else (1e-4, 1e-5)) if dtype is torch.float32 else (0.1, 0.02)
            assert np.abs(change).max() < each, strategy.name
            assert abs(change.mean()) < all_, strategy.name


def test_what_products_in_bfloat16_change_is_the_loss_or_the_divergence(plain: Case) -> None:
    made = method_pass(structured_model(4, "llama").to(torch.float32), plain.layers, arithmetic=torch.float32)
    for bits in (2, 3, 4):
        strategy = Strategy(METHODS["rtn"], bits)
        (exact,), (bfloat16,) = (made.score([strategy], HELDOUT, bfloat16=bfloat16) for bfloat16 in (False, True))
        changes = float((bfloat16.loss - exact.loss).mean()), float((bfloat16.divergence - exact.divergence).mean())
        assert made.bfloat16_change(strategy, HELDOUT) == pytest.approx(max(map(abs, changes)), rel=1e-9)
        assert min(map(abs, changes)) > 0


# what does not go as usual


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_strategy_without_numbers_is_named(method: str, plain: Case) -> None:
    def broken(at: Any) -> Any:
        name, weight = next(iter(at.weights()))
        return {f"{name}.weight": torch.full_like(weight, torch.nan)}

    listed = [FULL, Strategy(METHODS["awq-half"], 3), Strategy(replace(METHODS[method], round=broken, search=None), 3)]
    with pytest.raises(MeasurementError) as error:
        plain.fresh().score(listed, HELDOUT)
    assert str(error.value) == f"strategy {method}-3: a window's loss is NaN or infinite"


def test_an_infinite_loss_of_a_search_is_named() -> None:
    model = structured_model()
    made = method_pass(model, layer_findings(model))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0] = torch.inf
    with pytest.raises(MeasurementError, match="block 1, mlp_in: the block-level search met a NaN or infinite loss"):
        made.score([Strategy(METHODS["awq-block"], 3)], HELDOUT)


# text sets


def test_fewer_sequences_are_spread_over_all() -> None:
    usual, foreign = tokens(16), tokens(4, seed=7)
    made = calibration_texts(usual, foreign)
    np.testing.assert_array_equal(made["few"], usual[[0, 8]])
    np.testing.assert_array_equal(made["matched"], usual[[0, 4, 8, 12]])
    assert made[""] is usual
    assert made["foreign"] is foreign
    assert len(calibration_texts(tokens(3), foreign)["few"]) == 1
    assert len(calibration_texts(tokens(3), foreign)["matched"]) == 3


def test_a_foreign_text_of_the_same_length_is_matched_by_the_usual_calibration(plain: Case) -> None:
    """Nothing is searched twice for it."""
    made = plain.fresh()
    made.texts = calibration_texts(tokens(4), tokens(4, seed=7))
    listed = [Strategy(METHODS[name], 3, text) for name in ("awq-block", "gptq") for text in ("", "matched")]
    assert [search.name for search in made.searches(listed)] == ["awq-block-3", "gptq-3"]
    usual, matched, *_ = made.score(listed, HELDOUT)
    assert_scores(matched, usual)


def test_every_strategy_is_listed_once(plain: Case, grouped_query: Case) -> None:
    kept = ["keep-activation", "keep-weight", *(f"keep-random{i}" for i in range(RANDOM_CHOICES))]
    elsewhere = ["awq-block-few", "awq-block-foreign", "gptq-foreign", "awq-block-matched", "gptq-matched"]
    awaited = ["rtn", "rtn-clip", "awq-constant-everywhere", "awq-block", "awq-block-clip", "gptq", *kept, *elsewhere]
    shown = [m.name for m in METHODS.values() if m.shown and m.name != "awq-grouped"]
    for case, grouped in ((plain, []), (grouped_query, ["awq-grouped"])):
        assert case.listed[:2] == [FULL, RTN_AT_TWO_BITS]
        expected = {f"{label}-{bits}" for label in [*awaited, *shown, *grouped] for bits in (3, 4)}
        names = [strategy.name for strategy in case.listed[2:]]
        assert len(names) == len(set(names))
        assert set(names) == expected
        judged = strategies(case.model, LLAMA, (3, 4), all_methods=False)
        more = ["awq-linear"] if not METHODS["awq-linear"].shown else []
        assert {s.name for s in judged} == {"full"} | {f"{m}-{bits}" for m in [*awaited, *more] for bits in (3, 4)}
