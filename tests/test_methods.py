"""Every strategy's parameters against slow recomputations, what each changes, and what each needs to be deployed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from awq_core.block_search import FoundScale
from awq_core.calibrated import BLOCK, CLIP, DUO, GPTQ, GPTQ_ORDER, METHODS, Calibrated, calibrate
from awq_core.strategies import (
    A_SCALE_AT_RUN_TIME,
    MIXED_PRECISION,
    Strategies,
    Strategy,
    applied,
    folded_parameters,
)

from awq_core.choices import constant_alpha
from awq_core.folding import Parameters
from awq_core.measured import Measured
from awq_core.scales import linear_scales
from tests import reference_clipping, reference_gptq
from tests import reference_diagnostic as reference
from tests.structured_model import LLAMA, measured_layers, structured_model, tokens, weights_of

FAMILIES = {path.rsplit(".", 1)[-1]: family for site in LLAMA.sites for family, path in site.linears}


@dataclass
class Case:
    """A model, and all that strategies are made from."""

    model: Any
    measured: Measured
    found: Calibrated

    def strategies(self, seed: int = 0) -> Strategies:
        return Strategies(self.model, LLAMA, self.measured.channels, self.measured.errors, seed)

    def parameters(self, name: str) -> Parameters:
        made = self.strategies()
        listed = [*made.standard((3, 4), self.found), *made.kept(3)]
        (strategy,) = [strategy for strategy in listed if strategy.name == name]
        return strategy.parameters()


def case_of(model: Any) -> Case:
    calibration = tokens(6)
    found = calibrate(model, LLAMA, calibration, (3, 4), METHODS, arithmetic=torch.float64)
    return Case(model, measured_layers(model, calibration, tokens(16, seed=1)), found)


@pytest.fixture(scope="module")
def plain() -> Case:
    """Every site has a fold; the MLP's inner width is 256, so that its top 1% are two channels."""
    return case_of(structured_model(intermediate_size=256))


@pytest.fixture(scope="module")
def grouped_query() -> Case:
    return case_of(structured_model(2, "qwen2"))


def test_scaled_in_place_or_not_at_all(grouped_query: Case) -> None:
    """Against the reference's own `Q(W s) / s`, with magnitudes and exponents read off the reference's inputs."""
    model = grouped_query.model
    inputs = reference.captured_inputs(model, tokens(6))
    layers = reference.reference_layers(model, tokens(6))
    weights = weights_of(model)
    curves = np.array([[layer["asym_g128_curves"][str(b)] for b in (3, 4)] for layer in layers.values()])
    constants = {bits: reference.ALPHAS[int(curves[:, i].sum(axis=0).argmin())] for i, bits in enumerate((3, 4))}
    assert grouped_query.parameters("full") == {}
    for bits in (3, 4):
        for method in ("rtn", "awq-linear", "awq-constant", "awq-half"):
            parameters = grouped_query.parameters(f"{method}-{bits}")
            assert len(parameters) == 14
            for name, x in inputs.items():
                alpha = {
                    "rtn": 0.0,
                    "awq-linear": layers[name]["asym_g128_awq_best_alpha"][str(bits)],
                    "awq-constant": constants[bits],
                    "awq-half": 0.5,
                }[method]
                expected = reference.awq(weights[name], np.abs(x).mean(axis=0), alpha, "asym-g128", bits)
                np.testing.assert_allclose(parameters[f"{name}.weight"], expected, rtol=1e-9, atol=1e-12)


def site_scales(found: list[FoundScale]) -> dict[tuple[int, str], np.ndarray]:
    return {(entry.block, entry.fold.name): entry.scales.numpy() for entry in found}


def slowly_folded(model: Any, found: list[FoundScale]) -> dict[str, np.ndarray]:
    """Every linear's weight: columns times their input's scale, rows of v and up over the scale of what they make."""
    scales = site_scales(found)
    folded = {}
    for name, weight in weights_of(model).items():
        block, module = int(name.split(".")[2]), name.rsplit(".", 1)[-1]
        site = {"q": "attention_in", "k": "attention_in", "v": "attention_in", "o": "attention_out", "down": "mlp_out"}
        columns = scales.get((block, site.get(FAMILIES[module], "mlp_in")), np.ones(weight.shape[1]))
        rows = np.ones(len(weight))
        if FAMILIES[module] in ("v", "up"):
            made = "attention_out" if FAMILIES[module] == "v" else "mlp_out"
            rows = scales.get((block, made), rows)
        folded[name] = weight * columns / rows[:, None]
    return folded


