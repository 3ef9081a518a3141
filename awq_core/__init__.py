"""Activation-aware weight quantization: rounding models, and measuring what rounding does to them.

The names below are the library's; they are loaded when first used, as torch takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from awq_core.architectures.experts import separate_experts
    from awq_core.measure.methods.table import METHODS
    from awq_core.quantization.quantizers import AsymmetricGroups, round_to_nearest
    from awq_core.quantized_model import QuantizedModel, quantize

    __version__: str

__all__ = [
    "METHODS",
    "AsymmetricGroups",
    "QuantizedModel",
    "__version__",
    "quantize",
    "round_to_nearest",
    "separate_experts",
]

_MODULES = {
    "METHODS": "awq_core.measure.methods.table",
    "AsymmetricGroups": "awq_core.quantization.quantizers",
    "QuantizedModel": "awq_core.quantized_model",
    "quantize": "awq_core.quantized_model",
    "round_to_nearest": "awq_core.quantization.quantizers",
    "separate_experts": "awq_core.architectures.experts",
}
"""Defining module of each public name."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("awq-claims")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
