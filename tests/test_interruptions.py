"""A run that is killed ends, once it is started again, with the evidence of one that was not."""

import json
import os

import pytest

from benchmarks.interruptions import Runs, differences, interrupted, main, without_times
from tests.suite_sessions import ROOT, pytest_arguments

SEED = 10
"""Its first moment lies in the middle of the time: a run is measuring then."""


def test_what_is_a_time_and_what_is_not():
    evidence = {
        "generated": "2026-01-01",
        "model": {"name": "tiny", "seconds": {"layers": 3.0}, "seed": 0},
        "claims": [
            {"id": "gptq.slower", "verdict": "reported", "estimate": 2.0, "readings": {"seconds of GPTQ": 1.0}},
            {"id": "payoff.layers", "estimate": 1.1, "p_value": 0.5},
        ],
    }
    assert without_times(evidence) == {
        "model": {"name": "tiny", "seed": 0},
        "claims": [
            {"id": "gptq.slower", "verdict": "reported"},
            {"id": "payoff.layers", "estimate": 1.1, "p_value": 0.5},
        ],
    }


def test_every_difference_is_named():
    before = {"claims": [{"estimate": 1.5, "interval": [1, 2]}], "answer": "yes"}
    after = {"claims": [{"estimate": 1.25, "interval": [1, 2, 3]}], "more": 0}
    assert list(differences(before, after)) == [
        "claims 0 estimate: 1.25, was 1.5",
        "claims 0 interval: [1, 2, 3], was [1, 2]",
        "answer: None, was yes",
        "more: 0, was None",
    ]
    assert list(differences(before, json.loads(json.dumps(before)))) == []


@pytest.fixture
def runs(suite):
    """Of the tiny model, on two claims that need different stages."""
    folder = suite.pytester.path / "runs"
    folder.mkdir()
    (folder / "undrawn.py").write_text(
        "import reports.output\nreports.output.draw_all = lambda measured, all_measured: {}\n"
    )
    return Runs(
        str(suite.material.model),
        folder,
        pytest_arguments(("claims/test_payoff.py", "claims/test_gptq.py")),
        (*suite.material.texts, "-k", "most_layers or slower or logits", "-p", "undrawn"),
        {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
    )


def test_a_killed_run_ends_with_the_evidence_of_one_that_was_not(runs):
    lines = list(interrupted(runs, kills=1, seed=SEED))
    assert lines[0].startswith("uninterrupted: ")
    assert lines[0].endswith(" s, 5 verdicts")
    assert sum(line.startswith("kill 1 of 1 after ") for line in lines) == 1
    assert not [line for line in lines if line.startswith("DIFFERENT")]
    # What two searches found of four blocks stays, for runs with other windows or claims.
    assert lines[-2].endswith(" 8 blocks kept, 0 files half written")
    assert lines[-1] == "evidence.json and diagnostic.json are those of the uninterrupted run"


def test_a_run_that_cannot_be_made_says_why(capsys):
    with pytest.raises(SystemExit, match="4"):
        main(["no-such-model", "--kills", "1"])
    assert "a run ended with exit status 4:" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["embedded-tiny", "--kills", "0"])
