"""The instruments against independent, slow computations: layers, block search, losses, deployed weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from awq_core.architecture import architecture_of
from awq_core.block_search import FoundScale, rounded, search_blocks
from awq_core.layers import LayerSettings, measure_layers
from awq_core.losses import measure_losses
from awq_core.measured import Measured
from awq_core.moments import MeasurementError
from awq_core.strategies import Strategy, applied, folded_parameters, strategies
from awq_core.streaming import BlockStream
from fixtures.models.loading import load_model
from fixtures.models.resolve import resolve
from fixtures.texts.defaults import choose_texts
from fixtures.texts.effort import EFFORTS
from fixtures.texts.tokens import select_tokens
from reports.diagnostic_file import diagnostic
from tests import reference_block_search
from tests import reference_diagnostic as reference
from tests.reference_diagnostic import disagreements, reference_layers

SHAPE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}
LLAMA = architecture_of("llama")


def structured_model(key_value_heads: int = 4, kind: str = "llama") -> Any:
    """A random model in float64 with a few channels enlarged, so that scales have something to protect."""
    shape = SHAPE | {"num_key_value_heads": key_value_heads}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "llama":
            model: Any = LlamaForCausalLM(LlamaConfig(**shape))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**shape))
        with torch.no_grad():
            for block in model.model.layers:
                block.input_layernorm.weight[:3] *= torch.tensor([20.0, 5.0, 0.01])
                block.post_attention_layernorm.weight[10:12] *= 15.0
                block.self_attn.v_proj.weight[7] *= 10.0
                block.mlp.up_proj.weight[30] *= 25.0
                for name, parameter in block.named_parameters():
                    if name.endswith("bias"):
                        parameter.normal_(0, 0.3)
    return model.double().eval()


def tokens(sequences: int, length: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SHAPE["vocab_size"], size=(sequences, length))


def measured_layers(model: Any, calibration: np.ndarray, heldout: np.ndarray) -> Measured:
    stream = BlockStream(model, LLAMA, {"calibration": calibration, "heldout": heldout})
    channels, errors = measure_layers(stream, LayerSettings())
    ids = {"calibration": calibration, "heldout": heldout}
    return Measured("m", None, 0, channels, errors, None, ids, {"seed": 0})


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


def test_infinite_activations_are_named() -> None:
    model = structured_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0] = float("inf")
    with pytest.raises(MeasurementError, match="block 1, mlp_out: NaN or infinite activations in 1 of 96 channels"):
        measured_layers(model, tokens(2), tokens(16, seed=1))


EMBEDDED = Path(__file__).parent.parent / "fixtures" / "embedded" / "embedded-tiny"
COMPARED_SEQUENCES = {"calibration": 8, "heldout": 16}
COMPARED_LENGTH = 128


def test_the_diagnostic_file_of_an_embedded_model_agrees_with_the_reference() -> None:
    """Every linear, on the suite's default texts; the model runs in float32 as by default, the reference in float64.

    Replaying every token for 210 candidates is slow, so both take the first windows of those texts.
    `python -m tests.reference_diagnostic` does the same on all tokens of a written report.
    """
    source = resolve("embedded-tiny", None)
    texts = choose_texts(source, None, None, None)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    model = load_model(source, "cpu", torch.float32)
    vocabulary = model.config.vocab_size
    selected = select_tokens(tokenizer, texts, EFFORTS["quick"], model.config.max_position_embeddings, vocabulary)
    calibration = selected.calibration[: COMPARED_SEQUENCES["calibration"], :COMPARED_LENGTH]
    heldout = selected.heldout[: COMPARED_SEQUENCES["heldout"], :COMPARED_LENGTH]
    measured = diagnostic(measured_layers(model, calibration, heldout))["layers"]
    reference = reference_layers(model.double(), calibration, heldout)
    assert len(measured) == 7 * model.config.num_hidden_layers
    assert disagreements(measured, reference) == []


@pytest.mark.parametrize(("kind", "key_value_heads"), [("llama", 4), ("qwen2", 2)])
@pytest.mark.parametrize("bits", [3, 4])
def test_the_block_search_agrees_with_the_reference(kind: str, key_value_heads: int, bits: int) -> None:
    model = structured_model(key_value_heads, kind)
    calibration = tokens(6)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = search_blocks(model, LLAMA, calibration, (bits,))[bits]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    expected = reference_block_search.search(model, torch.from_numpy(calibration), bits)
    assert [(entry.block, entry.fold.inspected) for entry in found] == list(expected)
    for entry in found:
        losses = expected[entry.block, entry.fold.inspected]
        np.testing.assert_allclose(entry.losses, list(losses.values()), rtol=1e-5)
        assert entry.alpha == min(losses, key=losses.__getitem__)
    assert len({entry.alpha for entry in found}) > 2  # the search has something to find here


def every_strategy(model: Any) -> tuple[list[Strategy], dict[int, list[FoundScale]], Measured]:
    calibration = tokens(6)
    measured = measured_layers(model, calibration, tokens(16, seed=1))
    found = search_blocks(model, LLAMA, calibration, (3, 4))
    return strategies(model, LLAMA, measured.channels, measured.errors, found), found, measured


@pytest.fixture(scope="module")
def grouped_query_case() -> tuple[Any, list[Strategy], dict[int, list[FoundScale]], Measured]:
    model = structured_model(2, "qwen2")
    return model, *every_strategy(model)


def test_losses_and_divergences_agree_with_whole_logits_in_float64(
    grouped_query_case: tuple[Any, list[Strategy], dict[int, list[FoundScale]], Measured],
) -> None:
    model, listed, _, _ = grouped_query_case
    heldout = tokens(5, seed=3)
    dataset = measure_losses(model, listed, heldout, {"searched": 1})
    ids = torch.from_numpy(heldout)

    def log_probabilities() -> torch.Tensor:
        with torch.no_grad():
            return torch.log_softmax(model(input_ids=ids, use_cache=False).logits.double(), dim=-1)[:, :-1]

    full = log_probabilities()
    expected_names = ["full", "rtn-2"] + [
        f"{method}-{bits}"
        for bits in (3, 4)
        for method in ("rtn", "awq-linear", "awq-block", "awq-constant", "awq-half")
    ]
    assert dataset["strategy"].values.tolist() == expected_names
    for strategy in listed:
        with applied(model, strategy.parameters()):
            log_p = log_probabilities()
        loss = -log_p.gather(2, ids[:, 1:, None])[..., 0].mean(dim=1)
        kl = (full.exp() * (full - log_p)).sum(dim=-1).mean(dim=1)
        at = dataset.sel(strategy=strategy.name)
        np.testing.assert_allclose(at["window_loss"], loss, rtol=1e-6)
        np.testing.assert_allclose(at["window_kl"], kl, rtol=1e-4, atol=1e-7)
        assert (float(at["window_kl"].mean()) > 1e-4) == (strategy.method != "full")
    assert json.loads(dataset.attrs["search"]) == {"searched": 1}


def test_a_large_vocabulary_in_pieces_gives_the_same_losses(
    grouped_query_case: tuple[Any, list[Strategy], dict[int, list[FoundScale]], Measured],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, listed, _, _ = grouped_query_case
    heldout = tokens(5, seed=3)
    whole = measure_losses(model, listed[:3], heldout, {})
    monkeypatch.setattr("awq_core.losses.LOGIT_ELEMENTS", 7 * SHAPE["vocab_size"])
    monkeypatch.setattr("awq_core.losses.BATCH_TOKENS", 64)
    pieces = measure_losses(model, listed[:3], heldout, {})
    for name in ("window_loss", "window_kl"):
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-6, atol=1e-9)


def test_losses_need_full_precision_first(
    grouped_query_case: tuple[Any, list[Strategy], dict[int, list[FoundScale]], Measured],
) -> None:
    model, listed, _, _ = grouped_query_case
    with pytest.raises(ValueError, match="first strategy must be full precision"):
        measure_losses(model, listed[1:], tokens(2), {})


def test_a_strategy_without_numbers_is_named() -> None:
    model = structured_model()
    name = "model.layers.0.mlp.down_proj.weight"
    broken = Strategy("rtn", 3, True, lambda: {name: torch.full_like(model.get_parameter(name), float("nan"))})
    with pytest.raises(MeasurementError, match="strategy rtn-3: a window's loss is NaN or infinite"):
        measure_losses(model, [Strategy("full", 0, True, dict), broken], tokens(2), {})


@pytest.mark.parametrize("key_value_heads", [4, 2])
@pytest.mark.parametrize("bits", [3, 4])
def test_the_deployed_model_gives_the_logits_of_scaled_weights_in_place(key_value_heads: int, bits: int) -> None:
    """Folded and rounded, or `Q(W s) / s` put in place of W: the same function, with and without v -> o."""
    model = structured_model(key_value_heads)
    found = search_blocks(model, LLAMA, tokens(6), (bits,))[bits]
    ids = torch.from_numpy(tokens(3, seed=5))
    linears, others = folded_parameters(model, LLAMA, found)
    with torch.no_grad():
        full = model(input_ids=ids).logits
        with applied(model, rounded(linears, bits) | others):
            deployed = model(input_ids=ids).logits
        in_place = {}
        scales = {}
        for entry in found:
            for _, path in LLAMA.site(entry.fold.name).linears:
                scales[f"model.layers.{entry.block}.{path}"] = entry.scales
        for name, module in model.model.named_modules():
            if isinstance(module, nn.Linear):
                s = scales.get(f"model.{name}", torch.ones(module.in_features, dtype=torch.float64))
                quantized = reference_block_search.quantized(module.weight * s, bits) / s
                in_place[f"model.{name}.weight"] = quantized
        with applied(model, in_place):
            expected = model(input_ids=ids).logits
    assert len(scales) == (14 if key_value_heads == 4 else 12)
    torch.testing.assert_close(deployed, expected, rtol=1e-9, atol=1e-9)
    assert (deployed - full).abs().max() > 0.01


def test_strategies_hold_the_weights_that_their_names_promise(
    grouped_query_case: tuple[Any, list[Strategy], dict[int, list[FoundScale]], Measured],
) -> None:
    """Against the reference's own `Q(W s) / s`, with magnitudes and exponents read off the reference's inputs."""
    model, listed, _, _ = grouped_query_case
    inputs = reference.captured_inputs(model, tokens(6))
    layers = reference_layers(model, tokens(6))
    curves = np.array([[layer["asym_g128_curves"][str(b)] for b in (3, 4)] for layer in layers.values()])
    constants = {bits: reference.ALPHAS[int(curves[:, i].sum(axis=0).argmin())] for i, bits in enumerate((3, 4))}
    by_name = {strategy.name: strategy for strategy in listed}
    assert by_name["full"].parameters() == {}
    for bits in (3, 4):
        for method in ("rtn", "awq-linear", "awq-constant", "awq-half"):
            parameters = by_name[f"{method}-{bits}"].parameters()
            assert len(parameters) == 14
            for name, x in inputs.items():
                alpha = {
                    "rtn": 0.0,
                    "awq-linear": layers[name]["asym_g128_awq_best_alpha"][str(bits)],
                    "awq-constant": constants[bits],
                    "awq-half": 0.5,
                }[method]
                weight = model.get_submodule(name).weight.detach().numpy()
                expected = reference.awq(weight, np.abs(x).mean(axis=0), alpha, "asym-g128", bits)
                np.testing.assert_allclose(parameters[f"{name}.weight"], expected, rtol=1e-9, atol=1e-12)
    deploys = {strategy.method: strategy.deploys for strategy in listed}
    assert deploys == {
        "full": True,
        "rtn": True,
        "awq-linear": False,
        "awq-block": True,
        "awq-constant": False,
        "awq-half": False,
    }
