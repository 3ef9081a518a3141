"""Every row of the table of architectures, on tiny random models of the real classes in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from awq_core.architectures.block_stream import Blocks, BlockStream
from awq_core.architectures.model import (
    SUPPORTED_MODEL_TYPES,
    Architecture,
    UnknownArchitectureError,
    architecture_of,
    blocks_of,
    linear,
    linears_of_block,
    separate_experts,
    weight_of,
)
from awq_core.judging.evidence import Verdict
from awq_core.judging.intervals import InsufficientDataError
from awq_core.judging.metrics import enrichment, hockey_stick, magnitude_spread, reduction, salient_auc
from awq_core.measure.layers.instrument import LayerSettings, measure_layers
from awq_core.measure.methods.block_rounding import LayerFindings
from awq_core.measure.methods.losses import logits_of
from awq_core.measure.methods.one_pass import MethodPass
from awq_core.measure.methods.table import METHODS, Strategy
from awq_core.measured import JUDGED_BITS, Measured
from awq_core.quantization.quantizers import DEPLOYED, round_to_nearest
from claims.support.agreement import profile_correlation
from claims.support.catalogue import whole_catalogue
from claims.support.claim import Setting
from claims.support.judge import judge
from tests.tiny_architectures import CASES, Case, case, every_case, logits, relative_change, tiny, token_ids

TOKENS = {"calibration": token_ids(4, 24).numpy(), "heldout": token_ids(16, 24, seed=1).numpy()}
ROUTERS = ("mlp.gate", "mlp.shared_expert_gate")


def test_every_model_type_of_the_table_is_tested() -> None:
    assert {shape.model_type for shape in CASES} == SUPPORTED_MODEL_TYPES


@every_case
def test_every_linear_of_the_blocks_is_found_once(shape: Case) -> None:
    model, architecture = tiny(shape)
    named = [entry.name for block in range(2) for entry in linears_of_block(architecture, block)]
    there = [
        f"{architecture.blocks}.{name}"
        for name, module in blocks_of(model, architecture).named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and not name.endswith(ROUTERS)
    ]
    assert sorted(named) == sorted(there)
    matrices = {
        f"{architecture.blocks}.{name.removesuffix('.weight')}"
        for name, parameter in blocks_of(model, architecture).named_parameters()
        if parameter.dim() > 1 and not name.removesuffix(".weight").endswith(ROUTERS)
    }
    assert matrices == set(named)  # no weight hides in a module of another kind
    sites = [site.name for site in architecture.sites]
    assert len(sites) == len(set(sites))
    assert all(site.name.split(".")[0] == site.role for site in architecture.sites)


@every_case
def test_streaming_block_by_block_is_the_whole_forward(shape: Case) -> None:
    """For two lengths of sequence at once: masks and positions differ between them."""
    model, architecture = tiny(shape)
    splits = {"calibration": token_ids(5, 24), "heldout": token_ids(3, 17, seed=1)}
    stream = BlockStream(model, architecture, {split: ids.numpy() for split, ids in splits.items()}, groups=2)
    expected = {split: _whole_forward(model, architecture, ids) for split, ids in splits.items()}
    for block in range(stream.blocks):
        stream.begin(block)
        for split in splits:
            inputs = [captured for _, captured in stream.passes(block, split)]
            assert set(inputs[0]) == {site.name for site in architecture.sites}
            for site in architecture.sites:
                streamed = torch.cat([captured[site.name] for captured in inputs])
                torch.testing.assert_close(streamed, expected[split][block, site.name], rtol=1e-9, atol=1e-9)
        stream.advance(block)
    for split in splits:
        streamed = torch.cat([hidden for _, hidden in stream.hidden[split]])
        torch.testing.assert_close(streamed, expected[split]["final"], rtol=1e-9, atol=1e-9)


def _whole_forward(model: Any, architecture: Architecture, ids: Tensor) -> dict[Any, Tensor]:
    """Inputs `(tokens, width)` of every site, and what the last block puts out, in one forward pass."""
    seen: dict[Any, Tensor] = {}

    def keep(key: Any) -> Any:
        return lambda _, inputs: seen.__setitem__(key, inputs[0].flatten(0, -2))

    def keep_output(_: nn.Module, __: Any, output: Any) -> None:
        seen["final"] = output[0] if isinstance(output, tuple) else output

    blocks = blocks_of(model, architecture)
    handles = [
        module.get_submodule(site.linears[0][1]).register_forward_pre_hook(keep((block, site.name)))
        for block, module in enumerate(blocks)
        for site in architecture.sites
    ]
    handles.append(blocks[-1].register_forward_hook(keep_output))
    logits(model, ids=ids)
    for handle in handles:
        handle.remove()
    return seen


@every_case
def test_the_head_makes_the_model_s_own_logits(shape: Case) -> None:
    model, _ = tiny(shape)
    with torch.no_grad():
        hidden = model.base_model(input_ids=token_ids(), use_cache=False).last_hidden_state
        torch.testing.assert_close(logits_of(model, hidden), logits(model), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["mixtral-gqa", "qwen2-moe-mha"])
def test_separated_experts_are_the_fused_ones(name: str) -> None:
    fused, architecture = tiny(case(name), separated=False)
    fused.set_experts_implementation("eager")  # the default one knows no float64
    expected = logits(fused)
    memory = fused.get_parameter(f"{architecture.blocks}.0.mlp.experts.gate_up_proj")
    with pytest.raises(UnknownArchitectureError, match=r"experts\.0\.gate_proj is not there"):
        linear(fused, f"{architecture.blocks}.0.mlp.experts.0.gate_proj")
    separate_experts(fused)
    assert relative_change(logits(fused), expected) < 1e-12
    gate = fused.get_parameter(f"{architecture.blocks}.0.mlp.experts.0.gate_proj.weight")
    assert gate.data_ptr() == memory.data_ptr()
    separate_experts(fused)  # nothing is left to separate
    assert relative_change(logits(fused), expected) < 1e-12


def mixtral_with_an_idle_expert() -> tuple[Any, Architecture]:
    """Each token goes to one expert, and the router's row of the last is in the middle of the others'."""
    model, architecture = tiny(case("mixtral-gqa"), num_experts_per_tok=1)
    with torch.no_grad():
        for block in blocks_of(model, architecture):
            router: Any = block.get_parameter("mlp.gate.weight")  # (experts, hidden)
            router[1] = -router[0]
            router[3] = 0
    return model, architecture


@pytest.mark.parametrize("name", ["gpt2", "phi-gqa", "neox-parallel", "qwen2-moe-gqa", "mixtral"])
def test_layers_are_measured(name: str) -> None:
    model, architecture = mixtral_with_an_idle_expert() if name == "mixtral" else tiny(case(name))
    channels, errors = measure_layers(BlockStream(model, architecture, TOKENS), LayerSettings(bits=JUDGED_BITS))
    measured = Measured(
        name=name, family=None, parameters=0, channels=channels, errors=errors, losses=None, tokens={}, provenance={}
    )
    names = [entry.name for block in range(2) for entry in linears_of_block(architecture, block)]
    assert channels["linear"].values.tolist() == names
    assert channels["site"].values.tolist() == [
        f"block {b} {site.name}" for b in range(2) for site in architecture.sites
    ]
    assert set(channels["site_role"].values) == {"attention_in", "attention_out", "mlp_in", "mlp_out"}
    shapes = [weight_of(linear(model, linear_name)).shape for linear_name in names]
    assert list(zip(channels["out_features"].values, channels["in_features"].values, strict=True)) == shapes
    inside = channels["channel"] < channels["site_width"]
    for variable in ("magnitude", "variance", "excess_kurtosis", "max_abs", "outlier_ratio"):
        assert bool((np.isfinite(channels[variable]) == inside).all())
    assert bool(np.isfinite(errors["output_error"]).all())
    idle = [".experts.3." in linear_name for linear_name in names] if name == "mixtral" else [False] * len(names)
    rtn = errors["output_error"].sel(alpha=0, bits=3)
    assert (rtn == 0).all(("quantizer", "split")).values.tolist() == idle
    for reading in (
        reduction(measured, "asym-g128", 3),
        enrichment(measured),
        hockey_stick(measured),
        magnitude_spread(measured),
        salient_auc(measured),
    ):
        assert bool(np.isfinite(reading).all())
    for reading in (reduction(measured, "asym-g128", 3), enrichment(measured), hockey_stick(measured)):
        np.testing.assert_allclose(reading.values[idle], 1.0)


@pytest.mark.parametrize("method", ["gptq", "gptq-parallel", "gptq-order"])
def test_an_expert_that_no_token_reached_is_rounded_to_nearest(method: str) -> None:
    """GPTQ would take all its columns for dead, and empty it."""
    model, architecture = mixtral_with_an_idle_expert()
    made = MethodPass(Blocks(model, architecture), {"": token_ids(4, 24).numpy()}, LayerFindings(seed=0))
    strategy = Strategy(METHODS[method], 4)
    made.score([strategy], token_ids(2, 24, seed=1).numpy())
    for block in range(2):
        for name, quantized in made.parameters(strategy, block).items():
            nearest = round_to_nearest(model.get_parameter(name), DEPLOYED, 4)
            assert torch.equal(quantized, nearest) == (".experts.3." in name), name


def test_claims_about_linears_can_be_asked_of_a_mixture() -> None:
    """Two blocks are too few for a verdict; what an idle expert or several sites of a role upset fails before that."""
    model, architecture = mixtral_with_an_idle_expert()
    channels, errors = measure_layers(BlockStream(model, architecture, TOKENS), LayerSettings())
    measured = Measured("mixture", None, 0, channels, errors, None, {}, {})
    for claim in whole_catalogue().values():
        if claim.level == "layer":
            for bits in claim.bits or (None,):
                judged = judge(claim, measured, Setting(bits), beside=False)
                assert judged.verdict in (Verdict.INSUFFICIENT, Verdict.NOT_APPLICABLE) or judged.estimate is not None
    with pytest.raises(InsufficientDataError):
        profile_correlation((measured, measured))


def test_an_output_error_is_that_of_the_module_itself() -> None:
    """GPT-2 stores its weights transposed: rounding must group along the inputs all the same."""
    model, architecture = tiny(case("gpt2"))
    _, errors = measure_layers(BlockStream(model, architecture, TOKENS), LayerSettings(bits=JUDGED_BITS))
    name = "transformer.h.0.mlp.c_proj"
    x = _whole_forward(model, architecture, token_ids(16, 24, seed=1))[0, "mlp_out"]
    weight = model.get_submodule(name).weight.detach()  # (in, out)
    step = weight.abs().amax(dim=0) / 4  # one for each output, 3 bits
    rounded = (weight / step).round().clamp(-4, 3) * step
    expected = float(((x @ (rounded - weight)) ** 2).sum() / ((x @ weight) ** 2).sum())
    found = errors["output_error"].sel(linear=name, quantizer="sym-channel", bits=3, alpha=0, split="heldout")
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_a_mixture_is_counted_from_its_configuration() -> None:
    with pytest.raises(ValueError, match="has experts: its configuration is needed"):
        architecture_of("mixtral")
    row = architecture_of(transformers.MixtralConfig(num_local_experts=3))
    assert [site.name for site in row.sites if site.role == "mlp_out"] == ["mlp_out.0", "mlp_out.1", "mlp_out.2"]
    (into,) = (fold for fold in row.folds if fold.name == "mlp_in.0")
    assert into.sites == ("mlp_in.0", "mlp_in.1", "mlp_in.2")
    assert into.further == ("mlp.gate",)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("mamba", "'mamba' is not in the table of architectures; known: gemma"),
        (transformers.Qwen2MoeConfig(decoder_sparse_step=2), "decoder_sparse_step = 2"),
        (transformers.Qwen2MoeConfig(mlp_only_layers=[0]), r"mlp_only_layers = \[0\]"),
        (transformers.GPT2Config(add_cross_attention=True), "add_cross_attention = True"),
    ],
)
def test_a_model_that_no_row_describes_is_refused(config: Any, words: str) -> None:
    with pytest.raises(UnknownArchitectureError, match=words):
        architecture_of(config)
