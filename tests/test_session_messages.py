"""What a user got wrong: one clear line, exit status 4, nothing written."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from claims.support.claim import REGISTRY
from fixtures.plugin import SESSION
from tests.suite_sessions import ROOT, everything, text
from tests.tiny_models import write_model


def assert_one_clear_line(result, suite, *parts):
    """Exactly one line says what is wrong and what to do, and nothing was begun."""
    lines = [line for line in everything(result).splitlines() if "error" in line.lower()]
    assert len(lines) == 1, everything(result)
    assert lines[0].startswith("ERROR: ")
    for part in parts:
        assert part in lines[0]
    assert "Traceback" not in everything(result)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert not suite.output.exists()
    assert "measured " not in everything(result)
    assert list(suite.pytester.path.rglob("*.tmp")) == []


@pytest.fixture
def copy(suite):
    """A copy of the tiny model that a test may damage."""
    folder = suite.pytester.path / "copy"
    shutil.copytree(suite.material.model, folder)
    return folder


def configure(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_misspelt_alias_names_close_matches(suite):
    result = suite.run(model="qwen0.5")
    assert_one_clear_line(result, suite, "--model 'qwen0.5'", "did you mean", "qwen0.5b")


def test_an_effort_that_is_none(suite):
    result = suite.run("--effort=fast")
    assert_one_clear_line(result, suite, "no effort is called 'fast'; --effort takes quick, standard, paper")


def test_a_path_that_leads_pytest_to_another_project_is_said_before_anything_is_imported(tmp_path):
    """A project of someone's own above both the clone and the text: pytest takes it for the one to test."""
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "traffic.txt").write_text("words")
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "claims", clone / "claims")
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    command = [sys.executable, "-m", "pytest", "claims", "--calibration-text", tmp_path / "traffic.txt"]
    done = subprocess.run(command, cwd=clone, capture_output=True, encoding="utf-8")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert done.stderr.startswith(
        f"ERROR: pytest reads its settings from {tmp_path / 'pyproject.toml'}, not from {clone}"
    )
    assert "--calibration-text=FILE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_like_no_alias_names_them_all(suite):
    result = suite.run(model="mistake")
    assert_one_clear_line(result, suite, "'mistake'", "embedded-tiny", "planted-control", "qwen7b")


def test_a_good_model_beside_a_bad_one_is_not_begun(suite):
    result = suite.run("--model", "mistake")
    assert_one_clear_line(result, suite, "'mistake'")


def test_a_folder_without_a_model(suite):
    (suite.pytester.path / "empty").mkdir()
    result = suite.run(model=suite.pytester.path / "empty")
    assert_one_clear_line(result, suite, "empty: no model: no config.json is there; give the folder that holds one")


def test_a_file_instead_of_a_folder(suite, copy):
    result = suite.run(model=copy / "model.safetensors")
    assert_one_clear_line(result, suite, "is a file; give the folder")


def test_a_model_that_is_quantized_already(suite, copy):
    configure(copy, quantization_config={"quant_method": "awq", "bits": 4})
    result = suite.run(model=copy)
    assert_one_clear_line(result, suite, "already quantized (method awq); give the full-precision model it came from")


def test_an_architecture_that_is_not_known(suite, copy):
    configure(copy, model_type="mamba")
    result = suite.run(model=copy)
    assert_one_clear_line(result, suite, "'mamba', which the suite does not know; supported: ", "qwen2")


