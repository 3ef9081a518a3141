"""Separation of a mixture's fused experts into one linear for each projection of each expert.

transformers stores them fused in three-dimensional parameters, in which there are no linears to hook or quantize.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Expert(nn.Module):
    """Expert of a mixture, a gated MLP: `down(act(gate(x)) * up(x))`.

    Args:
        gate: weight of the gate projection, `(intermediate, hidden)`.
        up: weight of the up projection, `(intermediate, hidden)`.
        down: weight of the down projection, `(hidden, intermediate)`.
        activation: activation function of the gate.
    """

    def __init__(self, gate: Tensor, up: Tensor, down: Tensor, activation: nn.Module) -> None:
        super().__init__()
        self.gate_proj = _linear_with(gate)
        self.up_proj = _linear_with(up)
        self.down_proj = _linear_with(down)
        self.activation = activation

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute the expert's output, `(tokens, hidden)` like the input; there may be no tokens."""
        output: Tensor = self.down_proj(self.activation(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class SeparateExperts(nn.ModuleList):
    """Experts of a mixture as separate modules, with the interface of the fused module that they replace.

    `experts[3].gate_proj` is a linear. Every expert is called for every batch, with the tokens routed to it even if
    there are none, so that hooks on its inputs run once per batch.
    """

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Compute the weighted sum of each token's chosen experts.

        Args:
            hidden_states: `(tokens, hidden)`.
            top_k_index: `(tokens, k)`, indices of the experts to which each token is routed.
            top_k_weights: `(tokens, k)`, weights of these experts.

        Returns:
            `(tokens, hidden)`.
        """
        mixed = torch.zeros_like(hidden_states)
        for index, expert in enumerate(self):
            tokens, choices = torch.where(top_k_index == index)
            output = expert(hidden_states[tokens]) * top_k_weights[tokens, choices, None]
            mixed.index_add_(0, tokens, output.to(mixed.dtype))
        return mixed


def separate_experts(model: nn.Module) -> None:
    """Replace each fused module of experts in place by `SeparateExperts` that share its weights' memory.

    The model's outputs do not change. A model without fused experts is left unchanged.

    Raises:
        ValueError: if experts have another layout than Mixtral's and Qwen2-MoE's, or are not in memory.
    """
    for name, module in list(model.named_modules()):
        gate_up = getattr(module, "gate_up_proj", None)
        if isinstance(gate_up, nn.Parameter) and gate_up.dim() == 3:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, _separated(name, module))


def _separated(name: str, fused: Any) -> SeparateExperts:
    odd = [flag for flag in ("has_bias", "is_transposed") if getattr(fused, flag, False)]
    odd += [flag for flag in ("has_gate", "is_concatenated") if not getattr(fused, flag, True)]
    if odd or fused.gate_up_proj.is_meta:
        raise ValueError(f"{name}: these experts cannot be separated ({', '.join(odd) or 'not in memory'})")
    experts = []
    for gate_up, down in zip(fused.gate_up_proj.detach(), fused.down_proj.detach(), strict=True):
        gate, up = gate_up.chunk(2, dim=0)  # (intermediate, hidden) each
        experts.append(Expert(gate, up, down, fused.act_fn))
    separated = SeparateExperts(experts)
    separated.train(fused.training)
    return separated


def _linear_with(weight: Tensor) -> nn.Linear:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    module.weight = nn.Parameter(weight, requires_grad=False)
    return module
