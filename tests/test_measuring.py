"""Measuring a tiny model end to end: the documented datasets, the cache's stages, and what breaks it."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file

import fixtures.measuring.model
from awq_core.architectures.block_stream import Blocks
from awq_core.measure.layers.moments import MeasurementError
from awq_core.measure.methods.table import CHOICES_AT_ONCE, strategies
from awq_core.measured import ALPHAS, GROUPS, JUDGED_BITS, SPLITS, TRAFFIC_KINDS
from awq_core.quantization.matmul import multiplies_bfloat16
from fixtures.cache.checkpoints import CheckpointsOnDisk
from fixtures.cache.store import MeasurementCache
from fixtures.cost import GPTQ_SEARCHES, METHODS_AT_FIRST, METHODS_READ
from fixtures.measuring.losses_by_look import Wanted
from fixtures.measuring.model import TRAFFIC_TWINS, TWIN_SEEDS, ModelMeasurement
from fixtures.measuring.settings import MeasurementSettings
from fixtures.measuring.stages import EVERY
from fixtures.models.block_files import load_blocks
from fixtures.models.checking import describe
from fixtures.models.loading import load_model, weights_hash
from fixtures.models.resolve import resolve
from fixtures.progress import MeasurementProgress
from fixtures.texts.tokens import TextSelection, token_hash
from fixtures.texts.traffic import Traffic
from tests.suite_sessions import ROOT
from tests.tiny_models import write_model

WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
SETTINGS = MeasurementSettings("quick", "cpu", torch.float32, 0)
DOCUMENTED = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")


def selection(calibration=(6, 48), heldout=(16, 32), seed=0):
    generator = np.random.default_rng(seed)
    arrays = [generator.integers(1, 250, shape) for shape in (calibration, heldout)]
    return TextSelection(*arrays, "one", "two", *map(token_hash, arrays), ())


def traffic(seed=0):
    generator = np.random.default_rng(seed)
    kinds = {kind: {split: generator.integers(1, 250, (2, 32)) for split in SPLITS} for kind in TRAFFIC_KINDS}
    return Traffic(kinds, generator.integers(1, 250, (6, 48)), generator.integers(1, 250, (3, 48)), f"traffic {seed}")


WANTED = ("awq-constant-everywhere-3", "awq-block-4", "awq-block-clip-4", "gptq-foreign-3", "keep-random2-4")
"""What is scored here beside round-to-nearest: one of each way to search and to round."""


def some_methods(measured):
    return dict.fromkeys(WANTED, 0)


def measurement(
    folder: Path, cache: Path, tokens=None, settings=SETTINGS, refresh=False, wanted: Wanted | None = some_methods
) -> ModelMeasurement:
    source = resolve(str(folder), None)
    return ModelMeasurement(
        describe(source),
        tokens or selection(),
        traffic(),
        weights_hash(source),
        settings,
        MeasurementCache(cache, refresh=refresh),
        MeasurementProgress(None),
        None if wanted is None else lambda: wanted,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "tiny", **WIDE)


@pytest.fixture(scope="module")
def cache(tmp_path_factory, folder):
    """A cache that holds the model's measurements."""
    cache = tmp_path_factory.mktemp("cache")
    measurement(folder, cache).measure({})
    return cache


@pytest.fixture
def measured(folder, cache):
    return measurement(folder, cache).measure({"seed": 0})


def documented_variables(section: str) -> dict[str, tuple[str, ...]]:
    """Variables and their dimensions as one section's table lists them."""
    table = DOCUMENTED.split(f"## {section}\n")[1].split("\n\n")[0]
    found = {}
    for names, dimensions in re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", table, flags=re.MULTILINE):
        found |= {name: tuple(dimensions.strip().split(", ")) for name in re.findall(r"`(\w+)`", names)}
    return found


def test_what_was_read_of_the_losses_before_measuring_is_not_read_again(folder, cache, monkeypatch):
    read, genuine = [], MeasurementCache.known
    monkeypatch.setattr(
        MeasurementCache, "known", lambda self, key, names: read.append(key) or genuine(self, key, names)
    )
    subject = measurement(folder, cache)
    assert subject.is_cached()
    layers = subject.measure({}, EVERY - {"losses"})
    assert subject.measure({}, EVERY, layers).losses is not None
    assert len(read) == len(set(read)) > 3


