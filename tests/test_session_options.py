"""The suite's options: what they select, what the header says of them, and where the results go."""

import json

import numpy as np
import pytest

import fixtures.measuring.model
from tests.suite_sessions import QUICK_CLAIMS, assert_no_traceback, everything
from tests.tiny_models import write_model


def provenance(suite, model="tiny"):
    return json.loads((suite.output / model / "evidence.json").read_text())["model"]


@pytest.fixture
def refuse(monkeypatch):
    """From here on nothing may be loaded or measured."""

    def unwanted(*_, **__):
        raise AssertionError("loaded or measured")

    for name in ("load_blocks", "untrained_blocks", "measure_layers", "measure_traffic", "MethodPass"):
        monkeypatch.setattr(fixtures.measuring.model, name, unwanted)


def test_the_header_says_what_is_measured_and_how(suite):
    result = suite.run("--seed=3")
    calibration, heldout = (suite.material.folder / f"{name}.txt" for name in ("calibration", "heldout"))
    result.stdout.fnmatch_lines(
        [
            "tiny: tiny, revision local, * parameters, 4 blocks",
            "  cpu (CPU), float32, groups of 128, effort quick, seed 3",
            f"  calibration: {calibration}, * x 64 tokens; held-out: {heldout}, * x 64 tokens",
        ]
    )
    assert_no_traceback(result)


def test_before_measuring_the_header_says_what_it_will_cost(suite, monkeypatch):
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(suite.pytester.path / "cache"))
    text = everything(suite.run("-k", "some_layer"))
    header = text.split("tiny: tiny, revision")[1].split("claims/test_")[0]
    for word in ("memory", "disk", "second"):
        assert word in header, header
    assert "judged from the cache" not in header
    assert "measured tiny: layers in" in text
    again = everything(suite.run("-k", "some_layer"))
    assert "  measured before: judged from the cache" in again
    assert "measured tiny:" not in again
    refreshed = everything(suite.run("-k", "some_layer", "--refresh"))
    assert "judged from the cache" not in refreshed
    assert refreshed.count("measured tiny: layers in") == 1


def test_collecting_alone_loads_nothing(suite, refuse, monkeypatch):
    monkeypatch.setattr("fixtures.preflight.describe", None)
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(suite.pytester.path / "cache"))
    result = suite.run("--collect-only", "-q", "--model", "qwen0.5b", "--model", "embedded-tiny")
    assert result.ret == 0
    for name in ("tiny", "qwen0.5b", "embedded-tiny"):
        assert f"test_some_layer[any-bits-{name}]" in everything(result)
    assert not suite.output.exists()
    assert not (suite.pytester.path / "cache").exists()


def test_the_embedded_pair_is_asked_for_by_one_name(suite):
    result = suite.run("--collect-only", "-q", model="embedded", claims=("claims/test_replication.py",))
    assert "[any-bits-embedded-tiny+embedded-small]" in everything(result)
    assert "4 tests collected" in everything(result)


def test_one_test_for_each_claim_precision_and_model(suite):
    result = suite.run("--collect-only", "-q", "--model=embedded-tiny", claims=("claims/test_payoff.py",))
    lines = [line.split("::")[1] for line in result.stdout.lines if "::" in line]
    assert len(lines) == len(set(lines)) == 8 * 2 * 2
    # All claims on one model come before any on the next: a large one is loaded once.
    models = [line.rstrip("]").split("-bit-")[1] for line in lines]
    assert models == sorted(models, key=["tiny", "embedded-tiny"].index)


def test_claims_are_selected_by_name_and_only_they_are_reported(suite):
    result = suite.run("-k", "some_layer or typical", claims=QUICK_CLAIMS)
    claims = json.loads((suite.output / "tiny" / "evidence.json").read_text())["claims"]
    assert [claim["id"] for claim in claims] == ["concentration.some-layer", "concentration.typical-layer"]
    result.stdout.fnmatch_lines(["*2 deselected*"])


