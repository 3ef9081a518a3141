"""What the nightly workflow runs besides the claims: plan, check, comparison and site, issue."""

import json
import re

import pytest

from awq_core.judging.evidence import Verdict
from reports.nightly import check, issue, night, plan
from reports.nightly.night import Entry, index_page, summary
from tests.synthetic_claim import synthetic_claim
from tests.two_runs import around, write_run

JUNIT = '<testsuites><testsuite name="pytest">{}</testsuite></testsuites>'
VERDICT = (
    '<testcase classname="claims.test_payoff" name="test_layers"><properties><property name="claim" value="{}"/>'
    '</properties><failure message="refuted"/></testcase>'
)
FAULT = '<testcase classname="claims.quantizer_math.test_packing" name="test_packs"><failure message="no"/></testcase>'
ERROR = (
    '<testcase classname="claims.test_bits" name="test_cliff"><properties><property name="claim" value="{}"/>'
    '</properties><error message="no"/></testcase>'
)


def planned(capsys, *arguments):
    plan.main(arguments)
    return json.loads(capsys.readouterr().out)


def test_the_plan_is_models_times_torches(capsys):
    jobs = planned(capsys, "--models", "qwen0.5b+qwen1.5b org/name@abc", "--torch", "pinned 2.12.0")
    assert [(job["name"], job["torch"]) for job in jobs] == [
        ("qwen0.5b+qwen1.5b", "pinned"),
        ("qwen0.5b+qwen1.5b", "2.12.0"),
        ("org-name-abc", "pinned"),
        ("org-name-abc", "2.12.0"),
    ]
    assert jobs[0]["arguments"] == "--model qwen0.5b --model qwen1.5b"
    assert jobs[2]["arguments"] == "--model org/name@abc"


def test_empty_inputs_stand_for_the_defaults(capsys):
    jobs = planned(capsys, "--models", "", "--torch", "")
    assert [job["name"] for job in jobs] == list(plan.DEFAULT_MODELS)
    assert {job["torch"] for job in jobs} == {"pinned"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--models", "qwen0.5b;rm"),
        ("--models", "$(id)"),
        ("--models", "qwen0.5b+"),
        ("--models", "--model=x"),
        ("--models", "../x"),
        ("--torch", "2.12.0;id"),
        ("--torch", "latest"),
    ],
)
def test_what_is_no_name_never_reaches_a_shell(option, value):
    with pytest.raises(SystemExit, match="not a"):
        plan.main([f"{option}={value}"])


@pytest.fixture
def output(tmp_path):
    """One model's complete evidence, and a JUnit file to be filled."""
    write_run(tmp_path / "tiny", [synthetic_claim()])
    (tmp_path / "logs" / "tiny").mkdir(parents=True)

    def fill(*cases):
        (tmp_path / "logs" / "tiny" / "junit.xml").write_text(JUNIT.format("".join(cases)), encoding="utf-8")
        return tmp_path

    return fill


def test_a_refuted_claim_is_no_fault(output, capsys):
    assert check.main([str(output(VERDICT))]) == 0
    assert capsys.readouterr().out == ""


def test_a_test_that_breaks_down_is_a_fault(output, capsys):
    assert check.main([str(output(VERDICT, FAULT, ERROR))]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "broke down: claims.quantizer_math.test_packing::test_packs",
        "broke down: claims.test_bits::test_cliff",
    ]


def test_partial_or_missing_evidence_is_a_fault(output, tmp_path):
    folder = output()
    write_run(folder / "small", [synthetic_claim()], complete=False)
    assert check.faults(folder) == [f"partial: {folder / 'small' / 'evidence.json'}"]
    empty = tmp_path / "empty"
    assert check.faults(empty) == [f"{empty}: no junit.xml", f"{empty}: no evidence"]


def claim(value):
    return synthetic_claim(**around(value, 0.1))