@pytest.mark.parametrize("section", ["channels", "errors", "losses", "traffic"])
def test_the_datasets_are_as_documented(measured, section):
    dataset = getattr(measured, section)
    documented = documented_variables(section)
    assert len(documented) >= 2
    assert {name: variable.dims for name, variable in dataset.data_vars.items()} == documented
    coordinates = DOCUMENTED.split(f"## {section}\n")[1].split("##")[0].split("Coordinates:")[-1]
    for name in dataset.coords:
        if name not in ("site", "linear", "channel", "window", "strategy", "judged_bits", "choice") and not (
            section == "errors" and name in measured.channels.coords  # "and those of `linear` as above"
        ):
            assert f"`{name}`" in coordinates, f"{name} is not documented"


def test_the_labels_are_as_documented(measured):
    channels, errors, losses = measured.channels, measured.errors, measured.losses
    assert channels["split"].values.tolist() == ["calibration", "heldout"]
    assert channels["site_role"].values[:4].tolist() == ["attention_in", "attention_out", "mlp_in", "mlp_out"]
    assert channels["site_width"].values.tolist() == [64, 64, 64, 96] * 2
    assert channels["linear_family"].values[:7].tolist() == ["q", "k", "v", "o", "gate", "up", "down"]
    assert channels["linear_block"].values.tolist() == [0] * 7 + [1] * 7
    assert channels["linear"].values[6] == "model.layers.0.mlp.down_proj"
    assert set(channels["linear_site"].values) == set(channels["site"].values)
    assert channels.sizes["group"] == GROUPS == 16
    assert errors["alpha"].values.tolist() == list(ALPHAS)
    assert errors["bits"].values.tolist() == [2, 3, 4, 6, 8]
    assert errors["quantizer"].values.tolist() == ["asym-g128", "sym-channel"]
    expected = {"full", "rtn-3", "rtn-4", *WANTED}
    assert set(losses["strategy"].values) == expected
    assert losses.sizes["window"] == 16
    assert losses["strategy_bits"].sel(strategy="full").item() == 0
    assert '"awq-block-4"' in losses.attrs["search"]


def test_the_estimate_counts_the_methods_that_are_scored(folder):
    blocks = load_blocks(resolve(str(folder), None), "cpu", torch.float32)
    listed = strategies(blocks.model, blocks.architecture, JUDGED_BITS, all_methods=False)
    assert len(listed) == METHODS_READ
    later = [s for s in listed if s.label.startswith("keep-random") and int(s.label[-1]) >= CHOICES_AT_ONCE]
    assert len(listed) - len(later) == METHODS_AT_FIRST
    assert len([s for s in listed if s.label.startswith("gptq")]) == GPTQ_SEARCHES


def test_what_is_not_a_number_is_only_what_the_documentation_says(measured):
    magnitude = measured.channels["magnitude"]
    narrow = magnitude["channel"] >= magnitude["site_width"]
    assert bool((np.isnan(magnitude) == narrow).all())
    assert np.isfinite(measured.errors["output_error"]).all()
    assert np.isfinite(measured.losses["window_loss"]).all()
    group_error = measured.errors["group_error"]
    unread = (group_error["quantizer"] == "sym-channel") & (group_error["judged_bits"] == 4)
    assert bool((np.isnan(group_error) == unread).all())


def test_twins_stand_beside_the_model(measured):
    assert len(measured.twins) == len(TWIN_SEEDS)
    for twin in measured.twins:
        assert twin.losses is None
        assert twin.channels["linear"].values.tolist() == measured.channels["linear"].values.tolist()
        assert twin.errors["bits"].values.tolist() == [4, 3]
    first, second = (twin.channels["weight_size"].values for twin in measured.twins[:2])
    assert not np.array_equal(first, second, equal_nan=True)
    # The twin is drawn anew, not a copy of the model.
    assert not np.array_equal(first, measured.channels["weight_size"].values, equal_nan=True)