def test_weights_that_are_cut_short(suite, copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    assert_one_clear_line(suite.run(model=copy), suite, "model.safetensors")


def test_a_tokenizer_that_is_missing(suite):
    folder = write_model(suite.pytester.path / "mute", with_tokenizer=False)
    assert_one_clear_line(suite.run(model=folder), suite, "no tokenizer")


def test_a_tokenizer_of_another_model(suite):
    folder = write_model(suite.pytester.path / "small", vocab_size=100)
    result = suite.run(model=folder)
    assert_one_clear_line(result, suite, "ids up to 256, the model knows only 100 tokens", "the model's own tokenizer")


@pytest.mark.parametrize("split", ["calibration", "heldout"])
def test_a_text_that_is_too_short(suite, split):
    short = suite.pytester.path / "short.txt"
    short.write_text(text(20, seed=9))
    result = suite.run(f"--{split}-text={short}")
    name = {"calibration": "calibration", "heldout": "held-out"}[split]
    assert_one_clear_line(
        result, suite, f"the {name} text ({short}) is too short: it has ", f"give a longer --{split}-text"
    )


def test_a_text_that_is_not_there(suite):
    assert_one_clear_line(suite.run("--heldout-text=nowhere.txt"), suite, "nowhere.txt")


def test_the_same_text_twice(suite):
    calibration = suite.material.folder / "calibration.txt"
    assert_one_clear_line(suite.run(f"--heldout-text={calibration}"), suite, "calibration.txt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there(suite, device):
    assert_one_clear_line(suite.run(f"--device={device}"), suite, f"--device '{device}'", "no GPU")


def test_a_device_or_dtype_that_is_none(suite):
    assert_one_clear_line(suite.run("--device=gpu"), suite, "'gpu'", "cpu")
    assert_one_clear_line(suite.run("--dtype=int4"), suite, "'int4'", "bfloat16")


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_a_seed_that_is_none(suite, seed):
    assert_one_clear_line(suite.run(f"--seed={seed}"), suite, f"--seed {seed} is no seed")


def test_an_option_without_a_file(suite):
    assert_one_clear_line(suite.run("--heldout-text="), suite, "--heldout-text is empty; give a path")


def test_an_output_that_cannot_be_written_is_said_before_anything_is_measured(suite):
    taken = suite.pytester.path / "taken"
    taken.write_text("a file")
    assert_one_clear_line(suite.run(f"--output={taken}/below"), suite, f"{taken} is a file", "give another folder")


def test_a_hub_that_cannot_be_reached(suite, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    result = suite.run(model="nobody/nothing", texts=False)
    assert_one_clear_line(result, suite, "nobody/nothing")


def test_a_hub_that_may_not_be_reached(suite, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = suite.run(model="nobody/nothing", texts=False)
    assert_one_clear_line(result, suite, "nobody/nothing")


@pytest.mark.parametrize("variable", ["AWQ_CLAIMS_MODELS", "AWQ_CLAIMS_TEXTS"])
def test_an_environment_that_names_no_folder(suite, monkeypatch, variable):
    monkeypatch.setenv(variable, "/nowhere/at/all")
    assert_one_clear_line(suite.run(), suite, f"{variable} names no folder: '/nowhere/at/all'; correct it or unset it")


def test_a_cache_that_cannot_be_written(suite, monkeypatch):
    taken = suite.pytester.path / "taken"
    taken.write_text("a file")
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(taken))
    assert_one_clear_line(suite.run(), suite, f"the cache folder '{taken}' cannot be written", "AWQ_CLAIMS_CACHE")


def entry(claim="payoff.layers", bits="bits = 4", verdict="refuted", reason="r"):
    return (
        f'[conditions]\nseed = 7\n[[verdict]]\nclaim = "{claim}"\n{bits}\nversion = 1\n'
        f'verdict = "{verdict}"\nreason = "{reason}"'
    )


@pytest.fixture
def deviations(suite, monkeypatch):
    """Write the tiny model's deviations file."""
    monkeypatch.setattr("claims.support.deviations.FOLDER", suite.pytester.path)
    return (suite.pytester.path / "tiny.toml").write_text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (entry(claim="payoff.nothing"), "no claim is called 'payoff.nothing@4'; correct the entry or remove it"),
        (entry(bits=""), "no claim is called 'payoff.layers'"),
        (entry(verdict="wrong"), "'wrong' is not a valid Verdict"),
        (entry(reason=" "), "'payoff.layers@4' has no reason"),
        ('[conditions]\nseed = 0\nweather = "fair"', "conditions must be some of effort"),
        ("[conditions]", "conditions must be some of effort"),
        ("", "'conditions' is missing"),
        ("conditions = 3", ""),
        ('verdict = "refuted"\n[conditions]\nseed = 0', ""),
        ("[conditions", ""),
    ],
)
def test_a_deviations_file_that_cannot_be_used(suite, deviations, content, words):
    deviations(content)
    assert_one_clear_line(suite.run(), suite, "tiny.toml: ", words)


def test_a_listed_claim_that_was_not_selected_is_no_error(suite, deviations, monkeypatch):
    deviations(entry())
    # As in a process that was asked for the concentration claims alone and has seen no others.
    for identifier in [identifier for identifier in REGISTRY if not identifier.startswith("concentration.")]:
        monkeypatch.delitem(REGISTRY, identifier)
    for module in [module for module in sys.modules if module.startswith("claims.test_")]:
        monkeypatch.delitem(sys.modules, module)
    result = suite.run(claims=("claims/test_concentration.py",))
    assert result.ret in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    assert "no claim is called" not in everything(result)
    result.stdout.fnmatch_lines(["concentration.typical-layer *"])
    result.stdout.no_fnmatch_line("payoff.*")


@pytest.mark.parametrize("claims", [("claims",), ("tests/test_cache.py", "claims/test_bits.py::test_cliff"), ("..",)])
def test_claims_in_several_processes_are_refused(suite, claims):
    pytest.importorskip("xdist")
    result = suite.run("-n2", claims=claims)
    assert_one_clear_line(result, suite, "-n: ", "share their measurements in one process; run claims without -n")


def test_the_suite_s_own_tests_may_run_in_several_processes(suite):
    pytest.importorskip("xdist")
    own = ("tests/test_looks_coverage.py", "claims/quantizer_math/test_duo_scales.py")
    result = suite.run("-n1", model="", claims=own)  # two would only start more slowly
    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes()["passed"] > 1


def test_claims_that_nobody_answers_for_are_not_scored_silently(suite, monkeypatch):
    monkeypatch.delattr("claims.plugin.pytest_claims_requirements")
    result = suite.run()
    assert_one_clear_line(result, suite, "4 claims are selected and no plugin says what they need", "-p claims.plugin")


def test_claims_are_asked_once_before_a_model_is_opened(suite):
    asked = []

    class Watching:
        @pytest.hookimpl(wrapper=True)
        def pytest_claims_requirements(self, config, items):
            answer = yield
            asked.append(([item.name for item in items], list(config.stash[SESSION].opened), answer.stages))
            return answer

    suite.plugins.append(Watching())
    suite.run("-k", "some_layer")
    assert asked == [(["test_some_layer[any-bits-tiny]"], [], {"layers", "twins"})]
