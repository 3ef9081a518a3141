"""Whole quantized models, made slowly: every method of the table written again, for Llama- and Qwen2-shaped models.

A method's weights are put in place of the originals, with scales divided out again where the suite folds them into the
operation before: the same function, without a fold. Sequential GPTQ takes a copy of the model, and captures each
block's inputs by hooks while the whole partly quantized model runs. Nothing of `awq_core` is used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests import reference_block_search as search
from tests import reference_diagnostic as layers
from tests import reference_gptq

Weights = dict[str, np.ndarray]
"""`(out, in)` by linear."""

SITES = {
    "attention_in": ("self_attn", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    "attention_out": ("self_attn.o_proj", ("self_attn.o_proj",)),
    "mlp_in": ("mlp", ("mlp.gate_proj", "mlp.up_proj")),
    "mlp_out": ("mlp.down_proj", ("mlp.down_proj",)),
}
"""What the search inspects, and the linears that read each site."""

MADE_BY = {"attention_out": "self_attn.v_proj", "mlp_out": "mlp.up_proj"}
"""The linear that absorbs a site's scale in its rows; norms absorb the others'."""


class ReferenceMethods:
    """Every method's weights.

    Args:
        model: in float64.
        texts: calibration token ids by text set.
        seed: of the random choices.
    """

    def __init__(self, model: Any, texts: dict[str, np.ndarray], seed: int) -> None:
        self.model = model
        self.texts = texts
        self.seed = seed
        self.weights: Weights = layers.weights_of(model)
        self._inputs = {text: layers.captured_inputs(model, ids) for text, ids in texts.items()}
        self._curves: dict[tuple[str, int], list[float]] = {}
        self.magnitudes = {name: np.abs(x).mean(axis=0) for name, x in self._inputs[""].items()}

    def quantized(self, method: str, bits: int, text: str = "") -> Weights:
        """What stands in the model's place of its weights."""
        return self._makers()[method](bits, text)

    def _makers(self) -> dict[str, Callable[[int, str], Weights]]:
        return {
            "rtn": lambda bits, text: self._each(lambda name, w: layers.quantized(w, "asym-g128", bits)),
            "rtn-clip": lambda bits, text: self._folded({}, bits, text, clipped=True),
            "awq-linear": self._by_linear,
            "awq-site": self._by_site,
            "awq-constant-everywhere": lambda bits, text: self._scaled(bits, lambda name: self.constant(bits)),
            "awq-half": lambda bits, text: self._scaled(bits, lambda name: 0.5),
            "awq-block": lambda bits, text: self._folded(self._searched(bits, text), bits, text),
            "awq-block-clip": lambda bits, text: self._folded(self._searched(bits, text), bits, text, clipped=True),
            "awq-constant": lambda bits, text: self._folded(
                self._searched(bits, text, alpha=self.constant(bits)), bits, text
            ),
            "awq-duo": lambda bits, text: self._folded(self._searched(bits, text, "duo"), bits, text),
            "awq-grouped": lambda bits, text: self._folded(self._searched(bits, text, grouped=True), bits, text),
            "gptq": self._gptq_in_sequence,
            "gptq-parallel": lambda bits, text: self._gptq(bits, text, ordered=False),
            "gptq-order": lambda bits, text: self._gptq(bits, text, ordered=True),
            "keep-activation": lambda bits, text: self._keeping(bits, lambda name, w: _largest(self.magnitudes[name])),
            "keep-weight": lambda bits, text: self._keeping(bits, lambda name, w: _largest(np.abs(w).mean(axis=0))),
            **{
                f"keep-random{i}": lambda bits, text, i=i: self._keeping(bits, lambda name, w: self._random(i, name, w))
                for i in range(9)
            },
        }

    def _each(self, change: Callable[[str, np.ndarray], np.ndarray]) -> Weights:
        return {name: change(name, weight) for name, weight in self.weights.items()}

    # scales in place

    def curve(self, name: str, bits: int) -> list[float]:
        """One linear's relative error at every exponent."""
        if (name, bits) in self._curves:
            return self._curves[name, bits]
        weight, x = self.weights[name], self._inputs[""][name]
        self._curves[name, bits] = [
            layers.replayed_error(weight, layers.awq(weight, self.magnitudes[name], alpha, "asym-g128", bits), x)
            for alpha in layers.ALPHAS
        ]
        return self._curves[name, bits]

    def constant(self, bits: int) -> float:
        """The exponent with the least summed error."""
        return layers.ALPHAS[int(np.sum([self.curve(name, bits) for name in self.weights], axis=0).argmin())]

    def _scaled(self, bits: int, alpha_of: Callable[[str], float]) -> Weights:
        return self._each(
            lambda name, weight: layers.awq(weight, self.magnitudes[name], alpha_of(name), "asym-g128", bits)
        )

    def _by_linear(self, bits: int, text: str) -> Weights:
        return self._scaled(bits, lambda name: layers.ALPHAS[int(np.argmin(self.curve(name, bits)))])

    def _by_site(self, bits: int, text: str) -> Weights:
        found = {}
        for block in range(len(self.model.model.layers)):
            for _, paths in SITES.values():
                names = [f"model.layers.{block}.{path}" for path in paths]
                x = self._inputs[text][names[0]]
                least = np.inf
                for alpha in search.ALPHAS:
                    scale = search.scales(torch.from_numpy(np.abs(x).mean(axis=0)), [], alpha, "official").numpy()
                    tried = {n: layers.quantized(self.weights[n] * scale, "asym-g128", bits) / scale for n in names}
                    error = sum(float(((x @ (tried[n] - self.weights[n]).T) ** 2).sum()) for n in names)
                    if error < least:
                        least, best = error, tried
                found |= best
        return found

    # folds

    def _searched(
        self, bits: int, text: str, formula: str = "official", grouped: bool = False, alpha: float | None = None
    ) -> dict[tuple[int, str], np.ndarray]:
        """Scales by block and site; with one exponent for all where it is given."""
        found = search.search(self.model, torch.from_numpy(self.texts[text]), bits, formula, grouped)
        scales = {}
        for (block, inspected), candidates in found.items():
            site = next(name for name, (module, _) in SITES.items() if module == inspected)
            if alpha is None:
                scales[block, site] = candidates[search.best(candidates)][1].numpy()
            else:
                (reader, *_) = SITES[site][1]
                x = self._inputs[text][f"model.layers.{block}.{reader}"]
                magnitude = torch.from_numpy(np.abs(x).mean(axis=0))
                scales[block, site] = search.scales(magnitude, [], alpha, "official").numpy()
        return scales

    def _folded(
        self, scales: dict[tuple[int, str], np.ndarray], bits: int, text: str, clipped: bool = False
    ) -> Weights:
        """Columns times their input's scale, rows over the scale of what they make: rounded so, and taken back."""
        found = {}
        for name, weight in self.weights.items():
            block, path = int(name.split(".")[2]), name.split(".", 3)[3]
            site = next(site for site, (_, paths) in SITES.items() if path in paths)
            columns = scales.get((block, site), np.ones(weight.shape[1]))
            made = next((site for site, maker in MADE_BY.items() if maker == path), "")
            rows = np.ones(len(weight))
            if (block, made) in scales:
                # Query heads that read one value head have one scale: the first's is all theirs.
                scale, heads = scales[block, made], len(scales[block, made]) // len(weight)
                width = self.model.model.layers[block].self_attn.head_dim if heads > 1 else len(scale)
                rows = scale.reshape(-1, heads, width)[:, 0].reshape(-1)
            folded = weight * columns / rows[:, None]
            if clipped and not path.endswith(("q_proj", "k_proj")):
                size = layers.group_size(weight.shape[1])
                limits = reference_gptq.clip_limits(folded, self._inputs[text][name] / columns, bits, size)
                limits = np.repeat(limits, size, axis=1)
                folded = np.clip(folded, -limits, limits)
            found[name] = layers.quantized(folded, "asym-g128", bits) / columns * rows[:, None]
        return found

    # GPTQ

    def _gptq(self, bits: int, text: str, ordered: bool) -> Weights:
        return self._each(lambda name, weight: gptq(weight, self._inputs[text][name], bits, ordered))

    def _gptq_in_sequence(self, bits: int, text: str) -> Weights:
        model = copy.deepcopy(self.model)
        found: Weights = {}
        for block in range(len(model.model.layers)):
            inputs = layers.captured_inputs(model, self.texts[text])  # the blocks before are quantized already
            names = [name for name in self.weights if name.startswith(f"model.layers.{block}.")]
            for name in names:
                found[name] = gptq(self.weights[name], inputs[name], bits, ordered=False)
            put(model, {name: found[name] for name in names})
        return found

    # columns

    def _keeping(self, bits: int, columns: Callable[[str, np.ndarray], np.ndarray]) -> Weights:
        def kept(name: str, weight: np.ndarray) -> np.ndarray:
            quantized = layers.quantized(weight, "asym-g128", bits)
            chosen = columns(name, weight)
            quantized[:, chosen] = weight[:, chosen]
            return quantized

        return self._each(kept)

    def _random(self, choice: int, name: str, weight: np.ndarray) -> np.ndarray:
        generator = np.random.default_rng([self.seed, choice, *name.encode()])
        width = weight.shape[1]
        return generator.choice(width, max(1, width // 100), replace=False)


def gptq(weight: np.ndarray, x: np.ndarray, bits: int, ordered: bool) -> np.ndarray:
    """From a linear's inputs `(tokens, in)`."""
    return reference_gptq.gptq(weight, x.T @ x, bits, layers.group_size(weight.shape[1]), ordered)


def put(model: Any, weights: Weights) -> None:
    """Overwrite linears' weights."""
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_submodule(name).weight.copy_(torch.from_numpy(weight))


def log_probabilities(model: Any, ids: Tensor) -> Tensor:
    """Of every next token, `(windows, T - 1, vocabulary)`, from whole logits in float64."""
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=ids, use_cache=False).logits.double(), dim=-1)[:, :-1]


def scores(model: Any, weights: Weights, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Window losses, and divergences from the model itself, `[windows]` each, with other weights."""
    ids = torch.from_numpy(windows)
    changed = copy.deepcopy(model)
    put(changed, weights)
    full, log_p = log_probabilities(model, ids), log_probabilities(changed, ids)
    loss = -log_p.gather(2, ids[:, 1:, None])[..., 0].mean(dim=1)
    divergence = (full.exp() * (full - log_p)).sum(dim=-1).mean(dim=1)
    return loss.numpy(), divergence.numpy()


def _largest(values: np.ndarray) -> np.ndarray:
    return np.argsort(-values, kind="stable")[: max(1, len(values) // 100)]
