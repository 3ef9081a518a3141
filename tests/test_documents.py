"""Every fenced block of the documents is run: the Python as it stands, the commands in a copy of the project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import yaml

from awq_core.judging.evidence import Verdict
from claims.lock import ROW
from claims.support.catalogue import whole_catalogue
from claims.support.claim import Setting
from claims.support.judge import judge
from tests.document_blocks import ROOT, Block, DocumentError, blocks, commands
from tests.document_commands import CommandError, check_command, copy_of_the_project, simple_commands
from tests.hand_made import hand_made
from tests.synthetic_measured import synthetic_measured

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PARSERS = {"toml": tomllib.loads, "json": json.loads, "yaml": yaml.safe_load}
LANGUAGES = {"python", "text", "bash", "diff", *PARSERS}
SECONDS = 300
"""Many times what a document's Python takes on a free core (20): it may share it with other tests."""


@cache
def blocks_of(document: Path) -> list[Block]:
    return blocks(document.read_text(encoding="utf-8"))


def of(language: str) -> list[Path]:
    return [path for path in DOCUMENTS if any(block.language == language for block in blocks_of(path))]


def name(path: Path) -> str:
    return path.stem


COMMANDS = [
    pytest.param(path, command, id=f"{path.stem}-{line}-{' '.join(command.split())[:40]}")
    for path in of("bash")
    for block in blocks_of(path)
    if block.language == "bash"
    for line, command in commands(block)
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_block_is_in_a_known_language_and_can_be_read(document: Path) -> None:
    for block in blocks_of(document):
        assert block.language in LANGUAGES, f"{document.name}:{block.line}: unknown language {block.language!r}"
        if block.language in PARSERS:
            PARSERS[block.language](block.content)


@pytest.mark.parametrize("document", of("python"), ids=name)
def test_the_python_runs_and_prints_what_the_text_says(document: Path, tmp_path: Path) -> None:
    done = run_document(document, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def run_document(document: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """In the project, with warnings as errors, and without the right to leave a file there."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("AWQ_CLAIMS_")}
    settings = {
        "AWQ_CLAIMS_CACHE": str(folder / "cache"),
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.document_blocks", str(document)],
        cwd=ROOT,
        env={**inherited, **settings},
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory):
    """By document, a copy of the project with the document's differences applied."""

    @cache
    def copy(document: Path) -> Path:
        folder = copy_of_the_project(tmp_path_factory.mktemp(document.stem) / "project")
        for block in blocks_of(document):
            if block.language == "diff":
                apply(block.content, folder)
        return folder

    return copy


def apply(difference: str, folder: Path) -> None:
    done = subprocess.run(
        ["git", "apply", "--unidiff-zero", "--whitespace=nowarn", "-"],
        cwd=folder,
        input=difference,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
    )
    if done.returncode != 0:
        raise CommandError(done.stderr)


@pytest.mark.parametrize("document", of("diff"), ids=name)
def test_every_difference_applies_to_the_files_as_they_are(document: Path, checkout) -> None:
    applied = checkout(document)
    for block in blocks_of(document):
        if block.language == "diff":
            for line in block.content.splitlines():
                if line.startswith("+++ "):
                    changed = line.removeprefix("+++ b/")
                    assert (applied / changed).read_text("utf-8") != (ROOT / changed).read_text("utf-8"), changed


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_the_command_works(document: Path, command: str, checkout) -> None:
    check_command(command, checkout(document))


# That mistakes are noticed.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nprint(1)\n", "line 1: this block is never closed"),
        ("Words.\n\n   ```python\n   print(1)\n   ```\n", "line 3: a fence that is indented"),
        ("```python copy\nprint(1)\n```\n", "line 1: a fence that is indented or has more"),
    ],
)
def test_a_block_that_cannot_be_found_is_noticed(text: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        blocks(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nprint(1)\n```\n```text\n1\n```\n", ""),
        ("```python\nx = 1\n```\nWords.\n```python\nprint(x)\n```\n\n```text\n1\n```\n", ""),
        ("```python\nprint(1)\n```\nWords.\n```text\n2\n```\n", ""),
        ("```python\nprint(1)\n```\n```text\n2\n```\n", "line 5 says:\n2\nand what is printed is:\n1\n"),
        ("```python\nprint(1)\n```\n```text\n```\n", "what is printed is:\n1\n"),
        ("Words.\n```python\n\nraise ValueError('no')\n```\n", "line 4, in <module>"),
        ("```python\nimport warnings\nwarnings.warn('old')\n```\n", "UserWarning: old"),
        ("```python\nopen('left-behind.txt', 'w')\n```\n", "must leave no files in the project"),
        ("```python\nimport os\nos.mkdir('left-behind')\n```\n", "must leave no files in the project"),
    ],
)
def test_what_a_document_prints_is_held_against_it(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "document.md").write_text(text, encoding="utf-8")
    done = run_document(tmp_path / "document.md", tmp_path)
    assert (done.returncode == 0) == (not message), done.stdout + done.stderr
    assert message in done.stdout + done.stderr


def test_commands_are_taken_apart() -> None:
    text = "make a   # words\n\nfor x in one two; do\n  pytest $x\ndone\npytest \\\n  -q && make b\n"
    found = commands(Block("bash", text, 10))
    assert found == [(10, "make a"), (12, "for x in one two; do\npytest $x\ndone"), (15, "pytest -q && make b")]
    assert list(simple_commands(found[1][1])) == [["pytest", "one"], ["pytest", "two"]]
    assert list(simple_commands(found[2][1])) == [["pytest", "-q"], ["make", "b"]]
    assert list(simple_commands('python -m reports.summary a >> "$FILE"')) == [["python", "-m", "reports.summary", "a"]]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("rm -rf reports", "no check knows the command 'rm'"),
        ("make clams", "no target 'clams'"),
        ("make claims MODLE=qwen0.5b", "no variable MODLE"),
        ("make claims MODEL=no-such-model", "is no known model"),
        ("pytest tests/test_cache.py -k no_such_test", "ends with status 5"),
        ("python -m reports.summarise reports/out/embedded-tiny", "no check knows the module"),
        ("python -m reports.compare a b --fail-on-changes", "ends with status 4"),
        ("python script.py", "documents show modules alone"),
        ("python3.9 -m venv .venv", "older than the project"),
        ("pip install -c constraint.txt torch", "no file constraint.txt"),
        ("pip install -c constraints.txt tensorflow", "tensorflow is in no constraints file"),
        ("pip install -c constraints.txt -e '.[develop]'", "no extra develop"),
        (". .venv/bin/activated", "no such script"),
        ("AWQ_CLAIMS_MODEL=here pytest claims", "does not know the environment variable"),
    ],
)
def test_a_command_that_would_go_wrong_is_noticed(command: str, message: str, checkout) -> None:
    with pytest.raises(CommandError, match=message):
        check_command(command, checkout(ROOT / "README.md"))


def test_a_difference_that_does_not_apply_is_noticed(checkout) -> None:
    with pytest.raises(CommandError, match="patch does not apply"):
        apply("--- a/README.md\n+++ b/README.md\n@@ -1 +1 @@\n-# Another project\n+# x\n", checkout(ROOT / "README.md"))


# That what stands by hand in the method's tables is so; `tests/test_claims_lock.py` holds what is generated.


@dataclass(frozen=True)
class Row:
    """What stands by hand in a claim's row: its marks, and the first word or words on what is resampled."""

    marks: str
    resampled: str


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    found = {}
    for line in text.splitlines():
        if row := ROW.fullmatch(line):
            found[row["id"]] = Row(row["marks"].strip(), row["resampled"].strip())
    return found


def test_the_marks_say_which_claims_need_damage_or_a_gain(rows: dict[str, Row]) -> None:
    """On a model that loses nothing to rounding and gains nothing from scales."""
    unharmed = hand_made(blocks=5)
    needs: dict[str, str] = {}
    for claim in whole_catalogue().values():
        for bits in claim.bits if claim.level != "pair" else ():
            evidence = judge(claim, unharmed, Setting(bits), beside=False)
            if evidence.verdict is Verdict.INSUFFICIENT:
                assert "needs damage of 0.01 nats" in evidence.reason
                needs[claim.id] = "†"
            elif evidence.verdict is Verdict.NOT_APPLICABLE and "no gain is established" in evidence.reason:
                needs[claim.id] = "‡"
    assert {name: row.marks for name, row in rows.items() if row.marks} == needs


def test_the_method_says_what_each_interval_resamples(rows: dict[str, Row]) -> None:
    measured = synthetic_measured(rtn_gap=0.1, twins=3)
    other = replace(synthetic_measured("synthetic-large", seed=1, twins=3), parameters=10 * measured.parameters)
    for claim in whole_catalogue().values():
        for bits in claim.bits or (None,):
            subject = (measured, other) if claim.level == "pair" else measured
            interval = judge(claim, subject, Setting(bits), beside=False).interval
            said = rows[claim.id].resampled
            if interval is None:
                assert not said, claim.id
            elif interval.method.startswith("exact"):
                assert said == "exact", claim.id
            elif said not in ("the same", "the other blocks"):
                assert re.match(rf"{interval.resampled}\b", said), claim.id
                assert ("jackknife" in said) == ("jackknife" in interval.method), claim.id


def test_the_method_s_numbers_are_those_of_the_results() -> None:
    """Quoted in two digits or three, so that a run under another version of a library does not move them."""
    documents = {stem: (ROOT / "docs" / f"{stem}.md").read_text(encoding="utf-8") for stem in ("report", "results")}
    quoted = re.findall(r"^\| [^|]*\(`([\w.-]+)`\) \|(.*)\|$", documents["report"], flags=re.MULTILINE)
    assert len(quoted) == 4
    for claim, cells in quoted:
        found = re.search(rf"^\| `{re.escape(claim)}(?:@4)?` \|(.*)\|$", documents["results"], flags=re.MULTILINE)
        assert found, claim
        measured = [
            part
            for cell in found[1].split("|")[2:4]  # the embedded models
            for part in re.fullmatch(r" . (\S+) \[.*\]; untrained (\S+) ", cell).groups()  # type: ignore[union-attr]
        ]
        for said, number in zip(cells.split("|"), measured, strict=True):
            written = said.strip()
            last = 10.0 ** -len(written.partition(".")[2]) if "." in written else 10.0 ** (len(written) - 2)
            assert abs(float(written) - float(number)) <= 0.51 * last, f"{claim}: {written}, now {number}"
