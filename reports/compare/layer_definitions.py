"""Where the definitions of two per-layer records differ, read from the files as far as they say."""

from __future__ import annotations

from typing import Any

from reports.compare.layers import Record

GRIDS = (6, 10, 20, 40)
"""Steps of the exponent's grids in use: AWQ-Diag's i/6 in its per-layer record, i/20 here."""


def is_ours(record: Record) -> bool:
    """Whether this suite wrote the record: only it measures on held-out tokens too."""
    return "heldout_mean_kurtosis" in next(iter(record["layers"].values()))


def definitions(first: Record, second: Record) -> list[str]:
    """Sentences on what is the same, and what is not."""
    if is_ours(first) and is_ours(second):
        same = ["Both records are this suite's: the same definitions."]
    elif not is_ours(first) and not is_ours(second):
        same = ["Both records follow AWQ-Diag's definitions."]
    else:
        same = [
            "The same in both: the squared relative output error, one symmetric step per output row, 3 bits, the "
            "exponent chosen and judged on the same (calibration) tokens, and the top-1% share of mean abs(W) times "
            "mean abs(x). This suite's held-out and group-wise figures have fields of their own and are not compared.",
        ]
    return [
        *same,
        *(_texts(letter, record) for letter, record in zip("AB", (first, second), strict=True)),
        *_grids(first, second),
    ]


def _texts(letter: str, record: Record) -> str:
    config: dict[str, Any] = record.get("config") or {}
    count, length = config.get("num_calibration_samples"), config.get("max_calibration_length")
    texts = f"{count} calibration texts of at most {length} tokens" if count and length else "calibration texts unknown"
    if is_ours(record):
        return f"{letter}, {record['model']} (this suite): {texts}; moments are pooled over all tokens."
    return (
        f"{letter}, {record['model']} (AWQ-Diag's definitions): {texts}, in fact short ones of about 60; kurtosis is "
        "taken in each text and averaged. The kurtosis of a sample of n values cannot exceed about n, so rare large "
        "values count for less than they do pooled over thousands of tokens."
    )


def _grids(first: Record, second: Record) -> list[str]:
    """The exponents' grids, as the chosen ones show them."""
    steps = [_grid(record) for record in (first, second)]
    if None in steps:
        return []
    if steps[0] == steps[1]:
        return [f"Exponents lie on the same grid, i/{steps[0]}."]
    return [
        f"Exponents lie on i/{steps[0]} in A and i/{steps[1]} in B: the finer grid tends to find slightly larger "
        "reductions, and best exponents agree only to within half a step."
    ]


def _grid(record: Record) -> int | None:
    """The coarsest grid i/n that holds every best exponent of a record."""
    alphas = {
        float(alpha)
        for layer in record["layers"].values()
        for alpha in (layer.get("awq_best_alpha") or {}).values()
        if alpha is not None
    }
    fitting = (n for n in GRIDS if all(abs(alpha * n - round(alpha * n)) < 1e-6 for alpha in alphas))
    return next(fitting, None) if len(alphas) > 1 else None
