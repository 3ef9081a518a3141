"""Mechanism: why scaling salient channels works."""

import numpy as np

from awq_core.judging.by_block import estimate_by_block, share_by_block
from awq_core.judging.intervals import Estimate
from awq_core.judging.metrics import error_at, error_ratio, factor_error, inverse_error, natural_log
from awq_core.measured import Measured
from claims.support.claim import Parts, Setting, claim
from claims.support.model_losses import attribute
from claims.support.readers import deployed_quantizer_only, exactly, named
from claims.support.worked_examples import EXAMPLES

DIRECTION_ALPHA = 0.5
"""The guide's own exponent: both directions are compared at it."""

DOUBLED = 2.0
"""The factor of the AWQ paper's Table 2 with the best perplexity."""


@claim(
    "mechanism.equivalence",
    "Scaling and folding change nothing before rounding",
    source="conceptual guide, AWQ paper",
    below=1,
    unit="largest logit difference / what the dtype allows",
    kind="mechanical",
    level="model",
)
def test_equivalence(measured: Measured, setting: Setting) -> Estimate:
    check = attribute(measured, "folding")
    readings: dict[str, float | str] = {
        "largest difference over the largest logit": check["largest_difference"],
        f"what {check['dtype']} allows": check["tolerance"],
    }
    value = check["largest_difference"] / check["tolerance"]
    return named(exactly(value, "tokens", check["tokens"]), None, readings)


@claim(
    "mechanism.direction",
    "Salient weights must be scaled up: scaled down, the typical linear errs over 2% more than round-to-nearest, "
    "and more than scaled up",
    source="AWQ paper, against the conceptual guide: scale weights down",
    above=0,
    unit="median ln(error scaled down / what it is held against)",
    kind="mechanical",
    bits=(4, 3),
)
def test_direction(measured: Measured, setting: Setting) -> Parts:
    deployed_quantizer_only(measured, setting)
    rtn, up = (error_at(measured, setting.quantizer, setting.precision, alpha) for alpha in (0.0, DIRECTION_ALPHA))
    down = inverse_error(measured, setting.precision, DIRECTION_ALPHA)
    readings: dict[str, float | str] = {
        "median e(1/s) / e(RTN)": float(error_ratio(down, rtn).median()),
        "median e(s) / e(RTN)": float(error_ratio(up, rtn).median()),
    }
    held_against = {"RTN, with 2% to spare": 1.02 * rtn, "scaled up": up}
    return {
        name: named(
            estimate_by_block(natural_log(error_ratio(down, error)), seed=setting.seed, reduce=np.nanmedian),
            None,
            readings,
        )
        for name, error in held_against.items()
    }


@claim(
    "mechanism.step-stays",
    "Doubling 1% of the channels leaves most quantization steps as they are",
    source="AWQ paper, Table 2: 8.2% of steps change",
    below=0.3,
    unit="share of groups whose step changes by more than 1%",
    kind="mechanical",
)
def test_step_stays(measured: Measured, setting: Setting) -> Estimate:
    changed, ratio = measured.errors["step_changed"], measured.errors["step_ratio"]
    groups = measured.errors["out_features"].values.sum()
    estimate = share_by_block(changed.sel(factor=DOUBLED), trials=int(groups), seed=setting.seed)
    readings: dict[str, float | str] = {
        f"factor {factor:g}": f"{float(changed.sel(factor=factor).mean()):.3f} of steps change, "
        f"mean step ratio {float(ratio.sel(factor=factor).mean()):.3f}"
        for factor in changed["factor"].values[1:]
    }
    return named(estimate, None, readings)


@claim(
    "mechanism.sweet-spot",
    "The gain peaks at a moderate factor: multiplying the top 1% by it beats both leaving them and quadrupling them",
    source="AWQ paper, Table 2: best at 2",
    above=1.01,
    unit="times the error (geometric mean): of the end / of the best inner factor",
    bits=(4, 3),
)
def test_sweet_spot(measured: Measured, setting: Setting) -> Parts:
    deployed_quantizer_only(measured, setting)
    factors = [float(factor) for factor in measured.errors["factor"].values]
    calibration, heldout = (
        {factor: natural_log(error_ratio(error, errors[1.0])) for factor, error in errors.items()}
        for errors in (
            {factor: factor_error(measured, setting.precision, factor, split) for factor in factors}
            for split in ("calibration", "heldout")
        )
    )
    inner = min(factors[1:-1], key=lambda factor: float(calibration[factor].mean()))
    readings: dict[str, float | str] = {
        "inner factor, chosen on calibration tokens": inner,
        **{f"error at {f:g}, over that at 1": float(np.exp(heldout[f].mean())) for f in factors[1:]},
    }
    return {
        f"against {end:g}": named(
            estimate_by_block(heldout[end] - heldout[inner], seed=setting.seed, logarithmic=True), None, readings
        )
        for end in (factors[0], factors[-1])
    }


@claim(
    "mechanism.uniform-is-nothing",
    "Protecting every channel alike protects none: the weights come out as round-to-nearest's, to the last bit",
    source='lesson "protect what traffic actually uses"',
    below=0.5,
    unit="weights that come out otherwise",
    kind="mechanical",
)
def test_uniform_is_nothing(measured: Measured, setting: Setting) -> Estimate:
    changed = measured.errors["uniform_changed"].astype(float)
    weights = int((measured.errors["in_features"] * measured.errors["out_features"]).sum())
    return named(exactly(float(changed.sum(skipna=False)), "weights", weights), changed, {})


@claim(
    "mechanism.no-overhead",
    "After folding, inference costs nothing more: the same modules, parameters and operations",
    source="conceptual guide",
    below=0.5,
    unit="modules, parameters and operations that are there only before or only after",
    kind="mechanical",
    level="model",
)
def test_no_overhead(measured: Measured, setting: Setting) -> Estimate:
    check = attribute(measured, "folding")
    readings: dict[str, float | str] = {
        "linears whose scale an operation absorbs": f"{check['foldable_linears']} of {check['linears']}"
    }
    value = check["modules_changed"] + check["parameters_changed"] + check["operations_changed"]
    return named(exactly(float(value), "modules", check["modules_before"]), None, readings)


@claim(
    "mechanism.traffic-arithmetic",
    "The lesson's worked examples come out as it says",
    source='lesson "protect what traffic actually uses"',
    below=0.5,
    unit="examples that come out otherwise",
    kind="mechanical",
    level="model",
    reads=(),
)
def test_traffic_arithmetic(measured: Measured, setting: Setting) -> Estimate:
    wrong = {example.words: float(not example.holds()) for example in EXAMPLES}
    readings: dict[str, float | str] = {example.words: example.found() for example in EXAMPLES}
    return named(exactly(sum(wrong.values()), "examples", len(EXAMPLES)), None, readings)
