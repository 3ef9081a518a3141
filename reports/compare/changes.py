"""What counts as a change between two runs of the same model, claim by claim.

Two runs are of the same model when name and weights' hash agree (a control has no hash: it is drawn from its seed).

- **Estimate beyond noise.** The two estimates differ by more than `t * sqrt(se1^2 + se2^2)`: Welch's test at 99%, with
  the standard errors and degrees of freedom that the evidence records. At 95% the half-widths in quadrature would do,
  but one claim in twenty would be flagged by chance, some four in every comparison of independent runs. Where both
  estimates were made on the logarithm, so is the test. Two estimates without spread (exact ones among them) differ
  beyond rounding: by more than 1e-6 of the larger and 1% of the first one's distance to the threshold. Intervals hold
  for other tokens and other blocks. Runs share their blocks, and often their tokens: then the true noise is smaller, so
  that what is flagged has moved, while a small movement may stay within.
- **A changed verdict** is a change only together with an estimate beyond noise, a moved threshold or version, or as
  a flip between supported and refuted. A verdict that passes between inconclusive and decided with its estimate
  within noise is *drift, within noise*: shown, not flagged.
- **A moved threshold** and **a moved version** of a claim are always flagged, under these names.
- **New** and **removed** claims, and claims that went from judged to not judged (not applicable, insufficient data)
  or back, are flagged.
- A claim about two sizes that was asked of other sizes this time, and a quantity that is reported and not judged, are
  never flagged.

Between different models nothing is a change: there a verdict *differs*, or it does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from scipy import stats

from awq_core.judging.evidence import Scale, Verdict
from reports.verdict_words import Claim, is_judged, number, threshold_text, verdict_of

ROUNDING = 1e-6
"""Relative difference that arithmetic in another order may leave."""
EXACT_SHARE = 0.01
"""Largest difference of exact estimates that is none, as a share of the first one\'s distance to its threshold."""
LEVEL = 0.01
"""Level of the test of a difference: the share of unmoved estimates that independent runs flag."""
OPPOSITE = {Verdict.SUPPORTED, Verdict.REFUTED}


class Kind(StrEnum):
    """Why a claim is marked, in the words that mark it."""

    ESTIMATE = "estimate beyond noise"
    FLIPPED = "verdict flipped"
    THRESHOLD = "threshold moved"
    VERSION = "version moved"
    NEW = "new"
    REMOVED = "removed"
    JUDGED = "judged, was not"
    UNJUDGED = "not judged, was"
    DRIFT = "drift, within noise"
    OTHER_SIZES = "about other sizes"
    DIFFERS = "verdict differs"


FLAGGED = frozenset(Kind) - {Kind.DRIFT, Kind.OTHER_SIZES, Kind.DIFFERS}


@dataclass(frozen=True)
class Difference:
    """Two estimates of one claim held against each other.

    Attributes:
        size: their distance, on the scale of the test.
        noise: the largest distance that counts as noise, on that scale.
        p_value: chance of a distance this large between two independent runs of one truth.
        logarithmic: whether the scale is the logarithm.
    """

    size: float
    noise: float
    p_value: float
    logarithmic: bool = False

    @property
    def beyond_noise(self) -> bool:
        """Whether the estimates differ."""
        return self.size > self.noise

    def __str__(self) -> str:
        if self.logarithmic:
            return f"factor {number(math.exp(self.size))}, noise up to {number(math.exp(self.noise))}"
        return f"difference {number(self.size)}, noise up to {number(self.noise)}"


@dataclass(frozen=True)
class Change:
    """What became of one claim; no kinds where nothing did."""

    kinds: tuple[Kind, ...] = ()
    says: str = ""
    """The particulars, in words."""
    difference: Difference | None = None

    @property
    def flagged(self) -> bool:
        """Whether it is a change that `--fail-on-change` fails on."""
        return any(kind in FLAGGED for kind in self.kinds)


def difference(before: Claim, now: Claim) -> Difference | None:
    """How far two estimates of a claim lie apart, and how far noise may carry them; None where one is missing."""
    if any(claim["estimate"] is None or not claim["interval"] for claim in (before, now)):
        return None
    first, second = float(before["estimate"]), float(now["estimate"])
    if _has_no_spread(before) and _has_no_spread(now):
        noise = max(ROUNDING * max(abs(first), abs(second)), EXACT_SHARE * _distance_to_threshold(before))
        size = abs(second - first)
        return Difference(size, noise, 0.0 if size > noise else 1.0)
    logarithmic = min(first, second) > 0 and all(
        _has_no_spread(claim) or claim["interval"]["scale"] == Scale.LOGARITHM for claim in (before, now)
    )
    size = abs(math.log(second / first)) if logarithmic else abs(second - first)
    noise, p_value = _welch(size, [_variance(claim, logarithmic) for claim in (before, now)])
    return Difference(size, noise, p_value, logarithmic)


