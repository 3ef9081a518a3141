"""The reports' plugin in whole sessions: exit status, terminal, files, Ctrl-C, and JUnit XML."""

import xml.etree.ElementTree as ET

import pytest

from awq_core.judging.evidence import Threshold, Verdict
from reports.junit import NAMES, plain_properties
from tests.reporting_sessions import evidence, page, rows
from tests.synthetic_claim import synthetic_claim


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("judge()", 0),
        ("judge(Verdict.INCONCLUSIVE)", 1),
        ("judge(Verdict.INCONCLUSIVE, registered='inconclusive')", 0),
        ("judge(Verdict.INCONCLUSIVE, registered='refuted')", 1),
        ("judge(Verdict.INCONCLUSIVE, registered='refuted', conditions_met=False)", 0),
        ("judge(Verdict.REFUTED); pytest.fail('refuted')", 1),
        ("judge(Verdict.REFUTED, registered='refuted'); pytest.xfail('registered')", 0),
        ("judge(Verdict.REFUTED, registered='refuted')", 0),
        ("judge(Verdict.REFUTED, registered='inconclusive')", 1),
        ("judge(Verdict.REFUTED, registered='inconclusive', conditions_met=False)", 0),
        ("judge(Verdict.INSUFFICIENT); pytest.skip('3 blocks')", 0),
        ("judge(Verdict.NOT_APPLICABLE); pytest.skip('no gate')", 0),
        ("judge(Verdict.REPORTED)", 0),
    ],
)
def test_the_exit_status_is_zero_only_if_every_verdict_is_supported_or_registered(session, body, status):
    assert session(f"def test_claim(judge): {body}").ret == status


def test_a_nonzero_exit_status_is_never_made_zero(session):
    supported = "def test_claim(judge): judge()\n"
    assert session("").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert session(supported + "def test_other(): assert False").ret == pytest.ExitCode.TESTS_FAILED
    assert session(supported, "--no-such-option").ret == pytest.ExitCode.USAGE_ERROR


def test_a_report_of_fewer_claims_says_what_it_has_replaced(session):
    two = "def test_a(judge): judge()\ndef test_b(judge): judge(id='payoff.honest')\n"
    warning = "*synthetic-small: the report of 2 claims has been replaced by one of 1; --output DIR keeps both*"
    session(two).stdout.no_fnmatch_line("*has been replaced*")
    session(two, "-k", "test_b").stdout.fnmatch_lines([warning])
    session(two, "-k", "test_b").stdout.no_fnmatch_line("*has been replaced*")


def test_the_terminal_gives_the_answer_then_the_table_then_the_paths(session, pytester):
    result = session(
        """
def test_a(judge): judge()
def test_b(judge): judge(Verdict.INCONCLUSIVE, id="payoff.honest")
def test_c(judge): judge(models=("synthetic-tiny",), p_value=0.04)
def test_d(judge): judge(models=("synthetic-small", "synthetic-tiny"), id="replication.profile", bits=None)
"""
    )
    result.stdout.fnmatch_lines(
        [
            "*= the answer =*",
            "At 4 bits, groups of 128: perplexity was not measured on synthetic-small, so whether AWQ *is open.",
            "*= verdicts =*",
            "✓ supported   ? inconclusive",
            "claim * supported if * synthetic-small * synthetic-tiny",
            "payoff.honest@4 * above 1.02 * ? 1.05 [[]0.95, 1.17[]]",
            "payoff.layers@4 * above 1.02 * ✓ 1.3 [[]1.2, 1.42[]] * ✓ 1.3 [[]1.2, 1.42[]]",
            "claim * supported if * synthetic-small and synthetic-tiny",
            "replication.profile * ✓ 1.3 [[]1.2, 1.42[]]",
            "synthetic-small: 2 supported, 1 inconclusive. With 3 claims judged*2 of 2 decided verdicts survive*",
            f"report on synthetic-small: {pytester.path}/reports/out/synthetic-small/report.html",
            "Exit status 1: 1 verdict neither supported nor registered for the model: "
            "payoff.honest@4 (synthetic-small): INCONCLUSIVE",
            "*3 passed*1 inconclusive in*",
        ]
    )