def slowly_folded_inputs(model: Any, found: list[FoundScale]) -> dict[str, np.ndarray]:
    scales = site_scales(found)
    inputs = {}
    for name, x in reference.captured_inputs(model, tokens(6)).items():
        block, room, module = name.split(".")[2:]
        inner = module in ("o_proj", "down_proj")
        site = {"self_attn": "attention", "mlp": "mlp"}[room] + ("_out" if inner else "_in")
        inputs[name] = x / scales.get((int(block), site), np.ones(x.shape[1]))
    return inputs


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("which", ["plain", "grouped_query"])
def test_the_clipped_block_strategy_is_fold_then_clamp_then_round(
    which: str, bits: int, request: pytest.FixtureRequest
) -> None:
    """Limits are searched on folded weights and divided inputs; q and k are rounded without."""
    case: Case = request.getfixturevalue(which)
    found = case.found.scales[BLOCK, bits]
    folded, inputs = slowly_folded(case.model, found), slowly_folded_inputs(case.model, found)
    unclipped, clipped = case.parameters(f"{BLOCK}-{bits}"), case.parameters(f"{CLIP}-{bits}")
    moved = 0
    for name, weight in folded.items():
        expected = reference.quantized(weight, "asym-g128", bits)
        np.testing.assert_allclose(unclipped[f"{name}.weight"], expected, rtol=1e-9, atol=1e-12)
        if not name.endswith(("q_proj", "k_proj")):
            size = reference.group_size(weight.shape[1])
            bounds = np.repeat(reference_clipping.search(weight, inputs[name], bits, size), size, axis=1)
            expected = reference.quantized(np.clip(weight, -bounds, bounds), "asym-g128", bits)
            moved += not np.allclose(expected, unclipped[f"{name}.weight"])
        np.testing.assert_allclose(clipped[f"{name}.weight"], expected, rtol=1e-9, atol=1e-12)
    assert moved > 5  # clipping has something to do here
    others = {name for name in clipped if "norm" in name or name.endswith("bias")}
    assert others == {name for name in unclipped if "norm" in name or name.endswith("bias")}
    assert all(torch.equal(clipped[name], unclipped[name]) for name in others)


@pytest.mark.parametrize(("method", "ordered"), [(GPTQ, False), (GPTQ_ORDER, True)])
def test_gptq_strategies_hold_the_slow_computation_s_weights(grouped_query: Case, method: str, ordered: bool) -> None:
    model = grouped_query.model
    inputs = reference.captured_inputs(model, tokens(6))
    for bits in (3, 4):
        parameters = grouped_query.parameters(f"{method}-{bits}")
        assert len(parameters) == 14
        for name in ("model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"):
            weight, x = weights_of(model)[name], inputs[name]
            size = reference.group_size(weight.shape[1])
            expected = reference_gptq.gptq(weight, x.T @ x, bits, size, ordered)
            np.testing.assert_allclose(parameters[f"{name}.weight"], expected, rtol=1e-7, atol=1e-9)


def kept_columns(case: Case, strategy: Strategy) -> dict[str, list[int]]:
    """Columns that stand as they were; every other must be as round-to-nearest has it."""
    parameters, rounded = strategy.parameters(), case.parameters("rtn-3")
    assert parameters.keys() == rounded.keys()
    found = {}
    for name, weight in weights_of(case.model).items():
        quantized = parameters[f"{name}.weight"].numpy()
        kept = (quantized == weight).all(axis=0)
        np.testing.assert_array_equal(quantized[:, ~kept], rounded[f"{name}.weight"].numpy()[:, ~kept])
        found[name] = np.flatnonzero(kept).tolist()
    return found