def change(before: Claim | None, now: Claim | None) -> Change:
    """What became of a claim between two runs of the same model; None stands for a run that lacks it."""
    if before is None or now is None:
        return Change() if before is now else Change((Kind.NEW if before is None else Kind.REMOVED,))
    kinds, says = _moved_terms(before, now)
    was, became = verdict_of(before), verdict_of(now)
    verdicts = "" if was is became else f"{became}, was {was}"
    if not is_judged(before) and not is_judged(now):
        return _told(kinds, [*says, verdicts])
    # A claim about two sizes, asked of one, is not judged for lack of the other: that is the command's doing.
    if sorted(before["models"]) != sorted(now["models"]) and max(len(before["models"]), len(now["models"])) > 1:
        asked = f"{' and '.join(now['models'])}, was {' and '.join(before['models'])}"
        return _told([*kinds, Kind.OTHER_SIZES], [*says, asked])
    if is_judged(before) != is_judged(now):
        kind, lacking = (Kind.JUDGED, before) if is_judged(now) else (Kind.UNJUDGED, now)
        return _told([*kinds, kind], [*says, verdicts, str(lacking["reason"])])
    apart = difference(before, now)
    if apart is not None and apart.beyond_noise:
        kinds.append(Kind.ESTIMATE)
        says.append(f"{number(before['estimate'])} → {number(now['estimate'])} ({apart})")
        says += _other_part(before, now)
    if {was, became} == OPPOSITE:
        kinds.append(Kind.FLIPPED)
    if verdicts and not kinds:
        kinds.append(Kind.DRIFT)
    return _told(kinds, [*says, verdicts], apart)


def _told(kinds: list[Kind], says: list[str], apart: Difference | None = None) -> Change:
    return Change(tuple(kinds), "; ".join(filter(None, says)), apart)


def contrast(first: Claim | None, second: Claim | None) -> Change:
    """How a claim stands on two different models: nothing is a change between them."""
    if first is None or second is None or not (is_judged(first) and is_judged(second)):
        return Change()
    if verdict_of(first) is verdict_of(second):
        return Change()
    return Change((Kind.DIFFERS,), f"{verdict_of(second)}, against {verdict_of(first)}")


def comparable(first: Claim | None, second: Claim | None) -> bool:
    """Whether a claim says something of two models each: judged on both, and not one verdict about the pair."""
    if first is None or second is None or not (is_judged(first) and is_judged(second)):
        return False
    return len(first["models"]) < 2 or first["models"] != second["models"]


def _moved_terms(before: Claim, now: Claim) -> tuple[list[Kind], list[str]]:
    kinds, says = [], []
    if before["version"] != now["version"]:
        kinds.append(Kind.VERSION)
        says.append(f"version {before['version']} → {now['version']}")
    if _edges(before) != _edges(now):
        kinds.append(Kind.THRESHOLD)
        texts = [threshold_text(claim) or "none" for claim in (before, now)]
        says.append(f"threshold {texts[0]} → {texts[1]}")
    return kinds, says


def _other_part(before: Claim, now: Claim) -> list[str]:
    """A claim about one linear, or of several parts, may speak of another one than before."""
    names = {"linear": "linear", "deciding_part": "deciding part"}
    return [
        f"{word} {now[name]}, was {before[name]}"
        for name, word in names.items()
        if before[name] is not None and now[name] is not None and before[name] != now[name]
    ]


def _edges(claim: Claim) -> tuple[float | None, float | None]:
    threshold = claim["threshold"] or {}
    return threshold.get("lower"), threshold.get("upper")


def _distance_to_threshold(claim: Claim) -> float:
    edges = [edge for edge in _edges(claim) if edge is not None]
    return min((abs(float(claim["estimate"]) - edge) for edge in edges), default=0.0)


def _has_no_spread(claim: Claim) -> bool:
    return bool(claim["interval"]["standard_error"] == 0)


def _variance(claim: Claim, logarithmic: bool) -> tuple[float, float]:
    """The variance of an estimate on the scale of the test, and its degrees of freedom."""
    interval = claim["interval"]
    error = float(interval["standard_error"])
    if not logarithmic and interval["scale"] == Scale.LOGARITHM:
        error *= float(claim["estimate"])  # to first order: the other estimate was made on the scale of the values
    return error**2, float(interval["degrees_of_freedom"])


def _welch(size: float, variances: list[tuple[float, float]]) -> tuple[float, float]:
    """The largest difference that counts as noise, and the p value of this one."""
    total = sum(variance for variance, _ in variances)
    spread = sum(variance**2 / degrees for variance, degrees in variances if variance > 0)
    if spread == 0:  # so narrow that the squares vanish
        return 0.0, 0.0 if size > 0 else 1.0
    error, together = math.sqrt(total), total**2 / spread
    return float(stats.t.ppf(1 - LEVEL / 2, together)) * error, 2 * float(stats.t.sf(size / error, together))