@pytest.fixture
def nights(tmp_path):
    """Two nights: one model moved, one is as it was, one is new, one partial, one gone."""
    before, tonight = tmp_path / "before", tmp_path / "tonight"
    for name, first, second in [("moved", 1.3, 1.9), ("same", 1.3, 1.3), ("partial", 1.3, 1.9)]:
        write_run(before / "pinned" / name, [claim(first)], name=name)
        write_run(tonight / "pinned" / name, [claim(second)], name=name, complete=name != "partial")
    write_run(before / "pinned" / "gone", [claim(1.3)], name="gone")
    write_run(tonight / "pinned" / "new", [claim(1.3)], name="new")
    (tonight / "pinned" / "moved" / "report.html").write_text("<p>A report</p>", encoding="utf-8")
    return before, tonight, tmp_path / "site"


def test_each_model_is_compared_with_its_night_before(nights, tmp_path, capsys):
    changes = tmp_path / "changes.md"
    assert night.main([*map(str, nights), "--changes", str(changes)]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert {row[0]: row[3] for row in rows[2:]} == {
        "gone": night.MISSING,
        "moved": night.CHANGED,
        "new": night.FIRST,
        "partial": night.PARTIAL,
        "same": night.UNCHANGED,
    }
    text = changes.read_text(encoding="utf-8")
    assert re.findall("^## (.*), torch (.*)$", text, re.MULTILINE) == [("moved", "pinned")]
    assert "payoff.layers@4" in text


def test_the_site_has_reports_comparisons_and_an_index_whose_links_lead_somewhere(nights):
    *_, site = nights
    night.night(*nights)
    page = (site / "index.html").read_text(encoding="utf-8")
    links = re.findall('href="([^"]*)"', page)
    assert links == [
        "pinned/moved/report.html",
        "pinned/moved/comparison.html",
        "pinned/same/comparison.html",
    ]
    assert all((site / link).is_file() for link in links)


def test_nights_without_a_change_leave_nothing_to_say(nights, tmp_path):
    _, tonight, site = nights
    changes = tmp_path / "changes.md"
    assert night.main([str(tmp_path / "nowhere"), str(tonight), str(site), "--changes", str(changes)]) == 0
    assert not changes.exists()


def test_a_night_without_evidence_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit, match="4"):
        night.main([str(tmp_path), str(tmp_path / "nothing"), str(tmp_path / "site")])
    assert "there is no evidence below" in capsys.readouterr().err


def test_the_index_counts_verdicts_and_escapes_names():
    entry = Entry("<b>|", "pinned", "first night", verdicts=(Verdict.REFUTED, Verdict.SUPPORTED, Verdict.REFUTED))
    page = index_page([entry]).decode()
    assert "<td>✓ 1 supported, ✗ 2 refuted</td>" in page
    assert "&lt;b&gt;|" in page
    assert "<b>" not in page
    assert summary([entry]).splitlines()[2].startswith("| <b>\\| | pinned | ✓ 1 supported, ✗ 2 refuted |")


class Gh:
    """A `gh` that keeps its calls and answers the list with what it was given."""

    def __init__(self, issues):
        self.issues, self.calls = issues, []

    def __call__(self, arguments, text):
        self.calls.append((tuple(arguments[:2]), text))
        return json.dumps(self.issues) if arguments[1] == "list" else "https://example.org/issues/7\n"


def test_the_first_change_opens_an_issue():
    gh = Gh([{"number": 3, "title": "Something else"}])
    assert issue.report("what changed", gh) == "opened https://example.org/issues/7"
    assert gh.calls[1:] == [(("label", "create"), ""), (("issue", "create"), "what changed")]


def test_the_next_change_comments_on_it():
    gh = Gh([{"number": 9, "title": issue.TITLE}, {"number": 8, "title": issue.TITLE}])
    assert issue.report("what changed", gh) == "commented on issue 8"
    assert gh.calls[1:] == [(("issue", "comment"), "what changed")]


def test_a_long_comparison_is_cut_and_says_so():
    text = issue.body("x" * 100_000, "https://example.org/run")
    assert len(text) < 65_536
    assert "https://example.org/run" in text
    assert text.endswith("Cut here.\n")


def test_what_gh_says_is_said(tmp_path, monkeypatch, capsys):
    fake = tmp_path / "gh"
    fake.write_text("#!/bin/sh\necho no token >&2\nexit 3\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    changes = tmp_path / "changes.md"
    changes.write_text("what changed", encoding="utf-8")
    assert issue.main([str(changes), "--run", "https://example.org/run"]) == 3
    assert capsys.readouterr().err == "no token\n"
