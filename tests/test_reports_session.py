"""The reports' plugin in whole sessions: exit status, terminal, files, and Ctrl-C."""

import pytest

from tests.reporting_sessions import Session, evidence, page, rows


@pytest.fixture
def session(pytester):
    """Run a session of claims given as test source, and return its result."""
    return Session(pytester)


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
            "Exit status 1: 1 verdict neither supported nor registered in claims/deviations/: "
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
