"""JUnit XML: every claim's evidence as plain properties beside the dictionary that the reports read."""

import xml.etree.ElementTree as ET

from awq_core.judging.evidence import Threshold, Verdict
from reports.evidence_file import read_evidence
from reports.junit import NAMES, plain_properties
from tests.synthetic_claim import synthetic_claim
from tests.test_reports_session import session  # noqa: F401 -- a fixture

SOURCE = """
def test_holds(judge): judge()
def test_fails(judge):
    judge(Verdict.REFUTED, id="payoff.honest")
    pytest.fail("refuted")
def test_lacks(judge):
    judge(Verdict.NOT_APPLICABLE, id="payoff.one-layer", bits=None)
    pytest.skip("not applicable: needs a gate")
def test_ordinary(): pass
"""


def properties(path):
    """The XML's properties by test: lists of pairs, so that one given twice is seen."""
    return {
        case.get("name"): [(p.get("name"), p.get("value")) for p in case.iter("property")]
        for case in ET.parse(path).getroot().iter("testcase")
    }


def test_every_claim_has_its_evidence_as_plain_text(session, pytester):  # noqa: F811
    session(SOURCE, "--junitxml=results.xml", "-o", "junit_family=xunit1")
    found = properties(pytester.path / "results.xml")
    shown = {name: dict(pairs) for name, pairs in found.items()}
    assert {key: shown["test_holds"][key] for key in NAMES} == {
        "id": "payoff.layers",
        "bits": "4",
        "version": "1",
        "models": "synthetic-small",
        "verdict": "supported",
        "estimate": "1.3",
        "lower": "1.2",
        "upper": "1.42",
        "threshold": "above 1.02",
        "unit": "times smaller",
    }
    assert shown["test_fails"]["verdict"] == "refuted"
    lacking = {key: shown["test_lacks"][key] for key in ("bits", "verdict", "estimate", "lower", "upper")}
    assert lacking == {"bits": "", "verdict": "not applicable", "estimate": "", "lower": "", "upper": ""}
    for name in ("test_holds", "test_fails", "test_lacks"):
        names = [key for key, _ in found[name]]
        assert [names.count(key) for key in NAMES] == [1] * len(NAMES)
    assert found["test_ordinary"] == []
    written = read_evidence(pytester.path / "reports/out/synthetic-small/evidence.json")["claims"]
    assert [claim["id"] for claim in written] == ["payoff.honest", "payoff.layers", "payoff.one-layer"]


def test_the_suites_own_sessions_write_them(suite, pytester):
    path = pytester.path / "results.xml"
    suite.run(f"--junitxml={path}")
    found = {name: dict(pairs) for name, pairs in properties(path).items()}
    assert len(found) > 2
    for shown in found.values():
        assert shown["id"].startswith("concentration.")
        assert shown["verdict"] in set(Verdict)
        assert {"estimate", "lower", "upper", "threshold"} <= shown.keys()


def test_numbers_keep_their_digits():
    claim = synthetic_claim(estimate=0.1 + 0.2, threshold=Threshold(-0.05, 0.05))
    got = plain_properties(claim)
    assert float(got["estimate"]) == 0.1 + 0.2
    assert got["threshold"] == "between -0.05 and 0.05"


def test_a_reported_quantity_has_no_threshold():
    got = plain_properties(synthetic_claim(Verdict.REPORTED, estimate=0.7, threshold=None, interval=None))
    assert (got["estimate"], got["threshold"], got["lower"]) == ("0.7", "", "")
