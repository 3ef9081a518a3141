"""The layer-level numbers of `diagnostic.json`, computed again: slowly, in float64, with numpy and plain hooks.

Nothing of `awq_core` is used, and none of its shortcuts: every linear's input is captured by a hook while the whole
model runs, all tokens are kept, moments take two passes, and every candidate's error is replayed token by token
(`||X (W - W^)^T||^2 / ||X W^T||^2`). What the two agree on, two independent writings of the definitions agree on.

    python -m tests.reference_diagnostic reports/out/embedded-tiny fixtures/embedded/embedded-tiny

compares a written `diagnostic.json` on the exact tokens beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

BITS = (8, 6, 4, 3, 2)
ALPHAS = [i / 20 for i in range(21)]
QUANTIZERS = {"": "sym-channel", "asym_g128_": "asym-g128"}

RELATIVE, ABSOLUTE = 1e-4, 1e-6
"""Tolerances of a comparison with measurements that were made in float32."""
TIE = 1e-6


def linears_of(model: Any) -> dict[str, nn.Linear]:
    """Every linear but the output head, by its name."""
    head = model.get_output_embeddings()
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """Their weights, `(out, in)` each."""
    return {name: module.weight.detach().numpy() for name, module in linears_of(model).items()}


def captured_inputs(model: Any, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Every linear's input on all tokens, `[tokens, in_features]`, by the linear's name (the output head left out)."""
    kept: dict[str, list[np.ndarray]] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            kept.setdefault(name, []).append(args[0].detach().numpy().reshape(-1, args[0].shape[-1]))

        return hook

    handles = [module.register_forward_pre_hook(keep(name)) for name, module in linears_of(model).items()]
    try:
        with torch.no_grad():
            for row in ids:
                model(input_ids=torch.from_numpy(row)[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {name: np.concatenate(rows) for name, rows in kept.items()}


def moments(x: np.ndarray) -> dict[str, float]:
    """Kurtosis and outliers of one linear's input `[tokens, channels]`, in two passes."""
    centred = x - x.mean(axis=0)
    deviation = np.sqrt((centred**2).mean(axis=0))
    kurtosis = np.array(
        [((c / d) ** 4).mean() - 3 if d > 1e-12 else 0.0 for c, d in zip(centred.T, deviation, strict=True)]
    )
    return {
        "mean_kurtosis": float(kurtosis.mean()),
        "max_kurtosis": float(kurtosis.max()),
        "mean_outlier_ratio": float((np.abs(x) > 6 * deviation).mean()),
    }


def top_share(weight: np.ndarray, x: np.ndarray) -> float:
    """Percent of the importance that the top 1% of channels hold."""
    importance = np.abs(weight).mean(axis=0) * np.abs(x).mean(axis=0)
    ranked = sorted(importance, reverse=True)
    return 100 * sum(ranked[: max(1, len(ranked) // 100)]) / sum(ranked)


def group_size(width: int) -> int:
    """128, else the largest divisor of the width from 32 to 128, else the width."""
    if width % 128 == 0:
        return 128
    divisors = [d for d in range(32, 129) if width % d == 0]
    return max(divisors) if divisors else width


def quantized(weight: np.ndarray, quantizer: str, bits: int) -> np.ndarray:
    """Dequantized weights."""
    if quantizer == "sym-channel":
        step = np.abs(weight).max(axis=1, keepdims=True) / 2 ** (bits - 1)
        step[step == 0] = 1.0
        return np.clip(np.round(weight / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
    size, top = group_size(weight.shape[1]), 2**bits - 1
    result = np.empty_like(weight)
    for start in range(0, weight.shape[1], size):
        group = weight[:, start : start + size]
        low, high = group.min(axis=1, keepdims=True), group.max(axis=1, keepdims=True)
        step = np.maximum(high - low, 1e-5) / top
        zero = np.clip(-np.round(low / step), 0, top)
        code = np.clip(np.round(group / step) + zero, 0, top)
        result[:, start : start + size] = (code - zero) * step
    return result


def awq(weight: np.ndarray, magnitude: np.ndarray, alpha: float, quantizer: str, bits: int) -> np.ndarray:
    """`Q(W s) / s` with `s = (m / mean m)^alpha`, the ratio floored at 1e-4."""
    scale = np.maximum(magnitude / magnitude.mean(), 1e-4) ** alpha
    return quantized(weight * scale, quantizer, bits) / scale


def replayed_error(weight: np.ndarray, other: np.ndarray, x: np.ndarray) -> float:
    """Squared relative output error over all tokens."""
    return float(((x @ (other - weight).T) ** 2).sum() / ((x @ weight.T) ** 2).sum())


def reference_layers(
    model: Any, calibration: np.ndarray, heldout: np.ndarray | None = None
) -> dict[str, dict[str, Any]]:
    """Every linear's record under the field names of `diagnostic.json`, and its whole error curves.

    Args:
        model: a transformers model in float64.
        calibration: token ids `[sequences, length]`: they choose exponents.
        heldout: token ids that judge; None to leave the held-out fields out.
    """
    weights = weights_of(model)
    inputs = captured_inputs(model, calibration)
    judged = {} if heldout is None else captured_inputs(model, heldout)
    layers = {}
    for name, x in inputs.items():
        weight = weights[name]
        record: dict[str, Any] = {**moments(x), "top1pct_importance_share": top_share(weight, x)}
        if name in judged:
            unseen = {**moments(judged[name]), "top1pct_importance_share": top_share(weight, judged[name])}
            record |= {f"heldout_{field}": value for field, value in unseen.items()}
        magnitude = np.abs(x).mean(axis=0)
        for prefix, quantizer in QUANTIZERS.items():
            record |= {f"{prefix}{field}": {} for field in ("output_error", "awq_output_error", "awq_best_alpha")}
            record[f"{prefix}curves"] = {}
            for bits in BITS:
                key = str(bits)
                curve = [replayed_error(weight, awq(weight, magnitude, a, quantizer, bits), x) for a in ALPHAS]
                best = int(np.argmin(curve))
                record[f"{prefix}curves"][key] = curve
                record[f"{prefix}output_error"][key] = replayed_error(weight, quantized(weight, quantizer, bits), x)
                record[f"{prefix}awq_output_error"][key] = curve[best]
                record[f"{prefix}awq_best_alpha"][key] = ALPHAS[best]
                if name in judged:
                    unseen_x = judged[name]
                    chosen = awq(weight, magnitude, ALPHAS[best], quantizer, bits)
                    rtn = replayed_error(weight, quantized(weight, quantizer, bits), unseen_x)
                    record.setdefault(f"heldout_{prefix}output_error", {})[key] = rtn
                    unseen_error = replayed_error(weight, chosen, unseen_x)
                    record.setdefault(f"heldout_{prefix}awq_output_error", {})[key] = unseen_error
            for split in ("", "heldout_") if name in judged else ("",):
                rtn, best_error = (record[f"{split}{prefix}{f}"]["3"] for f in ("output_error", "awq_output_error"))
                record[f"{split}{prefix}awq_reduction_3bit"] = rtn / best_error
        layers[name] = record
    return layers


def disagreements(
    measured: dict[str, dict[str, Any]],
    reference: dict[str, dict[str, Any]],
    relative: float = RELATIVE,
    absolute: float = ABSOLUTE,
) -> list[str]:
    """Every field of every linear in which the two differ by more than the tolerances, in words.

    Best exponents may differ where their calibration errors are tied; the errors at them are then left alone on
    held-out tokens, where a tie on calibration tokens says nothing.
    """
    found = []
    if set(measured) != set(reference):
        found.append(f"other linears: {sorted(set(measured) ^ set(reference))}")
    for name in sorted(set(measured) & set(reference)):
        mine, theirs = measured[name], reference[name]
        tied = _tied_elsewhere(name, mine, theirs, found)
        for field, expected in theirs.items():
            if field.endswith(("curves", "awq_best_alpha")):
                continue
            by_bits = expected if isinstance(expected, dict) else {"3": expected}
            for bits, value in by_bits.items():
                quantizer = "asym_g128_" if "asym_g128_" in field else ""
                if field.startswith("heldout_") and "awq" in field and (quantizer, bits) in tied:
                    continue
                got = mine[field][bits] if isinstance(expected, dict) else mine[field]
                if got is None or not abs(got - value) <= max(absolute, relative * abs(value)):
                    found.append(f"{name} {field} {bits}: {got} measured, {value} by the reference")
    return found


def _tied_elsewhere(name: str, mine: dict[str, Any], theirs: dict[str, Any], found: list[str]) -> set[tuple[str, str]]:
    """`(quantizer prefix, bits)` at which another, tied exponent was chosen; exponents not tied go to `found`."""
    tied = set()
    for prefix in QUANTIZERS:
        for bits, expected in theirs[f"{prefix}awq_best_alpha"].items():
            got = mine[f"{prefix}awq_best_alpha"][bits]
            if got == expected:
                continue
            curve = theirs[f"{prefix}curves"][bits]
            if curve[round(got * 20)] - min(curve) <= TIE:
                tied.add((prefix, bits))
            else:
                found.append(f"{name} {prefix}awq_best_alpha {bits}: {got} measured, {expected} by the reference")
    return tied


def main() -> None:
    """Compare a written `diagnostic.json` with the reference, on the tokens that lie beside it."""
    from transformers import AutoModelForCausalLM

    parser = argparse.ArgumentParser(description="Compare a diagnostic.json with an independent computation.")
    parser.add_argument("output", type=Path, help="folder with diagnostic.json and tokens.npz")
    parser.add_argument("model", type=Path, help="folder of the model that it was measured on")
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float64).eval()
    with np.load(arguments.output / "tokens.npz") as tokens:
        reference = reference_layers(model, tokens["calibration"], tokens["heldout"])
    measured = json.loads((arguments.output / "diagnostic.json").read_text(encoding="utf-8"))["layers"]
    found = disagreements(measured, reference)
    print("\n".join(found) or f"{len(reference)} linears agree")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
