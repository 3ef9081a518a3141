"""The benchmark: model folders in real shapes, the official search replayed, what a run records, limits."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from awq_core.architectures.block_stream import Blocks
from awq_core.measure.methods.scale_search import search_group
from benchmarks import __main__ as command
from benchmarks import changes, official_search
from benchmarks.clock import Clock
from benchmarks.comparison import compare_searches
from benchmarks.probes import Probes
from benchmarks.record import judge_limits
from benchmarks.shapes import SHAPES, random_model, scaled, write_model
from benchmarks.stages import FORWARD, HEAD, keep_first
from fixtures.models.checking import describe
from fixtures.models.loading import load_model, load_tokenizer
from fixtures.models.resolve import resolve
from fixtures.texts.effort import EFFORTS, Effort
from tests import reference_block_search
from tests.structured_model import LLAMA, searched, structured_model, tokens

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
    described = describe(source)
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


def official(model: Any, ids: np.ndarray, bits: int) -> dict[tuple[int, str], official_search.Searched]:
    replay, found = official_search.Replay(model, ids), {}
    for index, block in enumerate(model.model.layers):
        recorded = replay.record(block)
        found |= {(index, path): entry for path, entry in official_search.search(recorded, bits).items()}
    return found


@MODELS
def test_the_replayed_official_search_is_the_reference_and_the_suite_s(kind: str, key_value_heads: int) -> None:
    model, ids = structured_model(key_value_heads, kind), tokens(6)
    before = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    expected = reference_block_search.search(model, torch.from_numpy(ids), 3)
    found, suite = official(model, ids, 3), {(s.block, s.fold.inspected): s for s in searched(model, LLAMA, ids, 3)}
    assert list(found) == list(expected) == list(suite)
    for key, entry in found.items():
        losses = {alpha: loss for alpha, (loss, _) in expected[key].items()}
        assert entry.losses == pytest.approx(list(losses.values()), rel=1e-7)  # summed in single precision
        assert entry.alpha == suite[key].alpha == min(losses, key=losses.__getitem__)
        torch.testing.assert_close(entry.scales, suite[key].scales, rtol=1e-9, atol=0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_half_precision_is_replayed_in_single() -> None:
    model, ids = structured_model(2, "qwen2").bfloat16(), tokens(4)
    block = model.model.layers[0]
    recorded = official_search.Replay(model, ids).record(block)
    assert {parameter.dtype for parameter in recorded.block.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in block.parameters()} == {torch.bfloat16}
    for path, calls in recorded.calls.items():
        for args, kwargs, given in calls:
            inputs = args[0] if args else kwargs["hidden_states"]
            assert inputs.dtype == given.dtype == torch.float32, path


@MODELS
def test_both_searches_are_compared_on_the_same_groups(kind: str, key_value_heads: int) -> None:
    model, ids = structured_model(key_value_heads, kind), tokens(6)
    found = compare_searches(Blocks(model, LLAMA), ids, (4, 3), torch.float64, WALL)
    groups = 4 if kind == "llama" else 3
    once = [(block, bits) for block in (0, 1) for bits in (4, 3) for _ in range(groups)]
    assert [(choice.block, choice.bits) for choice in found.choices] == once
    assert all(choice.official == choice.suite and choice.regret == 0 for choice in found.choices)
    assert min(found.official_gathering, found.official_searching, found.gathering, found.searching) > 0
    ratios = found.ratios()
    assert (ratios["regret"], ratios["regret-worst"]) == (0, 0)
    both = found.official_gathering + found.official_searching, found.gathering + found.searching
    assert ratios["search"] == pytest.approx(both[0] / both[1])
    assert ratios["search-alone"] == pytest.approx(found.official_searching / found.searching)


def test_a_regret_is_what_the_official_losses_say(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = structured_model(2, "qwen2"), tokens(4)
    expected = official(model, ids, 3)
    wrong = lambda *given, **_: replace(search_group(*given), alpha=0.95)  # noqa: E731
    monkeypatch.setattr("benchmarks.comparison.search_group", wrong)
    found = compare_searches(Blocks(model, LLAMA), ids, (3,), torch.float64, WALL)
    regrets = []
    for choice in found.choices:
        losses = expected[choice.block, choice.group].losses
        regrets.append(losses[-1] / min(losses) - 1)
        assert choice.regret == pytest.approx(regrets[-1])
        assert choice.suite == 0.95
    assert max(regrets) > 0.1
    assert found.ratios()["regret"] == pytest.approx(np.mean(regrets))
    assert found.ratios()["regret-worst"] == pytest.approx(max(regrets))


@pytest.fixture(scope="module")
def record(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("record") / "benchmark.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EFFORTS, "quick", Effort("quick", 2048, 64, 1024, 64))
        patch.setattr("fixtures.texts.traffic.TOKENS", 512)
        patch.setattr("benchmarks.rates.REPEATS", 1)
        patch.setenv("AWQ_CLAIMS_CACHE", str(path.parent / "cache"))
        arguments = ["--blocks", "1", "--output", str(path), "--limit", "search=0.001", "regret=1"]
        assert command.main([str(folder), *arguments]) == 0
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_run_s_record_is_as_the_schema_says(record: dict[str, Any]) -> None:
    jsonschema.validate(record, SCHEMA)
    assert record["schema"] == 2
    assert (record["model"]["blocks"], record["model"]["blocks_measured"]) == (2, 1)
    assert record["missing"] == []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**record, "unknown": 1}, SCHEMA)


def test_every_stage_was_met_and_held_against_the_product_rate(record: dict[str, Any]) -> None:
    names = [(row["run"], row["stage"]) for row in record["stages"]]
    assert len(names) == len(set(names))
    assert [run for run, stage in names if stage == FORWARD] == ["layers", "traffic", "methods"]
    parts = {"moments", "second moments", "error grid", "mechanism", "replay by group", FORWARD, "rest"}
    assert {stage for run, stage in names if run == "layers"} == parts
    searched = [f"search: {name}" for name in ("rtn-clip", "awq-block", "awq-block-clip", "gptq")]
    of_methods = {*searched, "second moments", "rounding", FORWARD, HEAD, "rest"}
    assert {stage for run, stage in names if run == "methods"} == of_methods
    rates = {name: np.mean(found) for name, found in record["rates"].items()}
    for row in record["stages"]:
        assert row["seconds"] > 0, row
        if row["operations"]:
            least, most = (row["operations"] / end(rates.values()) / row["seconds"] for end in (max, min))
            assert least * 0.999 <= row["share"] <= most * 1.001
        if row["stage"] in (FORWARD, HEAD, "second moments", "error grid", *searched):
            assert row["operations"] > 0, row


def test_the_forward_s_operations_are_those_of_the_tokens(record: dict[str, Any]) -> None:
    """Of the layers: every linear, and attention's two products, on calibration and held-out tokens."""
    (row,) = [row for row in record["stages"] if (row["run"], row["stage"]) == ("layers", FORWARD)]
    sequences = record["settings"]["calibration"], record["settings"]["heldout"]
    count = sum(rows * length for rows, length in sequences)
    linears = sum(out * width for out, width in record["model"]["linears"])
    attention = sum(rows * 4 * length**2 * record["model"]["hidden"] for rows, length in sequences)
    assert row["operations"] == pytest.approx(2 * linears * count + attention, rel=0.01)


