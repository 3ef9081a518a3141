"""The filters over the claims, by verdict and by group. Hidden until the script shows them: without it all is seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from awq_core.judging.evidence import Verdict
from reports.html.badges import slug, symbol
from reports.verdict_words import Claim, verdict_of


def filters(claims: Sequence[Claim]) -> str:
    """A form of ordinary controls: nothing checked and no group chosen shows every claim."""
    counted = Counter(verdict_of(claim) for claim in claims)
    groups = Counter(claim["group"] for claim in claims)
    boxes = "".join(_box(verdict, counted[verdict]) for verdict in Verdict if counted[verdict])
    options = "".join(
        f'<option value="{escape(group, quote=True)}">{escape(group)} ({count})</option>'
        for group, count in groups.items()
    )
    return (
        '<form id="filters" class="filters" hidden aria-label="Filters over the claims" autocomplete="off">'
        f"<fieldset><legend>Verdict</legend>{boxes}</fieldset>"
        f'<label class="choice">Group <select name="group"><option value="">all</option>{options}</select></label>'
        '<label class="chip"><input type="checkbox" name="brief"> headlines only</label>'
        '<button type="reset">Show all</button>'
        f'<output role="status">{len(claims)} of {len(claims)} claims</output></form>'
    )


def _box(verdict: Verdict, count: int) -> str:
    return (
        f'<label class="chip {slug(verdict)}"><input type="checkbox" name="verdict" value="{slug(verdict)}"> '
        f"{symbol(verdict)} {escape(verdict.value)} <b>{count}</b></label>"
    )
