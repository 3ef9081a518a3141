"""Where the numbers come from: the command, and everything that the measurements say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from awq_core.measured import Measured
from reports.html.article import repeat


def provenance(measured: Measured | None, command: str) -> str:
    """The table, with the command that repeats the whole run; the command alone where nothing was measured."""
    table = ""
    if measured is not None:
        facts = {
            "parameters": f"{measured.parameters:,}",
            "family": measured.family or "",
            **_flat(measured.provenance),
        }
        rows = "".join(
            f'<tr><th scope="row">{escape(name)}</th><td>{escape(_text(value))}</td></tr>'
            for name, value in facts.items()
            if value not in ("", None)
        )
        table = f'<div class="scrolls" role="region" aria-label="Provenance" tabindex="0"><table>{rows}</table></div>'
    return f'<section id="provenance"><h2>Where these numbers come from</h2>{repeat(command)}{table}</section>'


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, their names joined: `tokens: heldout`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        flat |= _flat(value, f"{label}: ") if isinstance(value, Mapping) else {label: value}
    return flat
