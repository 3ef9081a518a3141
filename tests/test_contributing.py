"""The files for contributors and the workflows: valid, naming only what is there, pinned, with few permissions."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from fixtures.models.registry import ALIASES
from fixtures.texts.effort import EFFORTS
from reports.nightly.plan import DEFAULT_MODELS

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
TEMPLATES = ROOT / ".github" / "ISSUE_TEMPLATE"
ROOMS = ("awq_core", "fixtures", "claims", "reports")
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def command(*arguments):
    return subprocess.run([str(argument) for argument in arguments], capture_output=True, encoding="utf-8", cwd=ROOT)


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-issue-forms", sorted(set(TEMPLATES.glob("*.yml")) - {TEMPLATES / "config.yml"})),
        ("github-issue-config", [TEMPLATES / "config.yml"]),
        ("citation-file-format", [ROOT / "CITATION.cff"]),
        ("github-workflows", WORKFLOWS),
    ],
    ids=["issue-forms", "issue-config", "citation", "workflows"],
)
def test_the_files_have_their_schema(schema, files):
    found = command(SCRIPTS / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)
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


def test_every_make_target_that_is_named_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    scripts = [step.get("run", "") for path in WORKFLOWS for job in jobs(path).values() for step in job["steps"]]
    for target in re.findall(r"\bmake (?:--silent )?([a-z]+)", " ".join([GUIDE, *scripts])):
        assert f"\n{target}:" in makefile, target


# workflows

PINNED = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
LONGEST_SCRIPT = 4
"""Lines of a `run:`; what is longer belongs into the Makefile or a module."""


def actionlint(*files):
    """Correctness and security; the same whether the machine has shellcheck and pyflakes or not, and offline."""
    return command(SCRIPTS / "jactionlint", "--no-online", "--no-color", "--shellcheck=", "--pyflakes=", *files)


def jobs(path):
    """Every job of a workflow by name."""
    return load(path)["jobs"]


def triggers(path):
    # YAML 1.1 reads the key `on` as true.
    return set(load(path)[True])


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request):
    return request.param


def test_there_is_one_for_every_push_and_one_for_every_night():
    assert [path.name for path in WORKFLOWS] == ["nightly.yml", "push.yml"]
    assert triggers(FOLDER / "push.yml") == {"push", "pull_request"}
    assert triggers(FOLDER / "nightly.yml") == {"schedule", "workflow_dispatch"}


def test_actionlint_finds_nothing():
    found = actionlint(*WORKFLOWS)
    assert found.returncode == 0, found.stdout + found.stderr


def test_actionlint_does_find_something_where_there_is_something(tmp_path):
    broken = tmp_path / "broken.yml"
    broken.write_text((FOLDER / "push.yml").read_text(encoding="utf-8").replace("matrix.python }}", "matrix.pyton }}"))
    found = actionlint(broken)
    assert found.returncode == 1
    assert "pyton" in found.stdout


def test_every_action_is_pinned_by_its_commit_with_the_version_beside_it(workflow):
    used = [line.strip(" -") for line in workflow.read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert used
    assert [line for line in used if not PINNED.fullmatch(line)] == []


def test_an_action_has_one_version_everywhere():
    used = {line.strip(" -") for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line}
    names = [line.partition("@")[0] for line in used]
    assert sorted(names) == sorted(set(names))


def test_every_job_has_a_time_limit_and_its_own_permissions(workflow):
    assert load(workflow)["permissions"] == {}
    for name, job in jobs(workflow).items():
        assert 0 < job["timeout-minutes"] <= 360, name
        assert job["permissions"], name


def test_only_the_jobs_that_need_it_may_write():
    writing = {
        (path.stem, name, scope)
        for path in WORKFLOWS
        for name, job in jobs(path).items()
        for scope, access in job["permissions"].items()
        if access != "read"
    }
    assert writing == {
        ("nightly", "compare", "issues"),
        ("nightly", "publish", "pages"),
        ("nightly", "publish", "id-token"),
    }


def test_nothing_that_a_pull_request_starts_runs_on_a_gpu(workflow):
    elsewhere = [name for name, job in jobs(workflow).items() if job["runs-on"] != "ubuntu-latest"]
    assert elsewhere == (["claims"] if workflow.stem == "nightly" else [])
    if elsewhere:
        assert not [trigger for trigger in triggers(workflow) if trigger.startswith("pull_request")]


def test_scripts_are_short(workflow):
    for name, job in jobs(workflow).items():
        for step in job["steps"]:
            assert len(step.get("run", "").splitlines()) <= LONGEST_SCRIPT, (name, step.get("name"))


def test_every_module_that_is_called_is_there(workflow):
    scripts = " ".join(step.get("run", "") for job in jobs(workflow).values() for step in job["steps"])
    for module in re.findall(r"python -m (reports[\w.]*)", scripts):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module


def test_the_nights_models_are_known():
    assert [name for group in DEFAULT_MODELS for name in group.split("+") if name not in ALIASES] == []


def test_models_that_share_a_job_are_sizes_of_one_family():
    for group in DEFAULT_MODELS:
        assert len({ALIASES[name].family for name in group.split("+")}) == 1


def test_the_nights_efforts_are_the_suites():
    inputs = load(FOLDER / "nightly.yml")[True]["workflow_dispatch"]["inputs"]
    assert set(inputs["effort"]["options"]) == set(EFFORTS)


def test_the_nights_command_has_options_that_the_suite_has():
    script = next(
        step["run"] for step in jobs(FOLDER / "nightly.yml")["claims"]["steps"] if step.get("name") == "Claims"
    )
    words = shlex.split(script.replace("\\\n", " "))
    known = command(SCRIPTS / "pytest", "--help").stdout + "--junitxml"  # the help has its other spelling
    assert [word for word in words if word.startswith("--") and word not in known] == []
