"""What the shell commands of the documents do: each is run in a copy of the project, or asked whether it could be.

Commands that read reports are run for real, on invented evidence in the folders that they name. `pytest` collects what
the command selects and runs none of it. `make` prints what it would do. Of `pip`, the files and the pins must be there.
A command that nothing here knows is a mistake in the document, or needs a check of its own in `CHECKS`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from claims.support.catalogue import whole_catalogue
from fixtures.models.registry import ALIASES, GROUPS
from reports.diagnostic_file import write_diagnostic
from tests.synthetic_claim import synthetic_claim
from tests.synthetic_measured import synthetic_measured
from tests.tiny_models import write_model
from tests.two_runs import write_run

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (".git", ".venv", "out", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "build", "dist")
MODELS_FOLDER = "AWQ_CLAIMS_MODELS"
READS_REPORTS = (
    "claims.lock",
    "claims.register",
    "reports.compare",
    "reports.findings",
    "reports.results_table",
    "reports.summary",
)
"""Modules whose arguments are output folders, or files in them."""

PROVENANCE = {
    "parameters": 1000,
    "revision": "local",
    "device": "cpu",
    "calibration_text": "some text",
    "heldout_text": "other text",
    "python": "3.11",
}

Words = list[str]


class CommandError(Exception):
    """A command of a document that would go wrong, or that no check knows."""


def check_command(command: str, checkout: Path) -> None:
    """Run a command of a document, or what shows that it would run.

    Args:
        command: as the document has it; a `for` loop is written out.
        checkout: a copy of the project, which the command may change.

    Raises:
        CommandError: if it would go wrong, or no check knows it.
    """
    for words in simple_commands(command):
        variables: dict[str, str] = {}
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            _variable(name, value, checkout)
            variables[name] = value
        if MODELS_FOLDER in variables:
            _local_models(words, checkout / variables[MODELS_FOLDER])
            words = ["env", f"{MODELS_FOLDER}={checkout / variables[MODELS_FOLDER]}", *words]
        if not words:
            continue
        check = CHECKS.get(Path(words[0]).name.rstrip("0123456789."), CHECKS.get(words[0]))
        if check is None:
            raise CommandError(f"no check knows the command {words[0]!r}; correct it, or add one to CHECKS")
        check(words, checkout)


def simple_commands(command: str) -> Iterator[Words]:
    """The words of each simple command, loops written out and redirections dropped."""
    lexer = shlex.shlex(command.replace("\n", " ; "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    parts: list[Words] = [[]]
    for token in lexer:
        if set(token) <= set(";&|"):
            parts.append([])
        else:
            parts[-1].append(token)
    loop: tuple[str, Words] | None = None
    for part in filter(None, parts):
        if part[0] == "for":
            loop = part[1], part[3:]
            continue
        if part == ["done"]:
            loop = None
            continue
        words = part[1:] if part[0] == "do" else part
        words = words[: next((i for i, word in enumerate(words) if word.startswith((">", "<"))), None)]
        if not words:  # `do` on a line of its own
            continue
        for value in loop[1] if loop else [""]:
            yield [re.sub(rf"\$\{{?{loop[0]}\b\}}?", value, word) if loop else word for word in words]


def copy_of_the_project(folder: Path) -> Path:
    """The project's files and the running environment, without what a run leaves."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    # Invented evidence refutes nothing, so nothing is explained.
    (folder / "docs" / "findings.toml").write_text("", encoding="utf-8")
    return folder


