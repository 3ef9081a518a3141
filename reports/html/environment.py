"""The pages' templates: one jinja2 environment, which escapes whatever a template does not write itself."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports import verdict_words as words
from reports.answer import METHODS, perplexity_words
from reports.html import claim
from reports.html.number_line import number_line
from reports.published import by_source, sentence


def render(template: str, **values: Any) -> bytes:
    """Fill in a page's template: UTF-8, ready to be written."""
    return ENVIRONMENT.get_template(template).render(**values).encode()


def macro(template: str, name: str, *arguments: Any) -> str:
    """Fill in one macro of a template: a piece of HTML for someone else's page."""
    return str(getattr(ENVIRONMENT.get_template(template).module, name)(*arguments)).strip()


def _slug(verdict: str) -> str:
    """A verdict as a class name and a value of the filters: `insufficient-data`."""
    return verdict.replace(" ", "-")


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode()}"


def _duration(seconds: float) -> str:
    return f"{round(1000 * seconds)} ms" if seconds < 1 else str(timedelta(seconds=round(seconds)))


ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {
    "slug": _slug,
    "data_uri": _data_uri,
    "number": words.number,
    "perplexity": perplexity_words,
    "duration": _duration,
}
ENVIRONMENT.globals |= {
    "appearances": words.APPEARANCES,
    "methods": METHODS,
    "meanings": words.MEANINGS,
    "questions": words.QUESTIONS,
    "counted": words.counted,
    "tally": words.tally,
    "registration": words.registration,
    "number_line": number_line,
    "meaning": claim.meaning,
    "judged_by": claim.judged_by,
    "facts": claim.facts,
    "against": claim.against,
    "also_read": claim.also_read,
    "published_sentence": sentence,
    "published_by_source": by_source,
}