def test_exactly_the_chosen_columns_are_kept(plain: Case) -> None:
    """By activation, by weight, at random: 1% of the input channels, at least one, and nothing else."""
    listed = plain.strategies().kept(3)
    names = ["keep-activation", "keep-weight", *(f"keep-random{choice}" for choice in range(10))]
    assert [strategy.method for strategy in listed] == names
    kept = [kept_columns(plain, strategy) for strategy in listed]
    weights, inputs = weights_of(plain.model), reference.captured_inputs(plain.model, tokens(6))
    for name, weight in weights.items():
        count = max(1, weight.shape[1] // 100)
        assert count == (2 if name.endswith("down_proj") else 1)
        magnitude, size = np.abs(inputs[name]).mean(axis=0), np.abs(weight).mean(axis=0)
        assert kept[0][name] == sorted(np.argsort(-magnitude)[:count].tolist())
        assert kept[1][name] == sorted(np.argsort(-size)[:count].tolist())
        assert all(len(choice[name]) == count for choice in kept)


def test_random_choices_follow_the_seed_and_differ(plain: Case) -> None:
    def drawn(seed: int) -> list[dict[str, list[int]]]:
        return [kept_columns(plain, strategy) for strategy in plain.strategies(seed).kept(3)[2:]]

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert first == again
    everything = [*first, *other]
    assert all(a != b for i, a in enumerate(everything) for b in everything[:i])
    at_down = [choice["model.layers.1.mlp.down_proj"] for choice in everything]
    assert len({tuple(columns) for columns in at_down}) > 15  # of 32640 pairs, twenty draws


def test_what_a_strategy_needs_beyond_a_checkpoint(plain: Case, grouped_query: Case) -> None:
    for case, constant in ((plain, ""), (grouped_query, A_SCALE_AT_RUN_TIME)):
        made = case.strategies()
        listed = [*made.standard((3, 4), case.found), *made.kept(4)]
        needs = {strategy.method: strategy.needs for strategy in listed}
        assert needs.pop("awq-linear") == A_SCALE_AT_RUN_TIME
        assert needs.pop("awq-constant") == constant  # under grouped queries no fold reaches o
        assert needs.pop("awq-half") == constant
        assert {needs.pop(name) for name in list(needs) if name.startswith("keep-")} == {MIXED_PRECISION}
        grouped = {"awq-grouped"} if case is grouped_query else set()
        assert needs.keys() == {"full", "rtn", BLOCK, CLIP, DUO, GPTQ, GPTQ_ORDER} | grouped
        assert set(needs.values()) == {""}
        assert all(strategy.deploys == (strategy.needs == "") for strategy in listed)


def logits(model: Any, parameters: Parameters) -> torch.Tensor:
    with torch.no_grad(), applied(model, parameters):
        return model(input_ids=torch.from_numpy(tokens(3, seed=5))).logits


def test_a_constant_exponent_that_deploys_is_an_ordinary_checkpoint(plain: Case) -> None:
    """Folding its scales and rounding gives the function of `Q(W s) / s` put in place of W."""
    alpha = constant_alpha(plain.measured.errors, "asym-g128", 3)
    assert alpha > 0
    exponents = torch.tensor([alpha], dtype=torch.float64)
    scales = []
    for entry in plain.found.scales[BLOCK, 3]:
        site = f"block {entry.block} {entry.fold.name}"
        magnitude = plain.measured.channels["magnitude"].sel(split="calibration", site=site).values
        magnitude = torch.from_numpy(magnitude[~np.isnan(magnitude)])
        scales.append(FoundScale(entry.block, entry.fold, alpha, linear_scales(magnitude, exponents)[0], (), ()))
    linears, others = folded_parameters(plain.model, LLAMA, scales)
    rounded = {
        name: torch.from_numpy(reference.quantized(weight.numpy(), "asym-g128", 3)) for name, weight in linears.items()
    }
    in_place = logits(plain.model, plain.parameters("awq-constant-3"))
    torch.testing.assert_close(logits(plain.model, rounded | others), in_place, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("which", ["plain", "grouped_query"])
@pytest.mark.parametrize("bits", [3, 4])
def test_the_folded_model_gives_the_logits_of_scaled_weights_in_place(
    which: str, bits: int, request: pytest.FixtureRequest
) -> None:
    """Folded and rounded, or `Q(W s) / s` put in place of W: the same function, with and without v -> o."""
    case: Case = request.getfixturevalue(which)
    scales = {
        f"model.layers.{entry.block}.{path}": entry.scales.numpy()
        for entry in case.found.scales[BLOCK, bits]
        for _, path in LLAMA.site(entry.fold.name).linears
    }
    assert len(scales) == (14 if which == "plain" else 12)
    in_place = {}
    for name, weight in weights_of(case.model).items():
        s = scales.get(name, np.ones(weight.shape[1]))
        in_place[f"{name}.weight"] = torch.from_numpy(reference.quantized(weight * s, "asym-g128", bits) / s)
    deployed = logits(case.model, case.parameters(f"{BLOCK}-{bits}"))
    torch.testing.assert_close(deployed, logits(case.model, in_place), rtol=1e-9, atol=1e-9)
    assert (deployed - logits(case.model, {})).abs().max() > 0.01


def test_what_other_tokens_found_carries_a_suffix(plain: Case) -> None:
    made, found = plain.strategies(), plain.found.only((BLOCK, GPTQ))
    listed = made.calibrated(3, found, "-few")
    assert [strategy.name for strategy in listed] == ["awq-block-few-3", "gptq-few-3"]
    for strategy in listed:
        usual = plain.parameters(strategy.name.replace("-few", ""))
        given = strategy.parameters()
        assert given.keys() == usual.keys()
        assert all(torch.equal(given[name], usual[name]) for name in given)


def test_the_originals_come_back_even_after_an_error(plain: Case) -> None:
    model = plain.model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def stop_inside() -> None:
        with applied(model, plain.parameters("rtn-3")):
            assert any(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stop_inside()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    with pytest.raises(KeyError, match=r"no\.such\.weight"), applied(model, {"no.such.weight": torch.zeros(1)}):
        pass
