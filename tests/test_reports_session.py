"""The reports' plugin in whole sessions: exit status, terminal, files, Ctrl-C, and pytest-xdist."""

import html
import json
import re

import pytest

# pytester forgets the modules that a session inside it imported first, and numpy refuses to be loaded twice:
# what those sessions need is imported here, before the first of them.
import reports.plugin  # noqa: F401
import tests.synthetic_measured  # noqa: F401
from reports.evidence_file import read_evidence

CONFTEST = """
import pytest
from tests.synthetic_claim import synthetic_claim
from tests.synthetic_measured import synthetic_measured

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
IMPORTS = "import pytest\nfrom awq_core.evidence import Verdict\n"


@pytest.fixture
def session(pytester):
    """Run a session of claims given as test source, and return its result."""
    pytester.makeconftest(CONFTEST)

    def run(source, *arguments, conftest=CONFTEST, **options):
        pytester.makeconftest(conftest)
        pytester.makepyfile(IMPORTS + source)
        return pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *arguments, **options
        )

    return run


def evidence(pytester, model="synthetic-small"):
    return read_evidence(pytester.path / "reports/out" / model / "evidence.json")


def page(pytester, model="synthetic-small"):
    return (pytester.path / "reports/out" / model / "report.html").read_text("utf-8")


def rows(text):
    """What pytest-html's script will render, by test."""
    return json.loads(html.unescape(re.search(r'data-jsonblob="([^"]*)"', text).group(1)))["tests"]


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


MEASURING = CONFTEST.replace("MEASURED = []", "MEASURED = [synthetic_measured(blocks=2, twins=0)]")


def test_everything_is_written_for_a_measured_model(session, pytester):
    result = session(
        """
def test_a(judge): judge(words="<script>alert(1)</script>", unit="<u>")
def test_b(judge): judge(id="payoff.perplexity"); print("captured")
def test_c(judge): judge(Verdict.REFUTED, id="payoff.honest"); pytest.fail("worst: <layer>", pytrace=False)
""",
        conftest=MEASURING,
    )
    result.stdout.fnmatch_lines(["*perplexity * in full precision, *AWQ is worth it on this model*"])
    folder = pytester.path / "reports/out/synthetic-small"
    assert sorted(path.name for path in folder.iterdir()) == [
        "diagnostic.json",
        "evidence.json",
        "figures",
        "report.html",
        "tokens.npz",
    ]
    content = evidence(pytester)
    assert content["complete"] is True
    assert content["answer"].endswith("by more than 0.005 nats.")
    assert [claim["survives_holm"] for claim in content["claims"]] == [True, True, True]

    text = page(pytester)
    figures = sorted(path.stem for path in (folder / "figures").iterdir())
    assert (
        sorted(re.findall(r'<figure id="figure-([^"]*)"><img alt="[^"]+" src="data:image/png;base64,', text)) == figures
    )
    # The answer, the table and the figures are plain HTML before the place where the script puts the rows.
    parts = (content["answer"], 'id="verdicts"', 'id="figures"', 'id="claims"', 'id="results-table"')
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert text.count("<tr><td>") == 3
    # Self-contained: nothing is loaded from elsewhere.
    assert all(source.startswith("data:") or source == "" for source in re.findall(r'\ssrc="([^"]*)"', text))
    assert "<link" not in text
    assert "@import" not in text
    assert "url(" not in text
    # Escaped wherever it appears, in the table and in the rows.
    assert "<script>alert" not in text
    row = rows(text)["test_everything_is_written_for_a_measured_model.py::test_a"][0]
    assert "<script>alert" not in json.dumps(row)
    assert row["result"] == "Passed"
    assert row["testId"] == "payoff.layers@4"
    below = row["extras"][0]["content"]
    assert '<svg class="number-line"' in below
    for fact in (
        "AWQ paper",
        "[1.2, 1.42]",
        "above 1.02",
        "5 blocks, t interval, seed 7",
        "model.layers.0.mlp.down_proj",
    ):
        assert fact in below
    refuted = rows(text)["test_everything_is_written_for_a_measured_model.py::test_c"][0]
    assert "<pre>worst: &lt;layer&gt;</pre>" in refuted["extras"][0]["content"]


def test_a_users_own_html_report_stays_pytest_htmls(session, pytester):
    session("def test_claim(judge): judge()", "--html=own.html", "--self-contained-html")
    own = (pytester.path / "own.html").read_text("utf-8")
    assert list(rows(own)) == ["test_a_users_own_html_report_stays_pytest_htmls.py::test_claim"]
    assert 'id="verdicts"' not in own
    assert "col-verdict" not in own
    assert 'id="verdicts"' in page(pytester)


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


def test_a_claim_that_breaks_down_is_shown_and_makes_the_evidence_incomplete(session, pytester):
    conftest = (
        CONFTEST
        + """
@pytest.fixture
def measured(request):
    request.node.user_properties.append(("claims_models", ["synthetic-small"]))
    raise RuntimeError("infinite activations in block 2")
"""
    )
    result = session(
        "def test_a(judge): judge()\ndef test_b(measured): pass",
        conftest=conftest,
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["synthetic-small: 1 claim ended in an error and got no verdict."])
    assert evidence(pytester)["complete"] is False
    (row,) = rows(page(pytester))["test_a_claim_that_breaks_down_is_shown_and_makes_the_evidence_incomplete.py::test_b"]
    assert row["result"] == "Error"
    assert "infinite activations in block 2" in row["extras"][0]["content"]


def test_a_folder_that_cannot_be_written_is_one_clear_line(session, pytester):
    (pytester.path / "taken").write_text("a file")
    result = session("def test_claim(judge): judge()", "--output=taken")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["the reports could not be written: *taken*"])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_evidence_arrives_from_pytest_xdists_workers(session, pytester):
    pytest.importorskip("xdist")
    result = session(
        """
def test_a(judge): judge()
def test_b(judge): judge(id="payoff.honest")
def test_c(judge): judge(Verdict.INCONCLUSIVE, id="constant-alpha.half")
""",
        "-n2",
    )
    assert result.ret == 1
    assert [claim["key"] for claim in evidence(pytester)["claims"]] == [
        "payoff.honest@4",
        "payoff.layers@4",
        "constant-alpha.half@4",
    ]
    assert list(rows(page(pytester))) == [
        f"test_evidence_arrives_from_pytest_xdists_workers.py::test_{name}" for name in "bac"
    ]
