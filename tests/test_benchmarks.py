"""The benchmark: model folders in real shapes, the official search replayed, what a run records, limits, curves."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from awq_core.calibrated import BLOCK, calibrate
from matplotlib.image import imread
from transformers import Qwen2ForCausalLM

from awq_core.architecture import SUPPORTED_MODEL_TYPES
from benchmarks import __main__ as command
from benchmarks import changes, curves, official_search
from benchmarks.clock import Clock
from benchmarks.comparison import compare_searches
from benchmarks.curve_figure import draw
from benchmarks.probes import Probes
from benchmarks.record import judge_limits
from benchmarks.shapes import SHAPES, random_model, scaled, write_model
from benchmarks.stages import FORWARD, HEAD, Stage, first_blocks, times_in_whole
from fixtures.models.checking import describe
from fixtures.models.loading import load_model, load_tokenizer
from fixtures.models.resolve import resolve
from fixtures.texts.effort import EFFORTS, Effort
from tests import reference_block_search
from tests.structured_model import LLAMA, structured_model, tokens

SCHEMA = json.loads((Path(command.__file__).parent / "schema.json").read_text(encoding="utf-8"))
WALL = Clock("wall", torch.device("cpu"))
MODELS = pytest.mark.parametrize(("kind", "key_value_heads"), [("llama", 4), ("qwen2", 2)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("shapes") / "width64", scaled(64, 2))


def test_the_shapes_are_the_real_ones() -> None:
    config = SHAPES["qwen0.5b"].config()
    found = {
        name: getattr(config, name)
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    }
    assert list(found.values()) == [896, 4864, 24, 14, 151_936]
    assert (config.num_key_value_heads, config.tie_word_embeddings) == (2, True)
    assert config.rope_parameters["rope_theta"] == 1e6
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in Qwen2ForCausalLM(config).parameters()) == 494_032_768


def test_a_scaled_shape_keeps_the_proportions() -> None:
    shape = scaled(896, 4)
    assert (shape.hidden, shape.intermediate, shape.heads, shape.key_value_heads) == (896, 4864, 14, 2)
    assert scaled(64, 1).heads == scaled(64, 1).key_value_heads == 1
    with pytest.raises(ValueError, match="width must be a multiple of 64, got 100"):
        scaled(100, 1)


def test_a_folder_is_an_ordinary_local_model(folder: Path) -> None:
    source = resolve(str(folder), None)
    described = describe(source, SUPPORTED_MODEL_TYPES)
    assert (described.blocks, described.hidden_size, described.vocabulary) == (2, 64, 1024)
    model = load_model(source, "cpu", torch.float32)
    ids = load_tokenizer(source)("def a(b): return b", return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(input_ids=ids).logits).all()
    norm = model.model.layers[0].input_layernorm.weight
    assert (norm != 1).sum() == 1  # half a percent of 64 channels, at least one
    assert 8 <= norm.max() <= 30


def test_a_seed_means_the_same_weights_and_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (random_model(scaled(64, 1), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_a_configuration_without_weights(tmp_path: Path) -> None:
    write_model(tmp_path, SHAPES["qwen7b"], with_weights=False)
    assert not list(tmp_path.glob("*.safetensors"))
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (config["hidden_size"], config["tie_word_embeddings"]) == (3584, False)


@MODELS
def test_the_replayed_official_search_is_the_reference_and_the_suite_s(kind: str, key_value_heads: int) -> None:
    model, ids = structured_model(key_value_heads, kind), tokens(6)
    before = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    expected = reference_block_search.search(model, torch.from_numpy(ids), 3)
    suite = calibrate(model, LLAMA, ids, (3,), (BLOCK,), arithmetic=torch.float64).scales[BLOCK, 3]
    found = {}
    for index, recorded in enumerate(official_search.recorded_blocks(model, ids)):
        recorded.record()
        for path, choice in official_search.search(recorded, 3).items():
            found[index, path] = choice
    assert list(found) == list(expected) == [(entry.block, entry.fold.inspected) for entry in suite]
    for entry in suite:
        alpha, scales = found[entry.block, entry.fold.inspected]
        losses = {a: loss for a, (loss, _) in expected[entry.block, entry.fold.inspected].items()}
        assert alpha == entry.alpha == min(losses, key=losses.__getitem__)
        torch.testing.assert_close(scales, entry.scales, rtol=1e-9, atol=0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@MODELS
def test_both_searches_give_the_same_block_outputs(kind: str, key_value_heads: int) -> None:
    model, ids = structured_model(key_value_heads, kind), tokens(6)
    found = compare_searches(model, LLAMA, ids, 3, torch.float64, WALL)
    assert found.same_exponents == found.groups == (8 if kind == "llama" else 6)
    assert found.error == pytest.approx(found.official_error, rel=1e-9)
    assert 0 < found.error < 1
    assert found.ratios()["search-error"] == pytest.approx(1)
    assert min(found.official_gathering, found.official_searching, found.gathering, found.searching) > 0


def test_a_block_s_error_is_that_of_its_rounded_weights() -> None:
    model, ids = structured_model(), tokens(2)
    recorded = next(official_search.recorded_blocks(model, ids))
    recorded.record()
    found = official_search.block_error(recorded, {}, 3)
    (hidden,), (output,) = recorded.hidden, recorded.outputs
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
        weight = recorded.block.get_submodule(name).weight
        weight.data = reference_block_search.quantized(weight.data, 3)
    for name in ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
        weight = recorded.block.get_submodule(name).weight
        weight.data = reference_block_search.quantized(weight.data, 3)
    with torch.no_grad():
        other = recorded.block(hidden, **recorded.arguments)
    assert found == pytest.approx(float((other - output).square().sum() / output.square().sum()), rel=1e-9)


@pytest.fixture(scope="module")
def record(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("record") / "benchmark.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EFFORTS, "quick", Effort("quick", 2048, 64, 1024, 64))
        patch.setattr("fixtures.texts.traffic.TOKENS", 512)
        patch.setattr("benchmarks.rates.REPEATS", 1)
        patch.setenv("AWQ_CLAIMS_CACHE", str(path.parent / "cache"))
        arguments = ["--blocks", "1", "--output", str(path), "--limit", "search=0.001"]
        assert command.main([str(folder), *arguments]) == 0
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_run_s_record_is_as_the_schema_says(record: dict[str, Any]) -> None:
    jsonschema.validate(record, SCHEMA)
    assert record["schema"] == 1
    assert (record["model"]["blocks"], record["model"]["blocks_measured"]) == (2, 1)
    assert record["missing"] == []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**record, "unknown": 1}, SCHEMA)


def test_every_stage_was_met_and_held_against_its_work(record: dict[str, Any]) -> None:
    names = [(row["run"], row["stage"]) for row in record["stages"]]
    assert [run for run, stage in names if stage == FORWARD] == ["layers", "traffic", "calibrating", "losses"]
    assert {stage for run, stage in names if run == "calibrating"} >= {"block search", "clip search", "GPTQ"}
    for row in record["stages"]:
        assert row["seconds"] > 0, row
        if row["operations"]:
            assert row["operations_per_second"] == pytest.approx(row["operations"] / row["seconds"])
            rate = np.mean([np.mean(found) for found in record["rates"]["products"].values()])
            assert 0 < row["share"] < 100 * row["operations_per_second"] / rate
    whole = sum(row["seconds"] * row["times_in_whole"] for row in record["stages"])
    assert record["whole"]["estimated_seconds"] == pytest.approx(whole)


def test_a_record_names_no_folder_and_no_user(record: dict[str, Any], folder: Path) -> None:
    assert str(folder.parent) not in json.dumps(record)


def test_how_often_a_whole_measurement_does_what_a_stage_did() -> None:
    def times(run: str, name: str) -> float:
        return times_in_whole(Stage(run, name, 1.0, None, None, {}), blocks=24, measured=2)

    assert times("layers", "mechanism") == 4 * 12
    assert times("layers", "layer grid") == pytest.approx((1 + 3 * 2 / 5) * 12)
    assert times("calibrating", "GPTQ") == 12
    assert times("losses", HEAD) == pytest.approx(56 / 6)


def test_limits_are_at_least() -> None:
    assert judge_limits({"search": 2.0}, ["search=3"]) == [{"ratio": "search", "at_least": 3.0, "found": 2.0}]
    for limit in ("search", "grid=1", "search=fast"):
        with pytest.raises(ValueError, match=r"limit|float"):
            judge_limits({"search": 2.0}, [limit])


@pytest.mark.parametrize(("limit", "status"), [("search=1.5", 0), ("search=2.5", 1), ("other=1", 2)])
def test_a_limit_that_is_not_reached_is_the_exit_status(
    limit: str, status: int, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {**record, "ratios": {"search": 2.0, "search-alone": 2.0}}

    def benchmark(given: argparse.Namespace, console: Any, cache: Path) -> dict[str, Any]:
        return known

    monkeypatch.setattr(command, "benchmark", benchmark)
    assert command.main(["embedded-tiny", "--limit", limit]) == status


def test_a_model_that_is_not_there_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["no-such-model"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_changes_count_the_machine_out(record: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    after = json.loads(json.dumps(record))
    for rates in after["rates"]["products"].values():
        rates[:] = [2 * rate for rate in rates]
    for row in after["stages"]:
        row["seconds"] /= 6
    found = {name: times for name, _, _, times in changes.changes(record, after)}
    assert found["layers: layer grid"] == pytest.approx(3)
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for path, content in zip(paths, (record, after), strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    assert changes.main([str(path) for path in paths]) == 0
    assert "layer grid" in capsys.readouterr().out
    after["settings"]["effort"] = "paper"
    with pytest.raises(ValueError, match="the records differ in effort: quick and paper"):
        changes.changes(record, after)


class _Ticks:
    """A clock that stands still but for what a test adds."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


