"""Documents: their fenced blocks are held to what they do (`tests/documents.py`), their tables to the catalogue's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sybil.example import SybilFailure

from awq_core.judging.evidence import Verdict
from claims.lock import ROW
from claims.support.catalogue import whole_catalogue
from claims.support.claim import Setting
from claims.support.judge import judge
from tests.documents import EVALUATORS, ROOT, sybil
from tests.hand_made import hand_made, lifelike

FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *ROOT.glob("docs/*.md")]
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(FILES)}
SECONDS = 600
"""Many times what a document takes on a free core (40): it may share it with other tests."""


def fences(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.lstrip().startswith("```")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_is_closed_and_in_a_language_that_is_checked(document: str) -> None:
    found = fences(DOCUMENTS[document])
    assert {line.removeprefix("```") for line in found[::2]} <= set(EVALUATORS)
    assert found[1::2] == ["```"] * (len(found) // 2)
    assert len(found) % 2 == 0


@pytest.mark.parametrize("document", [name for name, text in DOCUMENTS.items() if fences(text)])
def test_the_blocks_do_what_the_document_says(document: str, tmp_path: Path) -> None:
    """In a process of its own: documents register claims and models."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AWQ_CLAIMS_", "PYTEST_"))}
    settings = {
        "AWQ_CLAIMS_CACHE": str(tmp_path / "cache"),
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.documents", "-p", "no:cacheprovider", document],
        cwd=ROOT,
        env={**inherited, **settings},
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nprint(1)\n```\n```text\n1\n```\n", None),
        ("```python\nx = 1\n```\nWords.\n```python\nprint(x)\n```\n\n```text\n1\n```\n", None),
        ("```python\nprint(1)\n```\nWords.\n```text\n2\n```\n", None),
        ("```python\nprint(1)\n```\n```text\n 1\n```\n", "it says:\n 1\nand what is printed is:\n1\n"),
        ("```toml\nx =\n```\n", "Invalid value"),
        ("```bash\nmake clams\n```\n", "the Makefile has no clams"),
        ("```bash\nmake claims MODLE=qwen0.5b\n```\n", "the Makefile has no MODLE"),
        ("```bash\nmake test && .venv/bin/python -m reports.summarise x\n```\n", "No module named reports.summarise"),
        ("```bash\npython -m reports.compare a b --fail-on-changes=1\n```\n", "no --fail-on-changes"),
        ("```bash\npytest claims \\\n  --model no-such-model\n```\n", "is no known model"),
        ("```diff\n--- a/README.md\n+++ b/README.md\n@@ -1 +1 @@\n-# Another\n+# x\n```\n", "patch does not apply"),
    ],
    ids=[
        "printed",
        "namespace",
        "words-between",
        "text",
        "toml",
        "target",
        "variable",
        "module",
        "option",
        "model",
        "difference",
    ],
)
def test_a_mistake_is_noticed(
    text: str, message: str | None, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "document.md").write_text(text, encoding="utf-8")
    document = sybil.parse(tmp_path / "document.md")
    document.namespace.update(tmp_path_factory=tmp_path_factory, write_output=False)
    examples = list(document.examples())
    assert len(examples) == len(fences(text)) // 2
    noticed = pytest.raises((SybilFailure, ValueError), match=re.escape(message)) if message else nullcontext()
    with noticed:
        for example in examples:
            example.evaluate()


def test_what_is_printed_is_written_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "document.md"
    old = "```python\nprint(12)\n```\n```text\n1\n```\nWords.\n```python\nprint(3)\n```\n```text\n{}\n```\n"
    path.write_text(old.format("four"), encoding="utf-8")
    document = sybil.parse(path)
    document.namespace["write_output"] = True
    for example in document.examples():
        example.evaluate()
    assert path.read_text(encoding="utf-8") == old.replace("text\n1\n", "text\n12\n").format(3)


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
    """On a model that guesses, loses nothing to rounding and gains nothing from scales."""
    unharmed = replace(hand_made(blocks=5), provenance={"vocabulary": 7})  # ln 7 is 1.95, and the loss 2 nats
    needs: dict[str, str] = {}
    for claim in whole_catalogue().values():
        for bits in claim.bits if claim.level != "pair" else ():
            evidence = judge(claim, unharmed, Setting(bits), beside=False)
            if evidence.verdict is Verdict.INSUFFICIENT:
                assert "needs damage of 0.01 nats" in evidence.reason
                needs[claim.id] = "†"
            elif evidence.verdict is Verdict.NOT_APPLICABLE and "no gain is established" in evidence.reason:
                needs[claim.id] = "‡"
            elif evidence.verdict is Verdict.NOT_APPLICABLE and "no quality to lose" in evidence.reason:
                needs[claim.id] = "§"
    assert {name: row.marks for name, row in rows.items() if row.marks} == needs


def test_the_method_says_what_each_interval_resamples(rows: dict[str, Row]) -> None:
    measured = lifelike(rtn_gap=0.1, twins=3)
    other = replace(lifelike("synthetic-large", seed=1, twins=3), parameters=10 * measured.parameters)
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
