"""From verdicts to the exit status: registered deviations, changed verdicts, strictness, and measurements that fail."""

import json
import re
import shutil
import tomllib

import pytest
from safetensors.torch import load_file, save_file

from awq_core.judging.evidence import Evidence, Verdict
from claims import register
from claims.support.deviations import write_deviations
from tests.suite_sessions import EVERY_CLAIM, assert_no_traceback, everything


def record(suite, model="tiny"):
    return json.loads((suite.output / model / "evidence.json").read_text())


def verdicts(suite, model="tiny"):
    return {claim["key"]: claim["verdict"] for claim in record(suite, model)["claims"]}


@pytest.fixture
def folder(suite, monkeypatch):
    """A folder of deviations for this test alone."""
    folder = suite.pytester.mkdir("deviations")
    monkeypatch.setattr("claims.support.deviations.FOLDER", folder)
    monkeypatch.setattr("claims.register.FOLDER", folder)
    return folder


@pytest.fixture
def registered(suite, folder):
    """The tiny model's verdicts on concentration, registered; gives the function that registers others instead."""
    suite.run()
    content = record(suite)
    evidence = [Evidence.from_dict(plain) for plain in content["claims"]]
    shutil.rmtree(suite.output)

    def write(conditions=None, **changed):
        altered = [Evidence.from_dict(item.as_dict()) for item in evidence]
        for item in altered:
            item.verdict = changed.get(item.key.split(".")[1].replace("-", "_"), item.verdict)
        write_deviations(folder / "tiny.toml", "tiny", altered, content["model"] | (conditions or {}), {})
        return {item.key: item.verdict.value for item in altered}

    write()
    return write


def test_verdicts_that_nobody_registered_fail(suite):
    result = suite.run()
    assert result.ret == 1
    assert set(verdicts(suite).values()) == {"refuted", "inconclusive"}
    assert_no_traceback(result)
    result.stdout.fnmatch_lines(["concentration.some-layer is refuted on tiny: *", "  estimate * 95% interval *", "*"])
    # The five linears that speak most against it, worst first.
    text = result.stdout.str().split("concentration.some-layer is refuted")[1]
    values = [float(line.split(": ")[1]) for line in text.splitlines()[4:9]]
    assert len(values) == 5
    assert values == sorted(values)


def test_registered_verdicts_do_not_and_still_run(suite, registered):
    result = suite.run()
    assert result.ret == 0
    assert verdicts(suite)["concentration.some-layer"] == "refuted"
    claims = record(suite)["claims"]
    assert all(claim["estimate"] is not None and claim["registered"]["matches"] for claim in claims)
    assert all(claim["registered"]["conditions_met"] for claim in claims)
    result.assert_outcomes(xfailed=2)
    result.stdout.fnmatch_lines(["*2 xfailed, 2 inconclusive*"])


def test_an_expected_failure_gives_its_reason_and_no_traceback(suite, registered):
    result = suite.run("--xfail-tb", "-rx")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["registered: *", "*REFUTED (registered) *some_layer* - registered: *"])
    assert_no_traceback(result)
    assert "Dataset" not in result.stdout.str()


def test_under_runxfail_what_is_registered_fails_like_the_rest(suite, registered):
    result = suite.run("--runxfail")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["concentration.some-layer is refuted on tiny: *"])


@pytest.mark.parametrize("earlier", [Verdict.SUPPORTED, Verdict.INCONCLUSIVE])
def test_a_changed_verdict_fails_under_the_same_conditions(suite, registered, earlier):
    registered(some_layer=earlier)
    result = suite.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [f"concentration.some-layer on tiny: registered as {earlier} (version 1), now refuted (version 1)"]
    )
    assert_no_traceback(result)


def test_a_claim_that_holds_where_it_was_refuted_fails_too(suite, registered):
    # Inconclusive now: as much a change as any.
    registered(typical_layer=Verdict.REFUTED)
    result = suite.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["concentration.typical-layer on tiny: registered as refuted *, now inconclusive *"])


@pytest.mark.parametrize(
    "condition", ["effort", "dtype", "group_size", "calibration_hash", "heldout_hash", "weights_hash", "seed"]
)
def test_under_other_conditions_a_changed_verdict_warns(suite, registered, condition):
    other = 5 if condition == "seed" else "another"
    registered(conditions={condition: other}, some_layer=Verdict.SUPPORTED)
    result = suite.run()
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"  {condition} differ from the registered run: a changed verdict warns *"])
    result.stdout.fnmatch_lines(["*ChangedVerdictWarning: concentration.some-layer on tiny: registered as supported *"])


