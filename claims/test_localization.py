"""Localization: the outliers, the importance and AWQ's benefit live in o and down."""

from dataclasses import replace

import numpy as np

from awq_core.judging.by_block import contrast_by_block, spearman_by_block
from awq_core.judging.intervals import Estimate, cluster_estimate
from awq_core.judging.metrics import enrichment, mean_kurtosis, natural_log, reduction
from awq_core.measured import Measured
from claims.support.claim import Parts, Setting, claim
from claims.support.localized import benefit_difference, log_kurtosis_ratio
from claims.support.readers import named, outlier_families, wide_enough


@claim(
    "localization.kurtosis",
    "Outliers live in o and down: their inputs carry more than ten times the rest's kurtosis",
    source="AWQ-Diag: 35 to 55 times",
    above=10,
    unit="times the rest's",
)
def test_kurtosis(measured: Measured, setting: Setting) -> Estimate:
    statistic, blocks = log_kurtosis_ratio(measured)
    estimate = cluster_estimate(statistic, blocks, resampled="blocks", seed=setting.seed, logarithmic=True)
    kurtosis = mean_kurtosis(measured)
    return named(estimate, kurtosis.isel(linear=np.flatnonzero(outlier_families(kurtosis).values)), {})


@claim(
    "localization.importance",
    "And therefore the importance lives in o and down: it is more concentrated there than elsewhere",
    source="AWQ-Diag: outliers, and therefore importance, in o_proj and down_proj",
    above=0.1,
    unit="ln enrichment over the rest's",
)
def test_importance(measured: Measured, setting: Setting) -> Estimate:
    values = natural_log(wide_enough(enrichment(measured)))
    return contrast_by_block(values, outlier_families(values), seed=setting.seed)


@claim(
    "localization.benefit-mean",
    "AWQ's benefit lands in o and down: their mean error reduction exceeds the rest's",
    source="AWQ-Diag: 2.3 and 1.6 against 1.2 (sym-channel, 3 bits)",
    above=0.05,
    unit="reduction over the rest's",
    bits=(4, 3),
)
def test_benefit_mean(measured: Measured, setting: Setting) -> Estimate:
    return benefit_difference(reduction(measured, setting.quantizer, setting.precision), setting)


@claim(
    "localization.benefit-median",
    "AWQ's benefit lands in o and down for the typical layer as well: by medians",
    source="AWQ-Diag's per-layer results: median 1.04 and 1.34 against 1.1 to 1.2",
    above=0.05,
    unit="median reduction over the rest's",
    bits=(4, 3),
)
def test_benefit_median(measured: Measured, setting: Setting) -> Estimate:
    values = reduction(measured, setting.quantizer, setting.precision)
    return contrast_by_block(values, outlier_families(values), seed=setting.seed, reduce=np.nanmedian)


@claim(
    "localization.benefit-jackknife",
    "The benefit's place does not hang on one block: it holds with each block left out",
    source="AWQ-Diag's per-layer results: one or two layers make down_proj's mean",
    above=0.05,
    unit="reduction over the rest's",
    bits=(4, 3),
)
def test_benefit_jackknife(measured: Measured, setting: Setting) -> Parts:
    gains = reduction(measured, setting.quantizer, setting.precision)
    return {
        f"without block {block}": replace(benefit_difference(gains, setting, without=int(block)), summarised={})
        for block in np.unique(gains["linear_block"].values)
    }


@claim(
    "localization.rank",
    "A linear whose input has heavier tails gains more from AWQ",
    source="AWQ-Diag: rank correlation near 0",
    above=0.2,
    unit="Spearman's rho",
    bits=(4, 3),
)
def test_rank(measured: Measured, setting: Setting) -> Estimate:
    gains = reduction(measured, setting.quantizer, setting.precision)
    return spearman_by_block(mean_kurtosis(measured), gains, seed=setting.seed)