def test_no_claim_selected_is_exit_status_five_and_measures_nothing(suite, refuse):
    result = suite.run("-k", "no_such_claim")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "revision local" not in everything(result)
    assert not suite.output.exists()


def test_what_was_asked_for_is_recorded(suite):
    suite.run("--dtype=bfloat16", "--effort=standard", "--seed=11", "-k", "some_layer")
    recorded = provenance(suite)
    assert recorded["dtype"] == "bfloat16"
    assert recorded["effort"] == "standard"
    assert recorded["seed"] == 11
    assert recorded["device"] == "cpu"
    assert recorded["kind"] == "folder"
    assert recorded["calibration_text"].endswith("calibration.txt")
    assert len(recorded["calibration_hash"]) == len(recorded["weights_hash"]) == 64
    assert set(recorded["versions"]) >= {"torch", "transformers", "numpy"}
    tokens = np.load(suite.output / "tiny" / "tokens.npz")
    assert list(tokens["calibration"].shape) == recorded["calibration_shape"]
    assert list(tokens["heldout"].shape) == recorded["heldout_shape"]


def test_another_seed_judges_anew_and_measures_no_layer(suite, monkeypatch):
    """It draws other channels to keep and other random tokens, which losses and traffic depend on."""
    suite.run("-k", "typical")
    first = json.loads((suite.output / "tiny" / "evidence.json").read_text())["claims"][0]
    monkeypatch.setattr(fixtures.measuring.model, "measure_layers", None)
    suite.run("-k", "typical", "--seed=1")
    second = json.loads((suite.output / "tiny" / "evidence.json").read_text())["claims"][0]
    assert second["estimate"] == first["estimate"]
    assert second["interval"]["seed"] != first["interval"]["seed"]


def test_models_of_a_folder_are_found_by_name_and_paired_by_type(suite, monkeypatch):
    models = suite.material.folder / "models"
    write_model(
        models / "wider", hidden_size=64, intermediate_size=128, num_hidden_layers=4, max_position_embeddings=64
    )
    monkeypatch.setenv("AWQ_CLAIMS_MODELS", str(models))
    result = suite.run("--model=tiny", model="wider", claims=("claims/test_replication.py",))
    assert sorted(path.name for path in suite.output.iterdir()) == ["tiny", "wider"]
    for name in ("tiny", "wider"):
        claims = json.loads((suite.output / name / "evidence.json").read_text())["claims"]
        # The smaller one first, whichever was asked for first.
        assert [claim["models"] for claim in claims] == [["tiny", "wider"]] * 4
        agreement = next(claim for claim in claims if claim["id"] == "replication.verdicts")
        assert agreement["verdict"] == "reported"
        # Every claim is compared, though only those on two sizes were selected.
        assert agreement["readings"]["claims compared"] > 20
    result.stdout.fnmatch_lines(["replication.profile *"])


def test_one_size_alone_has_no_replication(suite):
    result = suite.run(claims=("claims/test_replication.py",))
    assert result.ret == 0
    claims = json.loads((suite.output / "tiny" / "evidence.json").read_text())["claims"]
    assert {claim["verdict"] for claim in claims} == {"not applicable"}
    result.stdout.fnmatch_lines(["*replication needs two sizes of a family; give --model twice"])


def test_a_damaged_cache_entry_is_told_in_one_line(suite, tmp_path, monkeypatch):
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(tmp_path))
    suite.run("-k", "some_layer")
    before = (suite.output / "tiny" / "evidence.json").read_text()
    damaged = max(tmp_path.rglob("errors.nc"), key=lambda path: path.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    result = suite.run("-k", "some_layer")
    lines = [line for line in result.stdout.lines if line.startswith("cache: ")]
    assert len(lines) == 1
    assert "is damaged (checksum of errors.nc does not match); measuring again" in lines[0]
    assert_no_traceback(result)
    claims = [json.loads(text)["claims"] for text in (before, (suite.output / "tiny" / "evidence.json").read_text())]
    assert claims[0] == claims[1]
