"""The files for contributors: valid, and naming only what is there."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CHECKER = Path(sys.executable).parent / "check-jsonschema"
TEMPLATES = ROOT / ".github" / "ISSUE_TEMPLATE"
ROOMS = ("awq_core", "fixtures", "claims", "reports")
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-issue-forms", sorted(set(TEMPLATES.glob("*.yml")) - {TEMPLATES / "config.yml"})),
        ("github-issue-config", [TEMPLATES / "config.yml"]),
        ("citation-file-format", [ROOT / "CITATION.cff"]),
    ],
    ids=["issue-forms", "issue-config", "citation"],
)
def test_the_files_have_their_schema(schema, files):
    arguments = [str(CHECKER), "--builtin-schema", f"vendor.{schema}", *map(str, files)]
    found = subprocess.run(arguments, capture_output=True, encoding="utf-8")
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_citation_is_the_projects():
    citation = load(ROOT / "CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_a_proposal_asks_for_all_that_a_claim_needs():
    asked = {part["id"] for part in load(TEMPLATES / "claim.yml")["body"]}
    assert asked == {"words", "source", "estimand", "threshold", "controls", "twin", "registered", "tests"}


def test_the_hooks_are_the_projects_own_and_fetch_nothing():
    (repository,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")


def test_the_guide_names_every_room():
    table = GUIDE.split("## Where things are")[1].split("\n## ")[0]
    named = {room for row in re.findall(r"^\| (`.+?) \|", table, re.M) for room in re.findall(r"`([^`]+)/`", row)}
    packages = {
        path.parent.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("__init__.py")
    }
    assert packages - {"awq_core/measure"} <= named
    assert [room for room in named if not (ROOT / room).is_dir()] == []


def test_every_file_that_the_guide_names_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", GUIDE)
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_every_make_target_that_the_guide_names_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z]+)", GUIDE):
        assert f"\n{target}:" in makefile, target