def test_every_second_is_counted_once_and_functions_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Any = _Ticks()

    def inner() -> None:
        clock.time += 2

    def outer() -> None:
        clock.time += 1
        curves.inner()  # type: ignore[attr-defined]

    monkeypatch.setattr(curves, "inner", inner, raising=False)
    monkeypatch.setattr(curves, "outer", outer, raising=False)
    probes = Probes(clock)
    places = {"benchmarks.curves:inner": "inner", "benchmarks.curves:outer": "outer", "benchmarks.curves:gone": "x"}
    with probes.installed(places, {}), probes.part("rest"):
        clock.time += 4
        curves.outer()  # type: ignore[attr-defined]
    assert probes.seconds == {"inner": 2, "outer": 1, "rest": 4}
    assert probes.missing == ["benchmarks.curves:gone"]
    assert curves.inner is inner  # type: ignore[attr-defined]


def test_the_first_blocks_alone() -> None:
    model = structured_model()
    every = model.model.layers
    with first_blocks(model, LLAMA, 1):
        assert (len(model.model.layers), model.config.num_hidden_layers) == (1, 1)
        assert torch.isfinite(model(input_ids=torch.from_numpy(tokens(1))).logits).all()
    assert model.model.layers is every
    assert model.config.num_hidden_layers == 2


def test_curves_are_measured_and_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "tokens": (curves.Point(64, 1, 512), curves.Point(64, 1, 1024)),
        "width": (curves.Point(64, 1, 512), curves.Point(128, 1, 512)),
        "depth": (curves.Point(64, 1, 512), curves.Point(64, 2, 512)),
    }
    monkeypatch.setattr(curves, "CURVES", points)
    found = curves.measure(WALL, list(points), lambda line: None)
    drawings = draw(found)
    assert list(drawings) == list(points)
    for drawing in drawings.values():
        pixels = imread(io.BytesIO(drawing.png))[..., :3]
        assert (pixels < 0.9).any(axis=-1).sum() > 3000