def run(words: Words, checkout: Path, environment: dict[str, str] | None = None) -> str:
    """Run a program in the copy; what it wrote.

    Raises:
        CommandError: if its exit status is not 0.
    """
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWQ_CLAIMS_", "PYTEST_"))}
    done = subprocess.run(
        words,
        cwd=checkout,
        env={**inherited, **settings, **(environment or {})},
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise CommandError(f"{shlex.join(words)} ends with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _make(words: Words, checkout: Path) -> None:
    """Its targets exist, and its variables mean something: every pytest that it would start is checked in turn."""
    makefile = (checkout / "Makefile").read_text(encoding="utf-8")
    assigned = [word.partition("=")[0] for word in words[1:] if "=" in word]
    for name in assigned:
        if f"$({name})" not in makefile:
            raise CommandError(f"the Makefile has no variable {name}")
    for target in (word for word in words[1:] if "=" not in word):
        if not re.search(rf"^{re.escape(target)}:", makefile, flags=re.MULTILINE):
            raise CommandError(f"the Makefile has no target {target!r}")
    if shutil.which("make") is None:
        return
    would_run = run(["make", "-n", *words[1:]], checkout)
    for line in would_run.splitlines() if assigned else []:
        if "bin/pytest" in line:
            check_command(line, checkout)


def _pytest(words: Words, checkout: Path, environment: dict[str, str] | None = None) -> None:
    """Its options exist and its models are known; it selects at least one claim, or test.

    The quantizer's property tests take seconds to collect, so they are left out where a document does not name them.
    """
    collect = ["--collect-only", "-q", "-p", "no:cacheprovider"]
    if not any("quantizer_math" in word for word in words):
        collect.append("--ignore=claims/quantizer_math")
    run([sys.executable, "-m", "pytest", *words[1:], *collect], checkout, environment)


def _local_models(words: Words, folder: Path) -> None:
    """A tiny model for every name that no alias has: where the document's reader has a real one."""
    for option, name in pairwise(words):
        if option == "--model" and name not in ALIASES and name not in GROUPS and not (folder / name).exists():
            write_model(folder / name)


def _env(words: Words, checkout: Path) -> None:
    """`pytest` with an environment variable."""
    name, _, value = words[1].partition("=")
    if Path(words[2]).name != "pytest":
        raise CommandError(f"{shlex.join(words)}: of pytest alone it is known what {name} does")
    _pytest(words[2:], checkout, {name: value})


def _python(words: Words, checkout: Path) -> None:
    if words[1:2] != ["-m"] or len(words) < 3:
        raise CommandError(f"{shlex.join(words)}: of Python, documents show modules alone")
    module, arguments = words[2], words[3:]
    if module == "pytest":
        _pytest(words[2:], checkout)
    elif module == "venv":
        _new_environment(words, checkout)
    elif module in READS_REPORTS:
        for word in arguments:
            if not word.startswith("-") and not word.endswith((".html", ".md")):
                _invent(checkout / word)
        run([sys.executable, "-m", module, *arguments], checkout)
    else:
        raise CommandError(f"no check knows the module {module!r}; correct it, or add it to READS_REPORTS or a check")


def _new_environment(words: Words, checkout: Path) -> None:
    """The Python is one that the project can run under."""
    version = re.fullmatch(r"python(\d+)\.(\d+)", words[0])
    least = re.search(r"(\d+)\.(\d+)", _project(checkout)["requires-python"])
    if version and least and tuple(map(int, version.groups())) < tuple(map(int, least.groups())):
        raise CommandError(f"{words[0]} is older than the project asks for")
    run([sys.executable, "-m", "venv", "--help"], checkout)


def _activate(words: Words, checkout: Path) -> None:
    if len(words) != 2 or not (checkout / words[1]).is_file():
        raise CommandError(f"{shlex.join(words)}: there is no such script in an environment")


def _pip(words: Words, checkout: Path) -> None:
    """Constraints are there, what is installed is pinned by them, and extras are the project's."""
    arguments = iter(words[2:])
    if words[1:2] != ["install"]:
        raise CommandError(f"{shlex.join(words)}: of pip, documents show install alone")
    pins: set[str] = set()
    for word in arguments:
        if word in ("-c", "--constraint"):
            pins |= set(re.findall(r"^([\w.-]+)==", _text(checkout / next(arguments)), flags=re.MULTILINE))
        elif word in ("-e", "--editable"):
            folder, _, extras = next(arguments).partition("[")
            known = _project(checkout / folder)["optional-dependencies"]
            if missing := set(re.findall(r"[\w-]+", extras)) - set(known):
                raise CommandError(f"the project has no extra {', '.join(sorted(missing))}")
        elif word.startswith("-"):
            raise CommandError(f"no check knows pip's option {word}")
        elif word not in pins:
            raise CommandError(f"{word} is in no constraints file that the command names")


def _variable(name: str, value: str, checkout: Path) -> None:
    if name != "OMP_NUM_THREADS" and f"`{name}`" not in _text(checkout / "README.md"):
        raise CommandError(f"README.md does not know the environment variable {name}")
    if name.startswith("AWQ_CLAIMS_"):
        (checkout / value).mkdir(parents=True, exist_ok=True)


CHECKS: dict[str, Callable[[Words, Path], None]] = {
    "make": _make,
    "pytest": _pytest,
    "env": _env,
    "python": _python,
    "pip": _pip,
    ".": _activate,
}
"""By the name of the program, without its folder and version."""


def _invent(path: Path) -> None:
    """Evidence of a complete run that supports every claim; or the per-layer record, where the path is a file."""
    if path.exists():
        return
    if path.name.endswith(".json"):
        write_diagnostic(path, synthetic_measured())
        return
    claims = [
        synthetic_claim(id=claim.id, bits=bits, models=(path.name,))
        for claim in whole_catalogue().values()
        for bits in claim.bits or (None,)
    ]
    write_run(path, claims, name=path.name, **PROVENANCE)
    write_diagnostic(path / "diagnostic.json", synthetic_measured())


def _text(path: Path) -> str:
    if not path.is_file():
        raise CommandError(f"there is no file {path.name}")
    return path.read_text(encoding="utf-8")


def _project(checkout: Path) -> dict[str, object]:
    project: dict[str, object] = tomllib.loads(_text(checkout / "pyproject.toml"))["project"]
    return project
