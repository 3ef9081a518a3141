"""Sessions of the reports' plugin on invented claims, and what they leave."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest

# pytester forgets the modules that a session inside it imported first, and numpy refuses to be loaded twice:
# what those sessions need is imported here, before the first of them.
import reports.plugin  # noqa: F401
import tests.hand_made  # noqa: F401
from reports.evidence_file import read_evidence

CONFTEST = """
import pytest
from tests.synthetic_claim import synthetic_claim
from tests.hand_made import lifelike

pytest_plugins = ["reports.plugin"]
MEASURED = []

def pytest_addoption(parser):
    parser.addoption("--output", default="reports/out")

def pytest_claims_models(config):
    return ["synthetic-small", "synthetic-tiny"]

def pytest_claims_measured(config):
    return MEASURED

@pytest.fixture
def judge(request, record_property):
    def record(*arguments, **fields):
        claim = synthetic_claim(*arguments, **fields)
        request.node.user_properties.append(("claims_models", claim["models"]))
        record_property("claim", claim)
        return claim
    return record
"""
IMPORTS = "import pytest\nfrom awq_core.judging.evidence import Verdict\n"
MEASURING = CONFTEST.replace("MEASURED = []", "MEASURED = [lifelike(blocks=2, twins=0)]")


class Session:
    """Runs claims given as test source, in this process."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def __call__(self, source: str, *arguments: str, conftest: str = CONFTEST, **options: Any) -> pytest.RunResult:
        """A session's result; `source` may use the fixture `judge`."""
        self.pytester.makeconftest(conftest)
        self.pytester.makepyfile(IMPORTS + source)
        return self.pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *arguments, **options
        )


def evidence(pytester: pytest.Pytester, model: str = "synthetic-small") -> dict[str, Any]:
    """The evidence file of a model."""
    return read_evidence(pytester.path / "reports/out" / model / "evidence.json")


def page(pytester: pytest.Pytester, model: str = "synthetic-small") -> str:
    """The report of a model."""
    return (pytester.path / "reports/out" / model / "report.html").read_text("utf-8")


ROW = re.compile(
    r'<tr data-outcome="(?P<outcome>\w+)"><td>\w+</td>\s*<td>(?P<test>[^<]*)(?P<output>.*?)</td>\s*'
    r"<td>(?P<verdict>[^<]*)</td><td [^>]*>(?P<duration>[^<]*)</td></tr>",
    re.DOTALL,
)


def rows(text: str) -> list[dict[str, str]]:
    """The table of a report's tests: test, outcome, verdict, duration and the HTML of its output."""
    return [{name: html.unescape(value) for name, value in row.groupdict().items()} for row in ROW.finditer(text)]


def pytest_html_rows(text: str) -> dict[str, Any]:
    """What pytest-html's script will render of its own report, by test."""
    return json.loads(html.unescape(re.search(r'data-jsonblob="([^"]*)"', text).group(1)))["tests"]
