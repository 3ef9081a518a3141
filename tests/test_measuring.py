"""Measuring a tiny model end to end: the documented datasets, the cache's stages, and what breaks it."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file

import fixtures.measuring
from awq_core.architecture import SUPPORTED_MODEL_TYPES
from awq_core.measured import ALPHAS, GROUPS, SPLITS, TRAFFIC_KINDS
from awq_core.moments import MeasurementError
from fixtures.cache import MeasurementCache
from fixtures.kept_blocks import BlocksOnDisk
from fixtures.measurement_settings import MeasurementSettings
from fixtures.measuring import TRAFFIC_TWINS, TWIN_SEEDS, ModelMeasurement
from fixtures.models.checking import describe
from fixtures.models.loading import load_model, weights_hash
from fixtures.models.resolve import resolve
from fixtures.models.work import STRATEGIES
from fixtures.progress import MeasurementProgress
from fixtures.texts.tokens import TextSelection, token_hash
from fixtures.texts.traffic import Traffic
from tests.suite_sessions import ROOT
from tests.tiny_models import write_model

WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
KEPT_STAGES = [("layers", 1), ("traffic", 1), ("calibration", 1), ("calibration-foreign", 1), ("losses", 20)]
"""Stages that keep what was measured of each block or strategy, and after how many of them a test stops."""
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


def measurement(folder: Path, cache: Path, tokens=None, settings=SETTINGS, refresh=False) -> ModelMeasurement:
    source = resolve(str(folder), None)
    return ModelMeasurement(
        describe(source, SUPPORTED_MODEL_TYPES),
        tokens or selection(),
        traffic(),
        weights_hash(source),
        settings,
        MeasurementCache(cache, refresh=refresh),
        MeasurementProgress(None),
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
    assert abs(losses.sizes["strategy"] - STRATEGIES) <= 4, "the header's estimate counts other strategies"
    assert errors["alpha"].values.tolist() == list(ALPHAS)
    assert errors["bits"].values.tolist() == [2, 3, 4, 6, 8]
    assert errors["quantizer"].values.tolist() == ["asym-g128", "sym-channel"]
    methods = ["rtn", "awq-linear", "awq-constant", "awq-half", "awq-block", "awq-block-clip", "awq-duo"]
    methods += ["gptq", "gptq-order", "keep-activation", "keep-weight", *(f"keep-random{i}" for i in range(10))]
    methods += ["awq-block-few", "awq-block-foreign", "gptq-foreign", "awq-block-matched", "gptq-matched"]
    expected = {"full", "rtn-2"} | {f"{name}-{b}" for name in methods for b in (3, 4)}
    assert set(losses["strategy"].values) - {"awq-grouped-3", "awq-grouped-4"} == expected
    assert losses.sizes["window"] == 16
    assert losses["strategy_bits"].sel(strategy="full").item() == 0
    assert '"awq-block-4"' in losses.attrs["search"]


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
    for name in ("load_model", "untrained_twin", "measure_layers", "calibrate_model", "measure_model_level"):
        monkeypatch.setattr(fixtures.measuring, name, refuse)
    again = measurement(folder, cache)
    assert again.is_cached()
    result = again.measure({"seed": 0})
    for section in ("channels", "errors", "losses"):
        xr.testing.assert_identical(getattr(result, section), getattr(measured, section))
    assert len(result.twins) == 3
    assert not measurement(folder, cache, refresh=True).is_cached()


def test_whatever_the_measurements_depend_on_makes_them_stale(folder, cache, tmp_path, monkeypatch):
    assert not measurement(folder, cache, tokens=selection(seed=1)).is_cached()
    assert not measurement(folder, cache, settings=dataclasses.replace(SETTINGS, dtype=torch.bfloat16)).is_cached()
    # Another seed draws other channels to keep at random.
    assert not measurement(folder, cache, settings=dataclasses.replace(SETTINGS, seed=1)).is_cached()

    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
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

    monkeypatch.setattr(fixtures.measuring.transformers, "__version__", "0")
    assert not measurement(folder, cache).is_cached()


@pytest.mark.parametrize("stopped_at", ["calibrate_model", "measure_model_level", "untrained_twin"])
def test_a_run_that_was_stopped_resumes_with_the_stages_it_had_finished(folder, stopped_at, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    calls = []
    real = fixtures.measuring.measure_layers

    def counted(*arguments, **options):
        calls.append("layers")
        return real(*arguments, **options)

    monkeypatch.setattr(fixtures.measuring, "measure_layers", counted)
    with monkeypatch.context() as patch:
        patch.setattr(fixtures.measuring, stopped_at, interrupt)
        stopped = measurement(folder, tmp_path)
        with pytest.raises(KeyboardInterrupt):
            stopped.measure({})
    assert stopped._model is None  # dropped, whatever happened
    assert len(calls) == 1
    assert not list(tmp_path.rglob("*.tmp"))

    losses_had = stopped_at == "untrained_twin"
    with monkeypatch.context() as patch:
        if losses_had:
            patch.setattr(fixtures.measuring, "measure_model_level", refuse)
        resumed = measurement(folder, tmp_path).measure({})
    assert len(calls) == 1 + len(TWIN_SEEDS)  # the twins' layers alone
    assert resumed.losses is not None


class Stop(BaseException):
    """As sudden as a kill: nothing handles it."""


def stop_after(monkeypatch, stage, blocks):
    """Stop a measurement when so many blocks of a stage have been kept."""
    real = BlocksOnDisk.write

    def write(self, index, arrays):
        real(self, index, arrays)
        if self.folder.name == stage and len(list(self.folder.glob("*.npz"))) == blocks:
            raise Stop

    monkeypatch.setattr(BlocksOnDisk, "write", write)


def without_times(dataset):
    """The dataset without what calibrating took."""
    attributes = dict(dataset.attrs)
    for cost in (costs := json.loads(attributes.pop("cost", "{}"))).values():
        cost.pop("seconds")
    return dataset.drop_attrs().assign_attrs(attributes, cost=json.dumps(costs))


@pytest.mark.parametrize(("stage", "blocks"), KEPT_STAGES)
def test_a_run_that_was_stopped_resumes_with_the_next_block(folder, measured, stage, blocks, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, stage, blocks)
        with pytest.raises(Stop):
            measurement(folder, tmp_path).measure({})
    assert len(list(tmp_path.rglob(f"blocks/{stage}/*.npz"))) == blocks
    written = []
    real = BlocksOnDisk.write
    monkeypatch.setattr(
        BlocksOnDisk, "write", lambda self, i, given: written.append((self.folder.name, i)) or real(self, i, given)
    )
    resumed = measurement(folder, tmp_path).measure({})
    first = next(index for name, index in written if name == stage)
    assert first == blocks
    assert list(tmp_path.rglob("blocks")) == []
    for part in ("channels", "errors", "traffic", "losses"):
        xr.testing.assert_identical(without_times(getattr(resumed, part)), without_times(getattr(measured, part)))
    for twin, before in zip(resumed.twins, measured.twins, strict=True):
        xr.testing.assert_identical(twin.channels, before.channels)
        xr.testing.assert_identical(twin.errors, before.errors)


def damaged(folder: Path, copy: Path, name: str, value: float) -> Path:
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    tensors = load_file(copy / "model.safetensors")
    tensors[name].view(-1)[0] = value
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model.layers.0.input_layernorm.weight", float("nan"), r"block 0, attention_in: .*(NaN|infinite)"),
        ("model.layers.1.mlp.up_proj.weight", float("inf"), r"block 1, mlp_out: .*(NaN|infinite)"),
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


def test_measuring_changes_no_parameter(folder, tmp_path, monkeypatch):
    kept = []

    def remember(*arguments):
        model = load_model(*arguments)
        kept.append((model, {name: value.clone() for name, value in model.state_dict().items()}))
        return model

    monkeypatch.setattr(fixtures.measuring, "load_model", remember)
    measurement(folder, tmp_path).measure({})
    ((model, before),) = kept  # loaded once for layers and losses
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize(("calibration", "heldout"), [((3, 64), (16, 24)), ((40, 8), (17, 100)), ((1, 128), (33, 16))])
def test_calibration_and_heldout_text_may_differ_in_length_and_number(calibration, heldout, folder, tmp_path):
    model = measurement(folder, tmp_path, selection(calibration, heldout))
    channels, errors = model._layers()
    assert errors.sizes["group"] == 16
    assert np.isfinite(errors["group_power"]).all()
    assert bool((errors["group_power"] > 0).all())  # every group of windows has windows
    losses = model._losses(channels, errors)
    assert losses.sizes["window"] == heldout[0]


def test_the_order_of_stages_and_their_times_are_reported(folder, tmp_path):
    model = measurement(folder, tmp_path)
    measured = model.measure({"seed": 3})
    stages = ["loading", "layers", "kinds of traffic", "calibrating", "losses"]
    stages += [f"untrained twin {s}" for s in TWIN_SEEDS]
    stages += [f"kinds of traffic, untrained twin {s}" for s in TRAFFIC_TWINS]
    assert set(measured.provenance["seconds"]) == {f"tiny: {stage}" for stage in stages}
    assert measured.provenance["seed"] == 3
    assert measured.parameters == model.description.parameters
    assert measured.name == "tiny"
