"""`report.html` as sessions leave it: in order, whole and self-contained; and a user's own pytest-html report."""

import html
import re
import shlex

import pytest

from tests.reporting_sessions import CONFTEST, MEASURING, Session, evidence, page, pytest_html_rows, rows


@pytest.fixture
def session(pytester):
    """Run a session of claims given as test source, and return its result."""
    return Session(pytester)


def test_everything_is_written_for_a_measured_model(session, pytester):
    result = session(
        """
def test_a(judge): judge(words="<script>alert(1)</script>", unit="<u>")
def test_b(judge): judge(id="payoff.perplexity"); print("captured <script>alert(2)</script>")
def test_c(judge): judge(Verdict.REFUTED, id="payoff.honest"); pytest.fail("worst: <layer>", pytrace=False)
""",
        conftest=MEASURING,
    )
    result.stdout.fnmatch_lines(["*perplexity * in full precision: *"])
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
    assert "by more than 1.02 nats." in content["answer"]
    assert [claim["survives_holm"] for claim in content["claims"]] == [True, True, True]

    text = page(pytester)
    figures = sorted(path.stem for path in (folder / "figures").iterdir())
    # Every picture is in the file once; claims show it again by reference.
    assert sorted(re.findall(r'<image id="picture-([^"]*)"[^>]* href="data:image/png;base64,', text)) == figures
    assert set(re.findall(r'<use href="#picture-([^"]*)"', text)) <= set(figures)
    # Everything is plain HTML, which needs no script.
    parts = (
        content["answer"],
        'id="asked"',
        'id="verdicts"',
        'id="claims"',
        'id="provenance"',
        'id="results-table"',
    )
    places = [html.unescape(text).index(part) for part in parts]
    assert places == sorted(places)
    # Self-contained: nothing is loaded from elsewhere.
    assert_self_contained(text)
    # Escaped wherever it appears, in the claims and in the rows.
    assert "<script>alert" not in text
    row = next(row for row in rows(text) if row["test"].endswith("::test_b"))
    assert row["test"] == "test_everything_is_written_for_a_measured_model.py::test_b"
    assert (row["outcome"], row["verdict"]) == ("passed", "supported")
    assert "captured <script>alert(2)</script>" in row["output"]  # unescaped by `rows`, and only there
    first = articles(text)["payoff.layers@4"]
    assert '<svg class="number-line supported"' in first
    for fact in (
        "AWQ paper",
        "[1.2, 1.42]",
        "above 1.02",
        "5 blocks, t interval, seed 7",
        "model.layers.0.mlp.down_proj",
    ):
        assert fact in first
    assert ">worst: &lt;layer&gt;</pre>" in articles(text)["payoff.honest@4"]


def assert_self_contained(text):
    """Nothing is loaded: every source is data or a place on the page; only links that a reader follows lead away."""
    assert all(source.startswith("data:") or source == "" for source in re.findall(r'\ssrc="([^"]*)"', text))
    leading_away = re.findall(r'<(\w+)[^>]*\shref="(?!#|data:)[^"]*"', text)
    assert set(leading_away) <= {"a"}
    assert not re.search(r"<link|@import|url\(|fetch\(|XMLHttpRequest", text)


def articles(text):
    """The claims' articles, by their anchors."""
    found = re.findall(r'<article class="claim" id="([^"]*)"(.*?)</article>', text, flags=re.DOTALL)
    return dict(found)


def test_the_command_that_repeats_a_claim_repeats_it_alone(session, pytester):
    source = """
@pytest.mark.parametrize("bits", [4, 3])
def test_layers(judge, bits): judge(bits=bits)
def test_layers_too(judge): judge(id="payoff.honest")
"""
    session(source)
    first = evidence(pytester)["claims"]
    (command,) = re.findall(
        r'<p class="repeat"><b>Repeat</b> <code>(.*?)</code>', articles(page(pytester))["payoff.layers@3"]
    )
    program, *arguments = shlex.split(html.unescape(re.sub("<[^>]*>", "", command)))
    assert program == "pytest"
    # The synthetic session has no models of its own: what remains names one test.
    again = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest", arguments[0])
    again.assert_outcomes(passed=1)
    assert evidence(pytester)["claims"] == [
        claim | {"survives_holm": True} for claim in first if claim["key"] == "payoff.layers@3"
    ]


def test_the_grid_sets_the_sessions_models_side_by_side(session, pytester):
    session(
        """
def test_a(judge): judge()
def test_b(judge): judge(Verdict.REFUTED, models=("synthetic-tiny",)); pytest.fail()
def test_c(judge): judge(models=("synthetic-tiny",), id="payoff.honest")
"""
    )
    text = page(pytester)
    mine, other = re.findall(r'<ul aria-label="payoff on synthetic-(?:small|tiny)">(.*?)</ul>', text, re.DOTALL)
    assert re.findall(r'class="tile (\w+)"', mine) == ["none", "supported"]
    assert re.findall(r'class="tile (\w+)"', other) == ["supported", "refuted"]
    assert 'href="#payoff.layers@4"' in mine
    assert "href" not in other


@pytest.mark.parametrize("options", [["--self-contained-html"], []])
def test_a_users_own_pytest_html_report_shows_verdicts_and_number_lines(session, pytester, options):
    source = """
import pytest_html
def test_claim(judge, extras):
    extras.append(pytest_html.extras.url("https://example.org"))
    judge(Verdict.REFUTED, unit="<script>alert(1)</script>", registered="refuted")
def test_other(): pass
"""
    session(source, "--html=own.html", *options)
    own = (pytester.path / "own.html").read_text("utf-8")
    (claim,), (other,) = pytest_html_rows(own).values()
    outcome, _, verdict, *_, links = claim["resultsTableRow"]
    assert "Passed" in outcome
    assert verdict == f'<td class="col-verdict">{claim["verdict"]}</td>'
    assert '<span class="badge refuted">' in verdict
    assert '<span class="registered">registered</span>' in verdict
    assert "https://example.org" in links
    assert '<svg class="number-line refuted"' in claim["extras"][1]["content"]
    assert other["resultsTableRow"][2] == '<td class="col-verdict"></td>'
    assert re.findall(r'<th[^>]*data-column-type="(\w+)"', own)[:4] == ["result", "testId", "verdict", "duration"]
    assert "AWQ claims</title>" in own
    assert re.search(r'<li>synthetic-small: <span class="badge refuted">.*1 refuted</span>', own)
    assert 'id="verdicts"' in page(pytester)


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
    text = page(pytester)
    (row,) = [row for row in rows(text) if row["outcome"] != "passed"]
    assert row["test"].endswith("::test_b::setup")
    assert row["outcome"] == "error"
    errors = text.split('<section id="errors">')[1].split("</section>")[0]
    assert "1 claim got no verdict" in errors
    assert "infinite activations in block 2" in errors
