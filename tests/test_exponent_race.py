"""Racing exponents against trying them all, on the embedded models and any others at hand; who goes on in a race."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from awq_core.architectures.block_stream import BlockStream
from awq_core.measure.checkpoints import Arrays, CheckpointsInMemory
from awq_core.measure.layers.errors import alpha_scales, exhaustive_errors, raced_errors
from awq_core.measure.layers.exponent_race import race_exponents
from awq_core.measure.layers.instrument import LayerSettings, measure_layers
from awq_core.measure.layers.racing import TOLERANCE, spread_order, survivors
from awq_core.measure.layers.row_errors import LinearRows, rows_looked_at
from awq_core.measure.layers.second_moment import SecondMoment
from awq_core.measured import ALPHAS, BITS, QUANTIZERS, is_judged
from awq_core.quantization.quantizers import DEPLOYED
from fixtures.measuring.model import ModelMeasurement
from fixtures.models.resolve import MODELS_VARIABLE, resolve
from fixtures.options import Options
from fixtures.preflight import open_source
from fixtures.progress import MeasurementProgress

EXTERNAL = Path(os.environ[MODELS_VARIABLE]) if MODELS_VARIABLE in os.environ else None
OTHERS = sorted(folder.name for folder in EXTERNAL.iterdir() if folder.is_dir()) if EXTERNAL else []
MODELS = ["embedded-tiny", "embedded-small", *OTHERS]
RACED = LayerSettings(arithmetic=torch.float32, raced=True)


def opened(name: str) -> ModelMeasurement:
    options = Options([name], "quick", "cpu", None, 0, False, None, None, EXTERNAL, None)
    measurement = open_source(resolve(name, EXTERNAL), options, MeasurementProgress(None), print).measurement
    assert isinstance(measurement, ModelMeasurement)
    return measurement


def measured_with(measurement: ModelMeasurement, settings: LayerSettings) -> xr.Dataset:
    tokens = {"calibration": measurement.tokens.calibration[:16], "heldout": measurement.tokens.heldout[:16]}
    stream = BlockStream(measurement.blocks(), measurement.architecture, tokens, settings.groups)
    return measure_layers(stream, settings)[1]


@pytest.mark.parametrize("name", MODELS)
def test_the_race_finds_what_the_exhaustive_grid_finds(name: str) -> None:
    measurement = opened(name)
    every = measured_with(measurement, LayerSettings())
    raced = measured_with(measurement, RACED)
    exact, found = (dataset["output_error"].sel(split="calibration").values for dataset in (every, raced))
    chosen = np.take_along_axis(exact, found.argmin(axis=-1)[..., None], axis=-1)[..., 0]
    assert (chosen <= exact.min(axis=-1) * (1 + TOLERANCE)).all()
    assert (found.argmin(axis=-1) == exact.argmin(axis=-1)).mean() > 0.97
    # What was measured on all rows is right, but where a weight lies half way between two codes in single precision.
    whole = raced["row_share"].values == 1
    off = np.abs(raced["output_error"].values / every["output_error"].values - 1)
    assert np.quantile(off[whole], 0.99) < 1e-3
    assert off[whole].max() < 0.05
    # The rest are estimates, and better ones than none.
    if not whole.all():
        assert np.median(off[~whole]) < 0.05


def test_what_claims_name_is_measured_on_all_rows() -> None:
    raced = measured_with(opened("embedded-small"), RACED)
    judged = raced.sel(bits=[3, 4], quantizer="asym-g128")
    for alpha in (0.0, 0.5, 1.0):
        assert (judged["row_share"].sel(alpha=alpha) == 1).all()
    best = judged["output_error"].sel(split="calibration", drop=True).argmin("alpha")
    assert (judged["row_share"].isel(alpha=best) == 1).all()
    assert float(raced["row_share"].min()) < 1  # there were rows to save


def test_a_winner_that_few_rows_speak_against_is_found() -> None:
    """One heavy row among many light ones decides the sum."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(400, 64, generator=generator, dtype=torch.float64)
    weight[123] *= 30
    inputs = torch.randn(500, 64, generator=generator, dtype=torch.float64)
    inputs[:, 5] *= 20
    moment = SecondMoment(64, torch.float64)
    moment.update(inputs)
    rows = LinearRows(weight, torch.float64)
    scales = alpha_scales(weight, inputs.abs().mean(dim=0))
    power = rows.power(moment)
    found = race_exponents(rows, scales, DEPLOYED, 3, (moment, moment), (power, power), [])
    every = rows.total_errors(scales, DEPLOYED, 3, [moment])[0] / power
    assert found.errors[:, 0].argmin() == every.argmin()
    assert found.row_share[found.errors[:, 0].argmin()].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(found.errors[every.argmin(), 0], every.min(), rtol=1e-12)


