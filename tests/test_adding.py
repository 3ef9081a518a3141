"""The claims of `docs/adding.md`: one in a folder of its user's own, and one added to the suite in two files."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from claims import register
from claims.support.claim import CLASHES, REGISTRY
from tests.suite_sessions import ROOT, Suite, assert_no_traceback, everything

DOCUMENT = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
COPIED = ("awq_core", "claims", "docs", "fixtures", "reports", "tests", "conftest.py", "pyproject.toml")


def blocks(section: str, language: str) -> list[str]:
    """The fenced blocks of a section, in order."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# A claim in a folder of its user's own.

(SOURCE,) = blocks("Claims in a folder of your own", "python")
(COMMANDS,) = blocks("Claims in a folder of your own", "text")


@pytest.fixture
def elsewhere(suite: Suite) -> Iterator[Path]:
    """The folder that the document shows, outside the project; the claims of other tests do not see it."""
    known = dict(REGISTRY)
    folder = suite.pytester.mkdir("my_claims")
    (folder / "test_my_claims.py").write_text(SOURCE, encoding="utf-8")
    yield folder
    REGISTRY.clear()
    REGISTRY.update(known)
    CLASHES.clear()


def claims_of(suite: Suite) -> dict[str, dict]:
    found = json.loads((suite.output / "tiny" / "evidence.json").read_text(encoding="utf-8"))["claims"]
    return {claim["key"]: claim for claim in found}


def assert_one_line(result: pytest.RunResult, *parts: str) -> None:
    (line,) = [line for line in everything(result).splitlines() if "error" in line.lower()]
    assert line.startswith("ERROR: ")
    for part in parts:
        assert part in line
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_claims_from_elsewhere_are_judged_reported_and_registered(suite, elsewhere, monkeypatch, capsys):
    monkeypatch.setattr("claims.support.deviations.FOLDER", suite.pytester.mkdir("the-suites"))
    first = suite.run(claims=("claims/test_concentration.py", elsewhere))
    assert first.ret == pytest.ExitCode.TESTS_FAILED
    assert_no_traceback(first)
    assert list(claims_of(suite))[-1] == "mine.ten-times"
    assert len(claims_of(suite)) == 5
    first.stdout.fnmatch_lines(["mine.ten-times is refuted on tiny: *"])
    first.stdout.fnmatch_lines(["mine.ten-times * above 10 * ✗ *"])
    assert "more than ten times their part" in (suite.output / "tiny" / "report.html").read_text(encoding="utf-8")

    # Registered, it is an expected failure, alone and among the suite's, which it does not register.
    folder = elsewhere / "deviations"
    monkeypatch.setattr("sys.argv", ["register", "--claims-deviations", str(folder), str(suite.output / "tiny")])
    register.main()
    assert str(folder / "tiny.toml") in capsys.readouterr().out
    alone = suite.run("--claims-deviations", folder, claims=(elsewhere,))
    assert alone.ret == pytest.ExitCode.OK
    alone.assert_outcomes(xfailed=1)
    claim = claims_of(suite)["mine.ten-times"]
    assert (claim["registered"]["matches"], claim["registered"]["verdict"]) == (True, "refuted")
    among = suite.run("--claims-deviations", folder, claims=("claims/test_concentration.py", elsewhere))
    assert {key: claim["registered"] is not None for key, claim in claims_of(suite).items()} == {
        key: key == "mine.ten-times" for key in claims_of(suite)
    }
    assert among.ret == pytest.ExitCode.TESTS_FAILED

    # Another verdict than the registered one fails.
    path = folder / "tiny.toml"
    path.write_text(path.read_text().replace('"refuted"', '"inconclusive"'))
    changed = suite.run("--claims-deviations", folder, claims=(elsewhere,))
    assert changed.ret == pytest.ExitCode.TESTS_FAILED
    changed.stdout.fnmatch_lines(["mine.ten-times on tiny: registered as inconclusive (version 1), now refuted *"])

    # Registered anew, what this run has not judged stays.
    entry = '\n[[verdict]]\nclaim = "mine.other"\nversion = 1\nverdict = "refuted"\nreason = "it is so"\n'
    path.write_text(path.read_text() + entry)
    register.main()
    assert path.read_text().count("[[verdict]]") == 2
    assert 'claim = "mine.other"' in path.read_text()


