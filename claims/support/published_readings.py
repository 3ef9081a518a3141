"""Our readings of quantities that others have published, each as near to their definition as we measure.

AWQ-Diag reads its layers on the tokens that it calibrates on, with one symmetric step per output row at 3 bits: so
do the layer-level readings here, unlike the claims, which are judged on held-out tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr
from scipy.stats import spearmanr

from awq_core.judging import metrics as readings
from awq_core.measure.layers.mechanism import FACTORS
from awq_core.measure.methods.table import RANDOM_CHOICES
from awq_core.measured import BITS, Measured
from awq_core.quantization.quantizers import DEPLOYED, DIAGNOSTIC
from claims.support.claim import NotApplicableError
from claims.support.model_losses import has

SPLIT = "calibration"
DIAGNOSTIC_SETTING = (DIAGNOSTIC.name, 3)
"""AWQ-Diag's quantizer and the precision at which it reports AWQ."""

FAMILIES = ("q", "k", "v", "o", "gate", "up", "down")
KURTOSIS_GROUPS = {"qkv": ("q", "k", "v"), "o": ("o",), "gate-up": ("gate", "up"), "down": ("down",)}
STRATEGIES = (
    "full",
    *(
        f"{method}-{bits}"
        for bits in (3, 4)
        for method in ("rtn", "awq-constant-everywhere", "awq-block", "awq-block-clip", "awq-linear", "gptq")
    ),
    "keep-activation-3",
    "keep-weight-3",
)


@dataclass(frozen=True)
class Value:
    """What a reading found, and in which linear where it is a largest value."""

    value: float
    place: str = ""


Reading = Callable[[Measured], Value]


def _largest(values: xr.DataArray) -> Value:
    index = int(values.values.argmax())
    return Value(float(values.values[index]), str(values["linear"].values[index]))


def _of_families(values: xr.DataArray, families: tuple[str, ...]) -> np.ndarray:
    """The values of some families.

    Raises:
        NotApplicableError: if the model has none of them.
    """
    kept: np.ndarray = values.values[np.isin(values["linear_family"].values, families)]
    if not len(kept):
        raise NotApplicableError(f"the model has no linears of family {' or '.join(families)}")
    return kept


def _top_share(measured: Measured) -> xr.DataArray:
    """Share of importance held by the top 1% of channels, in percent, `(linear,)`."""
    return 100 * readings.top_share(measured, SPLIT)


def _kurtosis(measured: Measured) -> xr.DataArray:
    return readings.mean_kurtosis(measured, SPLIT)


def _reduction(measured: Measured) -> xr.DataArray:
    return readings.reduction(measured, *DIAGNOSTIC_SETTING, SPLIT)


def _mean(families: tuple[str, ...], of: Callable[[Measured], xr.DataArray], measured: Measured) -> Value:
    return Value(float(_of_families(of(measured), families).mean()))


def _median(families: tuple[str, ...], of: Callable[[Measured], xr.DataArray], measured: Measured) -> Value:
    return Value(float(np.median(_of_families(of(measured), families))))


def _median_error(bits: int, measured: Measured) -> Value:
    if bits not in measured.errors["bits"].values:
        raise NotApplicableError(f"{bits} bits were not measured")
    return Value(float(readings.error_at(measured, DIAGNOSTIC.name, bits, 0.0, SPLIT).median()))


def _in_groups_as_theirs(measured: Measured) -> None:
    """Leave out what depends on the group size where it is not the published one.

    Raises:
        NotApplicableError: where it is not.
    """
    if measured.deployed != DEPLOYED:
        ours, theirs = measured.deployed.group_size, DEPLOYED.group_size
        raise NotApplicableError(f"measured in groups of {ours}, theirs of {theirs}")


def _perplexity(strategy: str, measured: Measured) -> Value:
    if strategy != "full":
        _in_groups_as_theirs(measured)
    if not has(measured, strategy):
        raise NotApplicableError(f"the loss of {strategy} was not measured")
    return Value(float(np.exp(readings.mean_loss(measured, strategy))))


def _perplexity_at_random(measured: Measured) -> Value:
    """Mean perplexity over the random choices of the channels that are kept."""
    drawn = [f"keep-random{choice}-3" for choice in range(RANDOM_CHOICES)]
    found = [_perplexity(name, measured).value for name in drawn if has(measured, name)]
    if not found:
        raise NotApplicableError("no random choice of channels was measured")
    return Value(float(np.mean(found)))


def _best_alphas(measured: Measured) -> np.ndarray:
    alphas: np.ndarray = readings.best_alpha(measured, *DIAGNOSTIC_SETTING).values
    return alphas


def _alpha_and_share(measured: Measured) -> Value:
    """Spearman's rho of the best exponent with the top-1% share."""
    alphas, shares = _best_alphas(measured), _top_share(measured).values
    if np.ptp(alphas) == 0 or np.ptp(shares) == 0:
        raise NotApplicableError("all linears are alike, so there are no ranks to correlate")
    return Value(float(spearmanr(alphas, shares).statistic))


def _constant_alpha(measured: Measured) -> Value:
    _in_groups_as_theirs(measured)
    return Value(readings.constant_alpha(measured, DEPLOYED.name, 3))


def _steps(variable: str, factor: float, times: float, measured: Measured) -> Value:
    _in_groups_as_theirs(measured)
    if variable not in measured.errors:
        raise NotApplicableError("quantization steps were not measured")
    return Value(times * float(measured.errors[variable].sel(factor=factor).mean()))


READINGS: dict[str, Reading] = {
    "largest-top-share": lambda measured: _largest(_top_share(measured)),
    "largest-kurtosis": lambda measured: _largest(_kurtosis(measured)),
    "largest-reduction": lambda measured: _largest(_reduction(measured)),
    **{f"mean-kurtosis-{name}": partial(_mean, families, _kurtosis) for name, families in KURTOSIS_GROUPS.items()},
    **{f"mean-top-share-{family}": partial(_mean, (family,), _top_share) for family in FAMILIES},
    **{f"mean-reduction-{family}": partial(_mean, (family,), _reduction) for family in FAMILIES},
    **{f"median-reduction-{family}": partial(_median, (family,), _reduction) for family in FAMILIES},
    **{f"median-error-{bits}": partial(_median_error, bits) for bits in BITS},
    **{f"perplexity-{strategy}": partial(_perplexity, strategy) for strategy in STRATEGIES},
    "perplexity-keep-random-3": _perplexity_at_random,
    "median-best-alpha": lambda measured: Value(float(np.median(_best_alphas(measured)))),
    "sd-best-alpha": lambda measured: Value(float(_best_alphas(measured).std())),
    "constant-alpha": lambda measured: Value(readings.constant_alpha(measured, *DIAGNOSTIC_SETTING)),
    f"constant-alpha-{DEPLOYED.name}-3": _constant_alpha,
    "best-alpha-with-top-share": _alpha_and_share,
    **{f"steps-changed-{factor:g}": partial(_steps, "step_changed", factor, 100.0) for factor in FACTORS},
    **{f"step-ratio-{factor:g}": partial(_steps, "step_ratio", factor, 1.0) for factor in FACTORS},
}
"""Every reading by the name that `published.toml` gives it. Shares and changed steps are in percent."""