def test_a_raced_linear_has_the_errors_of_an_exhaustive_one() -> None:
    """Few channels and one row hold nearly all of the output: their rounding errors would not average out."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 512, generator=generator, dtype=torch.float64)
    weight[17] *= 30
    tokens = torch.randn(2000, 512, generator=generator, dtype=torch.float64)
    tokens[:, [5, 200]] += 40 * torch.randn(2000, 1, generator=generator, dtype=torch.float64)
    magnitude = tokens[:1000].abs().mean(dim=0)

    def moments(arithmetic: torch.dtype) -> tuple[SecondMoment, SecondMoment]:
        found = SecondMoment(512, arithmetic), SecondMoment(512, arithmetic)
        for moment, inputs in zip(found, tokens.split(1000), strict=True):
            moment.update(inputs)
        return found

    every = exhaustive_errors(weight, magnitude, moments(torch.float64), QUANTIZERS, BITS)
    raced = raced_errors(weight, magnitude, moments(torch.float32), QUANTIZERS, BITS, (1, 0))
    for q in range(len(QUANTIZERS)):
        for b, bits in enumerate(BITS):
            exact, found, share = every.errors[q, b], raced.errors[q, b], raced.row_share[q, b]
            whole = [0]
            if is_judged(bits, deployed=q == 0):
                best = int(found[:, 0].argmin())
                assert exact[best, 0] <= exact[:, 0].min() * (1 + TOLERANCE)
                whole = sorted({0, 10, 20, best})
            else:  # nothing else is measured there, nor passes for measured
                assert np.isnan(found[1:]).all()
                assert (share[1:] == 0).all()
            assert (share[whole] == 1).all()
            np.testing.assert_allclose(found[whole], exact[whole], rtol=TOLERANCE)
    for name in ("inverse_error", "factor_error"):
        exact, found = (vars(errors.mechanism)[name][..., 1] for errors in (every, raced))
        np.testing.assert_allclose(found, exact, rtol=TOLERANCE)


def test_a_linear_without_inputs_has_no_errors() -> None:
    moment = SecondMoment(64, torch.float64)
    rows = LinearRows(torch.randn(300, 64, dtype=torch.float64), torch.float64)
    scales = alpha_scales(rows.weight, torch.zeros(64, dtype=torch.float64))
    power = rows.power(moment)
    found = race_exponents(rows, scales, DEPLOYED, 3, (moment, moment), (power, power), [0])
    assert (found.errors == 0).all()
    assert len(scales) == len(ALPHAS)


class Killed(CheckpointsInMemory):
    """Keeps blocks up to one, then fails."""

    last: int | None = None

    def write(self, index: int, arrays: Arrays) -> None:
        super().write(index, arrays)
        if index == self.last:
            raise KeyboardInterrupt


@pytest.mark.parametrize("settings", [LayerSettings(), RACED], ids=["exhaustive", "raced"])
def test_a_run_that_was_interrupted_goes_on_where_it_was(settings: LayerSettings) -> None:
    measurement = opened("embedded-tiny")
    tokens = {"calibration": measurement.tokens.calibration[:4], "heldout": measurement.tokens.heldout[:16]}

    def measure(checkpoints: Killed) -> tuple[xr.Dataset, xr.Dataset]:
        return measure_layers(
            BlockStream(measurement.blocks(), measurement.architecture, tokens, settings.groups),
            settings,
            checkpoints=checkpoints,
        )

    whole, interrupted = measure(Killed()), Killed()
    interrupted.last = 1
    with pytest.raises(KeyboardInterrupt):
        measure(interrupted)
    interrupted.last = None
    for before, after in zip(whole, measure(interrupted), strict=True):
        xr.testing.assert_identical(before, after)


@pytest.mark.parametrize(("out_features", "share", "count"), [(128, 0.5, 128), (896, 0.5, 448), (896, 0.01, 64)])
def test_narrow_linears_are_looked_at_whole(out_features: int, share: float, count: int) -> None:
    """Half of a key's 128 rows were off by 15% on a model with planted outliers."""
    weight = torch.arange(out_features, dtype=torch.float64).unsqueeze(1).expand(-1, 4)
    rows = LinearRows(weight, torch.float64, share)
    assert (rows.count, rows.share) == (count, count / out_features)
    assert len(set(rows.weight[:, 0].tolist())) == count
    assert rows.weight[:, 0].tolist() == rows_looked_at(out_features, share).tolist()


# who goes on

CHANCE = 1e-3


def losses(seed: int, distance: float, cases: int = 1000, noise: float = 0.05) -> np.ndarray:
    """`(2, cases)`: one candidate, and another that is worse by a share, on cases of different difficulty."""
    rng = np.random.default_rng(seed)
    difficulty = np.exp(0.5 * rng.normal(size=cases))
    return difficulty * np.stack([np.ones(cases), 1 + distance + noise * rng.normal(size=cases)])


@pytest.mark.parametrize(("distance", "kept"), [(0.5, 1), (0.005, 2), (0.0, 2)])
def test_what_chance_explains_goes_on(distance: float, kept: int) -> None:
    for seed in range(20):
        assert len(survivors(losses(seed, distance)[:, :30], 1000, CHANCE)) == kept


def test_an_equally_good_candidate_is_dropped_no_oftener_than_said() -> None:
    dropped = [len(survivors(losses(seed, 0.0, noise=0.5)[:, :50], 1000, 0.05)) == 1 for seed in range(1000)]
    assert 0.06 < np.mean(dropped) < 0.14  # 5% on either side of the other one


def test_with_nothing_untried_the_best_is_alone() -> None:
    """Whatever the cases' spread: the exhaustive search has so many cases and no more."""
    table = losses(1, 0.002)
    assert survivors(table, 1000, CHANCE).tolist() == [int(table.mean(axis=1).argmin())]


def test_what_cannot_be_told_apart_is_not_raced_further() -> None:
    table = np.tile(np.linspace(1.0, 2.0, 64), (5, 1)) * (1 + TOLERANCE / 10 * np.arange(5))[::-1, None]
    assert survivors(table[:, :4], 64, CHANCE).tolist() == [4]


@pytest.mark.parametrize("cases", [1, 2, 5, 64, 100])
def test_the_order_has_every_case_once_and_spreads_the_first(cases: int) -> None:
    order = spread_order(cases)
    assert sorted(order) == list(range(cases))
    if cases >= 64:
        assert len({int(4 * index / cases) for index in order[:4]}) >= 3  # of four quarters