def test_both_precisions_are_searched(record: dict[str, Any]) -> None:
    assert {choice["bits"] for choice in record["search"]["choices"]} == {3, 4}
    assert record["search"]["blocks"] == 1
    assert 0 <= record["ratios"]["regret"] <= record["ratios"]["regret-worst"] < 0.01


def test_a_record_names_no_folder_and_no_user(record: dict[str, Any], folder: Path) -> None:
    assert str(folder.parent) not in json.dumps(record)


def test_limits_are_at_least_and_of_regrets_at_most() -> None:
    found = {"search": 2.0, "regret": 2.0}
    at_least, at_most = judge_limits(found, ["search=3", "regret=3"])
    assert at_least == {"ratio": "search", "bound": "at least", "limit": 3.0, "found": 2.0, "reached": False}
    assert at_most == {"ratio": "regret", "bound": "at most", "limit": 3.0, "found": 2.0, "reached": True}
    for limit in ("search", "grid=1", "search=fast"):
        with pytest.raises(ValueError, match=r"limit|float"):
            judge_limits(found, [limit])


@pytest.mark.parametrize(
    ("limit", "status"), [("search=1.5", 0), ("search=2.5", 1), ("regret=0.01", 0), ("regret=0.001", 1), ("other=1", 4)]
)
def test_a_limit_that_is_not_reached_is_the_exit_status(
    limit: str, status: int, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {**record, "ratios": {**record["ratios"], "search": 2.0, "regret": 0.002}}

    def benchmark(given: argparse.Namespace, console: Any, cache: Path) -> dict[str, Any]:
        return known

    monkeypatch.setattr(command, "benchmark", benchmark)
    try:
        found = command.main(["embedded-tiny", "--limit", "search=1", limit])
    except SystemExit as stop:
        found = stop.code
    assert found == status


def test_a_model_that_is_not_there_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="4"):
        command.main(["no-such-model"])
    assert capsys.readouterr().err.count("\n") == 1


def test_changes_count_the_machine_out(record: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    after = json.loads(json.dumps(record))
    for rates in after["rates"].values():
        rates[:] = [2 * rate for rate in rates]
    for row in after["stages"]:
        row["seconds"] /= 6
    found = {name: times for name, _, _, times in changes.changes(record, after)}
    assert found["layers: error grid"] == pytest.approx(3)
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for path, content in zip(paths, (record, after), strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    assert changes.main([str(path) for path in paths]) == 0
    assert "error grid" in capsys.readouterr().out
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
        torch.ones(1, 5, dtype=torch.float64) @ torch.ones(5, 1, dtype=torch.float64)

    def outer() -> None:
        clock.time += 1
        changes.inner()  # type: ignore[attr-defined]

    monkeypatch.setattr(changes, "inner", inner, raising=False)
    monkeypatch.setattr(changes, "outer", outer, raising=False)
    probes = Probes(clock)
    places = {"benchmarks.changes:inner": "inner", "benchmarks.changes:outer": "outer", "benchmarks.changes:gone": "x"}
    with probes.installed(places), probes.part("rest"):
        clock.time += 4
        changes.outer()  # type: ignore[attr-defined]
        torch.ones(2, 3) @ torch.ones(3, 4)
    assert probes.seconds == {"inner": 2, "outer": 1, "rest": 4}
    assert probes.products == {"inner": {torch.float64: 2 * 5}, "rest": {torch.float32: 2 * 2 * 3 * 4}}
    assert probes.missing == ["benchmarks.changes:gone"]
    assert changes.inner is inner  # type: ignore[attr-defined]


def test_the_first_blocks_alone() -> None:
    model, ids = structured_model(), torch.from_numpy(tokens(1))
    blocks = Blocks(model, LLAMA)
    expected = blocks.forward(0, blocks.embed(ids))
    blocks = Blocks(model, LLAMA)
    keep_first(blocks, 1)
    assert len(blocks) == len(model.model.layers) == model.config.num_hidden_layers == 1
    torch.testing.assert_close(blocks.forward(0, blocks.embed(ids)), expected)
    assert torch.isfinite(model(input_ids=ids).logits).all()
