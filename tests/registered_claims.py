"""The registered claims. A change belongs in the design and CHANGELOG.md first."""

from __future__ import annotations

BOTH = (4, 3)
CATALOGUE: dict[str, tuple[float | None, float | None, tuple[int, ...]]] = {
    "concentration.some-layer": (5, None, ()),
    "concentration.typical-layer": (2, None, ()),
    "concentration.hockey-stick": (3, None, ()),
    "concentration.few-large": (0.001, 0.03, ()),
    "outliers.heavy-tailed": (3, None, ()),
    "outliers.beyond-six-sigma": (1e-5, None, ()),
    "outliers.salient-are-outliers": (0.6, None, ()),
    "learned.concentration": (0.1, None, ()),
    "learned.outliers": (0.1, None, ()),
    "learned.channels": (0.1, None, ()),
    "learned.localization": (0.1, None, ()),
    "learned.payoff": (0.02, None, BOTH),
    "localization.kurtosis": (10, None, ()),
    "localization.importance": (0.1, None, ()),
    "localization.benefit-mean": (0.05, None, BOTH),
    "localization.benefit-median": (0.05, None, BOTH),
    "localization.benefit-jackknife": (0.05, None, BOTH),
    "localization.rank": (0.2, None, BOTH),
    "payoff.layers": (1.02, None, BOTH),
    "payoff.most-layers": (0.5, None, BOTH),
    "payoff.one-layer": (2, None, BOTH),
    "payoff.honest": (0, None, BOTH),
    "payoff.perplexity": (0.005, None, BOTH),
    "payoff.logits": (None, 0, BOTH),
    "payoff.two-to-five": (0, None, BOTH),
    "replication.profile": (0.7, None, ()),
    "replication.benefit": (0.05, None, BOTH),
    "replication.verdicts": (None, None, ()),
    "constant-alpha.non-inferior": (None, 0.01, BOTH),
    "constant-alpha.better": (None, -0.005, (3,)),
    "constant-alpha.captures": (0, None, BOTH),
    "constant-alpha.predictor": (None, -0.2, BOTH),
    "constant-alpha.half": (None, 1.02, BOTH),
    "constant-alpha.one-is-too-much": (1.02, None, BOTH),
    "salience.one-percent": (0, None, BOTH),
    "salience.ninety-nine": (0, None, (4,)),
    "salience.activation-beats-weight": (0.005, None, BOTH),
    "salience.weight-is-chance": (-0.1, 0.1, BOTH),
    "salience.consistent": (0, None, ()),
    "salience.size-misleads": (0.1, None, ()),
    "mechanism.equivalence": (None, 1, ()),
    "mechanism.direction": (0, None, BOTH),
    "mechanism.step-stays": (None, 0.3, ()),
    "mechanism.sweet-spot": (1.01, None, BOTH),
    "mechanism.uniform-is-nothing": (None, 0.5, ()),
    "mechanism.no-overhead": (None, 0.5, ()),
    "mechanism.traffic-arithmetic": (None, 0.5, ()),
    "bits.four-per-bit": (3, 5.5, ()),
    "bits.cliff": (0, None, (3,)),
    "bits.two-percent": (None, 0, (4,)),
    "bits.four-times-smaller": (3.5, None, (4,)),
    "calibration.few-suffice": (None, 0.01, BOTH),
    "calibration.robust": (0.005, None, BOTH),
    "calibration.fake-traffic": (1.01, None, BOTH),
    "calibration.every-traffic": (1.02, None, BOTH),
    "gptq.close": (None, 0.02, (4,)),
    "gptq.slower": (None, None, ()),
}
"""The registered thresholds, `(above, below, bits)`."""

VERSIONS = {"calibration.robust": 2, "gptq.close": 2, "gptq.slower": 2, "salience.weight-is-chance": 2}
"""Versions other than 1. Raise one whenever words, estimand or threshold of its claim change."""

OF_LOSSES = {
    "payoff.perplexity",
    "payoff.logits",
    "payoff.two-to-five",
    "constant-alpha.non-inferior",
    "constant-alpha.better",
    "salience.one-percent",
    "salience.ninety-nine",
    "salience.activation-beats-weight",
    "salience.weight-is-chance",
    "bits.cliff",
    "bits.two-percent",
    "calibration.few-suffice",
    "calibration.robust",
    "gptq.close",
}
"""Claims about window losses: all but `bits.cliff`, which needs blocks too, resample windows alone."""

OF_RECORDS = {
    "mechanism.equivalence",
    "mechanism.no-overhead",
    "mechanism.traffic-arithmetic",
    "bits.four-times-smaller",
    "gptq.slower",
}
"""Claims about the model for which nothing is sampled."""

MODEL_LEVEL = OF_LOSSES | OF_RECORDS

MECHANICAL = {
    "mechanism.equivalence",
    "mechanism.direction",
    "mechanism.step-stays",
    "mechanism.uniform-is-nothing",
    "mechanism.no-overhead",
    "mechanism.traffic-arithmetic",
    "bits.four-per-bit",
    "bits.four-times-smaller",
}

DAGGERED = [(name, CATALOGUE[name][2][-1]) for name in sorted(OF_LOSSES)]
"""Claims about recovering damage, each with a precision."""