def test_moments_are_those_of_the_models_own_activations(measured, folder):
    model = load_model(resolve(str(folder), None), "cpu", torch.float32)
    seen = []
    model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(torch.from_numpy(measured.tokens["heldout"]))
    x = seen[0].reshape(-1, 96).double().numpy()
    read = measured.channels.sel(split="heldout", site="block 1 mlp_out")
    np.testing.assert_allclose(read["magnitude"], np.abs(x).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(read["variance"], x.var(axis=0), rtol=1e-5)
    np.testing.assert_allclose(read["max_abs"], np.abs(x).max(axis=0), rtol=1e-5)


def refuse(*_, **__):
    raise AssertionError("nothing should be loaded or measured")


def test_a_second_run_loads_and_measures_nothing(folder, cache, measured, monkeypatch):
    for name in ("load_blocks", "untrained_blocks", "measure_layers", "measure_traffic", "MethodPass"):
        monkeypatch.setattr(fixtures.measuring.model, name, refuse)
    again = measurement(folder, cache)
    assert again.is_cached()
    assert_same(again.measure({"seed": 0}), measured)
    assert not measurement(folder, cache, refresh=True).is_cached()


def assert_same(result, expected):
    for part in ("channels", "errors", "traffic", "losses"):
        xr.testing.assert_identical(without_times(getattr(result, part)), without_times(getattr(expected, part)))
    for twin, before in zip(result.twins, expected.twins, strict=True):
        for part in ("channels", "errors"):
            xr.testing.assert_identical(getattr(twin, part), getattr(before, part))
        assert (twin.traffic is None) == (before.traffic is None)
    xr.testing.assert_identical(result.twins[0].traffic, expected.twins[0].traffic)


def test_losses_are_measured_with_what_is_known_and_layers_without_losses(folder, cache, measured, monkeypatch):
    known = measurement(folder, cache).measure({}, EVERY - {"losses"})
    assert known.losses is None
    assert len(known.twins) == len(TWIN_SEEDS)
    for name in ("layers_key", "traffic_key"):
        monkeypatch.setattr(ModelMeasurement, f"_{name}", None)  # nothing else is asked of the cache
    assert_same(measurement(folder, cache).measure({}, EVERY, known), measured)


def test_whatever_the_measurements_depend_on_makes_them_stale(folder, cache, tmp_path, monkeypatch):
    assert not measurement(folder, cache, tokens=selection(seed=1)).is_cached()
    assert not measurement(folder, cache, settings=dataclasses.replace(SETTINGS, dtype=torch.bfloat16)).is_cached()
    # Another seed draws other channels to keep at random.
    assert not measurement(folder, cache, settings=dataclasses.replace(SETTINGS, seed=1)).is_cached()

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert measurement(copy, cache).is_cached()  # the same model in another folder
    config = (copy / "config.json").read_text()
    assert "10000.0" in config
    (copy / "config.json").write_text(config.replace("10000.0", "20000.0"))  # another rotation of positions
    assert not measurement(copy, cache).is_cached()
    (copy / "config.json").write_text(config)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert not measurement(copy, cache).is_cached()

    monkeypatch.setattr(fixtures.measuring.model.transformers, "__version__", "0")
    assert not measurement(folder, cache).is_cached()


class Stop(BaseException):
    """As sudden as a kill: nothing handles it."""


KEPT = [
    *(("layers", 1), ("layers", 3), ("layers", 8), ("traffic", 1), ("traffic", 4)),
    *(("awq-block-4", 1), ("awq-block-clip-4", 2), ("gptq-foreign-3", 1)),
]
"""What is kept of each block, by the folder, and after how many a test stops: of the model's two blocks, then of its
twins'; the last of them before their stage is whole."""


def stop_after(monkeypatch, kind, count):
    """Stop a measurement when so many blocks of a kind have been kept; gives the files that were written."""
    real, written = CheckpointsOnDisk.write, []

    def write(self, index, arrays):
        real(self, index, arrays)
        written.append((self.folder, index))
        if [folder.name for folder, _ in written].count(kind) == count:
            raise Stop

    monkeypatch.setattr(CheckpointsOnDisk, "write", write)
    return written


def without_times(dataset):
    """The dataset without what searching took."""
    attributes = dict(dataset.attrs)
    for cost in (costs := json.loads(attributes.pop("cost", "{}"))).values():
        cost.pop("seconds")
    return dataset.drop_attrs().assign_attrs(attributes, cost=json.dumps(costs))


@pytest.mark.parametrize(("kind", "count"), KEPT, ids=str)
def test_a_run_that_was_stopped_resumes_with_the_next_block(folder, measured, kind, count, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        before = stop_after(patch, kind, count)
        stopped = measurement(folder, tmp_path)
        with pytest.raises(Stop):
            stopped.measure({})
    assert stopped._blocks is None  # dropped, whatever happened
    assert not list(tmp_path.rglob("*.tmp"))
    after = stop_after(monkeypatch, "", 1)
    resumed = measurement(folder, tmp_path).measure({})
    assert not set(before) & set(after)
    assert len({*before, *after}) == 2 * (1 + len(TWIN_SEEDS)) + 2 * (1 + len(TRAFFIC_TWINS)) + 2 * 3
    # What searches found stays, for runs with other windows or claims; of everything else the results alone.
    assert {path.name for path in tmp_path.rglob("blocks/*")} == {"awq-block-4", "awq-block-clip-4", "gptq-foreign-3"}
    assert_same(resumed, measured)


def damaged(folder: Path, copy: Path, name: str, value: float) -> Path:
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors[name].view(-1)[0] = value
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model.layers.0.input_layernorm.weight", float("nan"), r"block 0, attention_in: .*(NaN|infinite)"),
        (
            "model.layers.1.mlp.up_proj.weight",
            float("inf"),
            "block 1, mlp_out: NaN or infinite activations in 1 of 96 ",
        ),
        ("model.layers.1.mlp.down_proj.weight", float("nan"), r"model\.layers\.1\.mlp\.down_proj: .*(NaN|infinite)"),
        ("model.norm.weight", float("nan"), r"(NaN|infinite)"),
    ],
)
def test_what_is_not_finite_is_one_clear_line_and_is_not_kept(name, value, words, folder, tmp_path):
    broken = damaged(folder, tmp_path / "broken", name, value)
    with pytest.raises(MeasurementError, match=words) as caught:
        measurement(broken, tmp_path / "cache").measure({})
    assert "\n" not in str(caught.value)
    assert not measurement(broken, tmp_path / "cache").is_cached()