def test_what_was_registered_for_an_earlier_version_has_changed(suite, registered, folder):
    path = folder / "tiny.toml"
    path.write_text(path.read_text().replace("version = 1", "version = 2"))
    result = suite.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["concentration.some-layer on tiny: registered as refuted (version 2), now refuted *"])


def test_strict_claims_fails_what_is_inconclusive_registered_or_not(suite, registered, folder):
    inconclusive = [key for key, verdict in registered().items() if verdict == "inconclusive"]
    result = suite.run("--strict-claims")
    assert result.ret == 1
    result.assert_outcomes(failed=len(inconclusive), xfailed=2)
    for key in inconclusive:
        result.stdout.fnmatch_lines([f"{key} is inconclusive on tiny: *", "*would decide*"])
    # Under other conditions as well, where the file says supported and the change alone would warn.
    registered(conditions={"effort": "paper"}, typical_layer=Verdict.SUPPORTED, few_large=Verdict.SUPPORTED)
    result = suite.run("--strict-claims")
    assert result.ret == 1
    result.assert_outcomes(failed=len(inconclusive), xfailed=2, warnings=0)


def test_a_run_can_be_registered_and_then_passes(suite, folder, monkeypatch, capsys):
    suite.run(claims=EVERY_CLAIM)
    monkeypatch.setattr("sys.argv", ["register", str(suite.output / "tiny")])
    register.main()
    assert "tiny.toml" in capsys.readouterr().out
    written = tomllib.loads((folder / "tiny.toml").read_text())
    # Of one size alone nothing is registered about two.
    about_one = {verdict for claim, verdict in verdicts(suite).items() if not claim.startswith("replication")}
    assert {entry["verdict"] for entry in written["verdict"]} == about_one - {"supported", "reported"}
    assert not [entry for entry in written["verdict"] if entry["claim"].startswith("replication")]
    result = suite.run(claims=EVERY_CLAIM)
    assert result.ret == 0
    assert "xpassed" not in everything(result)
    assert "registered as" not in everything(result)

    # A reason given by hand stays; a measured one is written anew.
    text = (folder / "tiny.toml").read_text()
    reason = next(e["reason"] for e in written["verdict"] if e["claim"] == "concentration.hockey-stick")
    (folder / "tiny.toml").write_text(text.replace(reason, "it has learned nothing"))
    register.main()
    again = {e["claim"]: e["reason"] for e in tomllib.loads((folder / "tiny.toml").read_text())["verdict"]}
    assert again["concentration.hockey-stick"] == "it has learned nothing"
    assert again["concentration.some-layer"].startswith("measured ")


def test_a_run_of_some_claims_cannot_be_registered(suite, folder, monkeypatch, capsys):
    suite.run("--stages", "all")
    monkeypatch.setattr("sys.argv", ["register", str(suite.output / "tiny")])
    with pytest.raises(SystemExit, match="4"):
        register.main()
    assert re.search(r"lacks \d+ claims, such as bits.awq-degrades@3", capsys.readouterr().err)
    assert not list(folder.iterdir())


@pytest.fixture
def broken(suite):
    """The tiny model with one weight that is not a number."""
    folder = suite.pytester.path / "broken"
    shutil.copytree(suite.material.model, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][5, 7] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_model_that_cannot_be_measured_costs_the_others_nothing(suite, broken):
    result = suite.run("--model", suite.material.model, model=broken)
    assert result.ret == 1
    assert_no_traceback(result)
    line = r"broken cannot be measured: block 2, mlp_out: *"
    lines = [line for line in result.stdout.lines if line.startswith("broken cannot be measured: block 2, mlp_out: ")]
    assert len(lines) == 4  # one for each claim
    assert len(set(lines)) == 1
    result.stdout.fnmatch_lines([line])
    result.stdout.fnmatch_lines(["broken: 4 claims ended in an error and got no verdict."])
    assert record(suite)["complete"] is True
    assert len(record(suite)["claims"]) == 4
    assert record(suite, "broken")["complete"] is False
    assert record(suite, "broken")["claims"] == []
    assert (suite.output / "tiny" / "diagnostic.json").is_file()
    assert not (suite.output / "broken" / "diagnostic.json").exists()