def test_verbose_lines_say_the_verdict(session):
    result = session("def test_claim(judge): judge(Verdict.REFUTED); pytest.fail('refuted')", "-v")
    result.stdout.fnmatch_lines(["*::test_claim REFUTED *"])


def test_the_summary_of_every_outcome_is_printed(session):
    # pytest's own summaries expect particular reports in the categories they know.
    result = session(
        """
@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("end", [None, pytest.skip, pytest.xfail, pytest.fail])
def test_claim(judge, verdict, end):
    judge(verdict, id=f"payoff.{getattr(end, '__name__', 'pass')}", registered=verdict.value)
    if end: end("reason")
""",
        "-rA",
    )
    assert "INTERNALERROR" not in result.stdout.str()
    result.stdout.fnmatch_lines(["*6 failed, *6 skipped, *6 xfailed, *"])


def test_without_claims_nothing_is_written_or_said(session, pytester):
    result = session("def test_plain(): pass")
    assert result.ret == 0
    assert "the answer" not in result.stdout.str()
    assert not (pytester.path / "reports").exists()


def test_a_claim_on_two_models_belongs_to_both(session, pytester):
    session(
        """
def test_a(judge): judge(models=("synthetic-small",))
def test_b(judge): judge(models=("synthetic-tiny", "synthetic-small"), id="replication.profile", bits=None)
"""
    )
    assert [claim["key"] for claim in evidence(pytester)["claims"]] == ["payoff.layers@4", "replication.profile"]
    assert [claim["key"] for claim in evidence(pytester, "synthetic-tiny")["claims"]] == ["replication.profile"]
    assert "replication.profile" in page(pytester, "synthetic-tiny")


def test_ctrl_c_leaves_a_partial_report(session, pytester):
    result = session(
        """
def test_a(judge): judge(Verdict.INCONCLUSIVE)
def test_b(judge): raise KeyboardInterrupt
def test_c(judge): judge(id="payoff.honest")
""",
        no_reraise_ctrlc=True,
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["PARTIAL: the run ended before every claim was judged."])
    assert evidence(pytester)["complete"] is False
    assert [claim["key"] for claim in evidence(pytester)["claims"]] == ["payoff.layers@4"]
    assert "<b>Partial.</b>" in page(pytester)


def test_stopping_at_the_first_failure_is_partial_too(session, pytester):
    session(
        """
def test_a(judge): judge(Verdict.REFUTED); pytest.fail("refuted")
def test_b(judge): judge(id="payoff.honest")
""",
        "-x",
    )
    assert evidence(pytester)["complete"] is False


def test_a_folder_that_cannot_be_written_is_one_clear_line(session, pytester):
    (pytester.path / "taken").write_text("a file")
    result = session("def test_claim(judge): judge()", "--output=taken")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["the reports could not be written: *taken*"])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_evidence_and_rows_are_in_the_order_of_the_catalogue(session, pytester):
    session(
        """
def test_a(judge): judge()
def test_b(judge): judge(id="payoff.honest")
def test_c(judge): judge(Verdict.INCONCLUSIVE, id="constant-alpha.half")
"""
    )
    assert [claim["key"] for claim in evidence(pytester)["claims"]] == [
        "payoff.honest@4",
        "payoff.layers@4",
        "constant-alpha.half@4",
    ]
    assert [row["test"].rpartition("_")[2] for row in rows(page(pytester))] == ["b", "a", "c"]


# JUnit XML

FOUR = """
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


def test_every_claim_has_its_evidence_as_plain_text(session, pytester):
    session(FOUR, "--junitxml=results.xml", "-o", "junit_family=xunit1")
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
    assert [claim["id"] for claim in evidence(pytester)["claims"]] == [
        "payoff.honest",
        "payoff.layers",
        "payoff.one-layer",
    ]


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