def test_measuring_changes_no_parameter_and_holds_no_block(folder, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        fixtures.measuring.model, "load_blocks", lambda *given: opened.append(load_blocks(*given)) or opened[-1]
    )
    measurement(folder, tmp_path).measure({})
    first, again = opened  # for layers and traffic, and after the twins for losses
    assert again is not first
    expected = load_model(resolve(str(folder), None), "cpu", torch.float32).state_dict()
    for blocks in opened:
        for name, value in blocks.model.state_dict().items():
            assert value.is_meta == name.startswith("model.layers."), name
            assert value.is_meta or torch.equal(value, expected[name]), name


def test_a_model_that_is_held_in_memory_is_measured_alike_and_the_same_afterwards(
    folder, measured, tmp_path, monkeypatch
):
    """One whose files name their tensors otherwise, say."""
    model = load_model(resolve(str(folder), None), "cpu", torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = measurement(folder, tmp_path)
    monkeypatch.setattr(fixtures.measuring.model, "load_blocks", lambda *_: Blocks(model, held.architecture))
    assert_same(held.measure({}), measured)
    assert model.state_dict().keys() == before.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value), name


@pytest.mark.parametrize(("calibration", "heldout"), [((3, 64), (16, 24)), ((40, 8), (17, 100)), ((1, 128), (33, 16))])
def test_calibration_and_heldout_text_may_differ_in_length_and_number(calibration, heldout, folder, tmp_path):
    model = measurement(folder, tmp_path, selection(calibration, heldout))
    channels, errors = model._layers()
    assert errors.sizes["group"] == 16
    assert np.isfinite(errors["group_power"]).all()
    assert bool((errors["group_power"] > 0).all())  # every group of windows has windows
    losses = model._by_look(channels, errors).measure()
    assert losses.sizes["window"] == heldout[0]
    assert set(losses["strategy"].values) == {"full", "rtn-3", "rtn-4", *WANTED}


def test_the_order_of_stages_and_their_times_are_reported(folder, tmp_path):
    model = measurement(folder, tmp_path)
    measured = model.measure({"seed": 3})
    stages = ["loading", "layers", "kinds of traffic"]
    for seed in TWIN_SEEDS:
        stages.append(f"untrained twin {seed}")
        stages += [f"kinds of traffic, untrained twin {seed}"] * (seed in TRAFFIC_TWINS)
    stages.append("what folding changes")
    stages += ["products in bfloat16, a trial"] * multiplies_bfloat16(torch.device("cpu"))
    stages += [f"losses, look 1 of 1, {count} methods" for count in (3, len(WANTED))]
    assert list(measured.provenance["seconds"]) == [f"tiny: {stage}" for stage in stages]
    assert measured.provenance["looks"] == model._by_look(measured.channels, measured.errors).looks.as_dict() | {
        "strategies_at_look": [3 + len(WANTED)],
        "stopped": "the last look was reached",
    }
    products = json.loads(measured.losses.attrs["bfloat16_products"])
    assert measured.provenance["bfloat16_products"]["used"] == products["used"]
    assert measured.provenance["seed"] == 3
    assert measured.parameters == model.description.parameters
    assert measured.name == "tiny"
