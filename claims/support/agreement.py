"""How alike two sizes of a family are: the profile of kurtosis over depth, and the verdicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from awq_core.judging.by_block import rank_correlation
from awq_core.judging.evidence import Verdict
from awq_core.judging.intervals import Estimate, two_sample_jackknife
from awq_core.judging.metrics import site_kurtosis
from awq_core.measured import Measured
from claims.support.catalogue import the_suites_own
from claims.support.claim import Pair, Reported, Setting
from claims.support.judge import judge

THIRDS = 3


def profile_correlation(pair: Pair) -> Estimate:
    """Spearman's correlation between two sizes of mean kurtosis over 4 sites x 3 depth thirds.

    The interval leaves out one block at a time, of either model. A cell that is left without a block is left
    out of the correlation.
    """
    tables = [_kurtosis_by_block(measured) for measured in pair]

    def correlation(kept: list[np.ndarray]) -> float:
        cells = [_cells(table, rows) for table, rows in zip(tables, kept, strict=True)]
        present = ~np.isnan(cells[0]) & ~np.isnan(cells[1])
        return float(rank_correlation(cells[0][present], cells[1][present]))

    return two_sample_jackknife(correlation, [len(t) for t in tables], resampled="blocks", bounds=(-1.0, 1.0))


def agreeing_verdicts(pair: Pair, setting: Setting) -> Reported:
    """The share of claims on which the sizes have the same verdict, and each claim's two verdicts."""
    table: dict[str, float | str] = {}
    same = compared = same_decided = decided = 0
    for claim in the_suites_own().values():
        if claim.level == "pair" or claim.threshold is None:
            continue
        for bits in claim.bits or (None,):
            at = replace(setting, bits=bits)
            verdicts = [judge(claim, m, at, beside=False).verdict for m in pair]
            if Verdict.NOT_APPLICABLE in verdicts or Verdict.INSUFFICIENT in verdicts:
                continue
            compared += 1
            same += verdicts[0] is verdicts[1]
            if Verdict.INCONCLUSIVE not in verdicts:
                decided += 1
                same_decided += verdicts[0] is verdicts[1]
            name = claim.id if bits is None else f"{claim.id}@{bits}"
            table[name] = " / ".join(verdict.value for verdict in verdicts)
    counts: dict[str, float | str] = {
        "claims compared": float(compared),
        "claims decided on both": float(decided),
        "of those, alike": float(same_decided),
    }
    return Reported(same / compared if compared else 0.0, counts | table)


def _kurtosis_by_block(measured: Measured) -> np.ndarray:
    """`[blocks, sites]` mean excess kurtosis, sites in the order of their roles."""
    kurtosis = site_kurtosis(measured)
    # The experts of a mixture have sites of their own with the same role: their mean stands for the role.
    table = kurtosis.groupby(["site_block", "site_role"]).mean()
    return table.transpose("site_block", "site_role").values


def _cells(table: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Means over the kept blocks of each third of the depth, `[sites * 3]`; NaN for an empty cell."""
    thirds = (np.arange(len(table)) * THIRDS) // len(table)
    cells = []
    for third in range(THIRDS):
        rows = kept[thirds[kept] == third]
        cells.append(table[rows].mean(axis=0) if len(rows) else np.full(table.shape[1], np.nan))
    return np.concatenate(cells)
