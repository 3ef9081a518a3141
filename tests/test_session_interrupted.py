"""Ctrl-C, as the operating system delivers it: what was judged is kept and marked, nothing is half-written."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import fixtures.measuring.model
from tests.suite_sessions import ROOT, pytest_arguments
from tests.tiny_models import write_model

STOP = """
import signal
import time
from pathlib import Path

import claims.plugin
import fixtures.measuring.model
import reports.output

reports.output.draw_all = lambda measured, all_measured: {{}}  # figures are slow and beside the point
# A shell's background job starts with SIGINT ignored, and so would this process, its child.
signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for_ctrl_c(*_, **__):
    Path({reached!r}).touch()
    time.sleep(60)


def from_the(nth, function):
    calls = []

    def wrapped(*arguments, **options):
        calls.append(1)
        return wait_for_ctrl_c() if len(calls) >= nth else function(*arguments, **options)

    return wrapped


{where} = from_the({nth}, {where})
"""


@pytest.fixture
def second(suite):
    """Another model, not measured yet."""
    return write_model(
        suite.pytester.path / "second",
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=4,
        tie_word_embeddings=False,
    )


def interrupted(suite, *options, where, nth):
    """Start a session in a process of its own, send SIGINT once it waits in the `nth` call of `where`."""
    folder = suite.pytester.path
    reached = folder / "reached"
    (folder / "stop.py").write_text(STOP.format(reached=str(reached), where=where, nth=nth))
    command = [sys.executable, "-m", "pytest", *pytest_arguments(), "-p", "stop", f"--output={suite.output}"]
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "HOME": str(folder)}
    with subprocess.Popen(
        [*command, *suite.material.texts, *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment,
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while not reached.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert reached.exists(), output
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output
    return process.returncode, output


def assert_nothing_is_half_written(suite, cache):
    for folder in (suite.output, cache):
        assert [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".part"))] == []
    for path in suite.output.rglob("*.json"):
        json.loads(path.read_text())
    for path in suite.output.rglob("*.npz"):
        assert set(np.load(path)) == {"calibration", "heldout"}
    for path in suite.output.rglob("report.html"):
        assert path.read_text().rstrip().endswith("</html>")


def test_during_measuring(suite, second, monkeypatch):
    suite.run("-k", "some_layer", "--stages=all")  # the first model's measurements are in the cache
    calls = []
    status, output = interrupted(
        suite,
        *("--model", suite.material.model, "--model", second, "--stages=all"),
        where="fixtures.measuring.model.MethodPass",
        nth=1,
    )
    assert status == pytest.ExitCode.INTERRUPTED
    assert "PARTIAL: the run ended before every claim was judged." in output
    assert "KeyboardInterrupt" in output
    evidence = json.loads((suite.output / "tiny" / "evidence.json").read_text())
    assert evidence["complete"] is False
    assert len(evidence["claims"]) == 4
    assert "<b>Partial.</b>" in (suite.output / "tiny" / "report.html").read_text()
    assert not (suite.output / "second").exists()
    assert_nothing_is_half_written(suite, suite.material.cache)

    # The next run goes on where this one was: the layers are there, the twins' too.
    real = fixtures.measuring.model.measure_layers
    monkeypatch.setattr(
        fixtures.measuring.model, "measure_layers", lambda *given, **options: calls.append(1) or real(*given, **options)
    )
    result = suite.run("-k", "some_layer", model=second)
    assert not calls
    assert "damaged" not in result.stdout.str()
    assert json.loads((suite.output / "second" / "evidence.json").read_text())["complete"] is True


def test_during_judging(suite):
    suite.run("-k", "some_layer")
    status, output = interrupted(suite, "--model", suite.material.model, where="claims.plugin.judge_claim", nth=3)
    assert status == pytest.ExitCode.INTERRUPTED
    assert "PARTIAL" in output
    evidence = json.loads((suite.output / "tiny" / "evidence.json").read_text())
    assert evidence["complete"] is False
    assert len(evidence["claims"]) == 2
    assert (suite.output / "tiny" / "diagnostic.json").is_file()
    assert_nothing_is_half_written(suite, suite.material.cache)
    result = suite.run()
    assert "judged from the cache" in result.stdout.str()
    evidence = json.loads((suite.output / "tiny" / "evidence.json").read_text())
    assert evidence["complete"] is True
    assert len(evidence["claims"]) == 4


def test_before_anything_was_judged_nothing_is_written(suite, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(suite.pytester.path / "cache"))
    monkeypatch.setattr(fixtures.measuring.model, "load_blocks", interrupt)
    result = suite.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert not suite.output.exists()
    assert list((suite.pytester.path / "cache").rglob("*.nc")) == []


def test_before_the_first_verdict(suite, second):
    status, output = interrupted(
        suite, "--model", second, "--refresh", where="fixtures.measuring.model.measure_layers", nth=1
    )
    assert status == pytest.ExitCode.INTERRUPTED
    assert "Interrupted before the first verdict: no report was written." in output
    assert not suite.output.exists()