def test_of_the_suite_s_claims_the_folder_s_entries_come_first(suite, elsewhere):
    folder = suite.pytester.mkdir("deviations")
    entry = '[[verdict]]\nclaim = "concentration.some-layer"\nversion = 1\nverdict = "refuted"\nreason = "random"\n'
    (folder / "tiny.toml").write_text(f"[conditions]\nseed = 0\n{entry}")
    suite.run("--claims-deviations", folder, claims=("claims/test_concentration.py", elsewhere))
    registered = {key: claim["registered"] for key, claim in claims_of(suite).items()}
    assert registered["concentration.some-layer"]["matches"]
    assert registered["mine.ten-times"]["verdict"] == "supported", "it is not listed"
    assert registered["concentration.typical-layer"] is None, "the suite has registered nothing of this model"


def test_an_id_of_the_suite_s_is_refused(suite, elsewhere):
    path = elsewhere / "test_my_claims.py"
    path.write_text(SOURCE.replace("mine.ten-times", "payoff.layers"), encoding="utf-8")
    suites = ROOT / "claims" / "test_payoff.py"
    assert_one_line(
        suite.run(claims=(elsewhere,)), "two claims are called 'payoff.layers'", str(path), str(suites), "another id"
    )


def test_a_folder_of_registered_verdicts_that_cannot_be_used(suite, elsewhere):
    nowhere = suite.run("--claims-deviations=nowhere", claims=(elsewhere,))
    assert_one_line(nowhere, "--claims-deviations names no folder: 'nowhere'; correct it or make the folder")
    (elsewhere / "tiny.toml").write_text(
        '[conditions]\nseed = 0\n[[verdict]]\nclaim = "mine.ten"\nversion = 1\nverdict = "refuted"\nreason = "so"\n'
    )
    unknown = suite.run("--claims-deviations", elsewhere, claims=(elsewhere,))
    unknown.stdout.fnmatch_lines(["  --claims-deviations registers claims that this run has not collected: mine.ten"])


def test_a_run_without_own_claims_registers_none(suite, tmp_path, monkeypatch, capsys):
    suite.run("-k", "some_layer")
    monkeypatch.setattr("sys.argv", ["register", "--claims-deviations", str(tmp_path), str(suite.output / "tiny")])
    with pytest.raises(SystemExit, match="4"):
        register.main()
    assert "holds no claim from elsewhere; run those claims" in capsys.readouterr().err


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the project, with the folder of own claims next to it."""
    clone = tmp_path / "clone"
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", "quantizer_math"))
        else:
            shutil.copy(ROOT / name, clone / name)
    (tmp_path / "my_claims" / "deviations").mkdir(parents=True)
    (tmp_path / "my_claims" / "test_my_claims.py").write_text(SOURCE, encoding="utf-8")
    return clone


def run(clone: Path, *arguments: str) -> str:
    """What a command of Python's prints in the clone, where it ends well."""
    command = [sys.executable, *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=clone, capture_output=True, encoding="utf-8", env=inherited)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_find_claims_next_to_the_clone(clone):
    for line in COMMANDS.splitlines():
        words = shlex.split(line)
        if words[0] == "pytest":
            listed = run(clone, "-m", *words, "--collect-only", "-q", "-p", "no:cacheprovider")
            assert "test_ten_times[any-bits-embedded-tiny]" in listed
            assert ("test_payoff.py" in listed) == ("claims" in words)
        else:
            assert "--claims-deviations" in run(clone, *words[1:3], "--help")


# A claim of the suite's.


def test_a_claim_takes_thirty_lines_and_two_files(clone):
    python, diff = blocks("A claim", "python")[0], blocks("A claim", "diff")[0]
    function = python[python.index("@claim(") :]
    added = [line for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")]
    assert len(function.splitlines()) + len(added) <= 30
    apply, above = ["git", "apply", "--unidiff-zero", "-"], {**os.environ, "GIT_CEILING_DIRECTORIES": str(clone.parent)}
    subprocess.run(apply, cwd=clone, input=diff, encoding="utf-8", env=above, check=True)
    with (clone / "claims" / "test_concentration.py").open("a", encoding="utf-8") as file:
        file.write(f"\n\n{function}")
    run(clone, "-m", "claims.lock")
    assert "concentration.top-tenth" in (clone / "claims" / "catalogue.lock").read_text(encoding="utf-8")
    row = "| `concentration.top-tenth` | In the typical linear, a tenth of the channels hold more than 1.3 times their"
    assert row in (clone / "docs" / "report.md").read_text(encoding="utf-8")
    files = ("tests/test_claims_concentration.py", "tests/test_claims_lock.py")
    said = run(clone, "-m", "pytest", *files, "-q", "-p", "no:cacheprovider")
    assert "failed" not in said
