"""A plugin of pytest, on Sybil, for which each fenced block of a document is a test.

    python -m pytest -p tests.documents docs/understanding.md                   hold the document to what it does
    python -m pytest -p tests.documents docs/understanding.md --write-output    write its text blocks anew

A document's Python shares one namespace, and a text block right below a Python block is what that prints. Differences
are applied to a copy of the project, in which commands further down are checked without running them: `make` has the
target, `pytest` selects something, a module has the options. TOML, JSON and YAML can be read.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (".git", ".venv", "out", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "build", "dist")
WRITE = "--write-output"
COLLECT = ("--collect-only", "-q", "-p", "no:cacheprovider", "--ignore=claims/quantizer_math")
"""The quantizer's property tests take seconds to collect."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(WRITE, action="store_true", help="write what a document's Python prints into its text blocks")


@pytest.fixture
def write_output(pytestconfig: pytest.Config) -> bool:
    return pytestconfig.getoption(WRITE)


run_python = PythonEvaluator()


def check_python(example: Example) -> None:
    with redirect_stdout(io.StringIO()) as output:
        run_python(example)
    example.namespace["printed"] = (example.end, output.getvalue())


def check_text(example: Example) -> str | None:
    end, printed = example.namespace.get("printed", (0, ""))
    text, start = example.document.text, example.start + len("```text\n")
    said = text[start : example.end - len("```")]
    if said == printed or text[end : example.start].strip():
        return None
    if not example.namespace["write_output"]:
        return f"it says:\n{said}and what is printed is:\n{printed}"
    edits = example.namespace.setdefault("edits", [])
    edits.append((start, start + len(said), printed))
    for begin, close, output in reversed(edits):
        text = text[:begin] + output + text[close:]
    Path(example.path).write_text(text, encoding="utf-8")
    return None


def check_difference(example: Example) -> str:
    if "checkout" not in example.namespace:
        folder = example.namespace["tmp_path_factory"].mktemp("checkout") / "project"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
        example.namespace["checkout"] = folder
    apply = ("git", "apply", "--unidiff-zero", "--whitespace=nowarn", "-")
    return failure_of(apply, example.namespace["checkout"], given=str(example.parsed))


def check_commands(example: Example) -> str | None:
    """Other programs than `make`, `pytest` and Python modules are left alone."""
    checkout = example.namespace.get("checkout", ROOT)
    for line in re.split(r"\n|&&|;", example.parsed.replace("\\\n", " ")):
        words = shlex.split(line, comments=True)
        name = Path(words[0]).name if words else ""
        module = words[2] if name.startswith("python") and words[1:2] == ["-m"] else ""
        arguments, failure = words[3:] if module else words[1:], ""
        if name == "make":
            makefile = (checkout / "Makefile").read_text(encoding="utf-8")
            named = [argument.partition("=")[0] for argument in arguments]
            missing = [word for word in named if not re.search(rf"^{word}:|\$\({word}\)", makefile, re.MULTILINE)]
            failure = ", ".join(f"the Makefile has no {word}" for word in missing)
        elif "pytest" in (name, module):
            failure = failure_of((sys.executable, "-m", "pytest", *arguments, *COLLECT), checkout)
        elif module:
            options = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
            failure = failure_of((sys.executable, "-m", module, "--help"), checkout, named=options)
        if failure:
            return f"{line.strip()}: {failure}"
    return None


def failure_of(command: tuple[str, ...], folder: Path, given: str = "", named: list[str] | None = None) -> str:
    """What a command says where it fails, or that its output does not have all that should be named there."""
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, encoding="utf-8")
    if done.returncode:
        return done.stdout + done.stderr
    return ", ".join(f"no {word}" for word in named or () if word not in done.stdout)


EVALUATORS = {
    "python": check_python,
    "text": check_text,
    "diff": check_difference,
    "bash": check_commands,
    "toml": lambda example: tomllib.loads(example.parsed) and None,
    "json": lambda example: json.loads(example.parsed) and None,
    "yaml": lambda example: yaml.safe_load(example.parsed) and None,
}
sybil = Sybil(
    [CodeBlockParser(language, evaluator) for language, evaluator in EVALUATORS.items()],
    patterns=["*.md"],
    path=str(ROOT),
    fixtures=["write_output", "tmp_path_factory"],
)
pytest_collect_file = sybil.pytest()
