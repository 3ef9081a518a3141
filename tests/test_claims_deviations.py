"""The deviations file: what is written can be read, and what cannot be used says why in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from awq_core.judging.evidence import Evidence, Threshold, Verdict
from claims.support.catalogue import every_key, the_suites_own
from claims.support.deviations import CONDITIONS, FOLDER, DeviationsError, read_deviations, write_deviations
from tests.synthetic_claim import synthetic_interval

PROVENANCE: dict[str, Any] = {
    "effort": "quick",
    "dtype": "float32",
    "group_size": 128,
    "seed": 0,
    "calibration_hash": "aa11",
    "heldout_hash": "bb22",
    "traffic_hash": "dd44",
    "weights_hash": 'odd "quoted" \\ value',
    "device": "cpu",
}


def evidence(claim: str, verdict: Verdict, bits: int | None = None, **fields: Any) -> Evidence:
    return Evidence(claim, bits, 1, "g", "words", "source", "structural", ["m"], verdict, **fields)


MEASURED = {
    "estimate": 1.0123,
    "interval": synthetic_interval(1.001, 1.02, 6),
    "threshold": Threshold(1.02),
}
RUN = [
    evidence("payoff.layers", Verdict.REFUTED, 4, **MEASURED),
    evidence("payoff.layers", Verdict.SUPPORTED, 3, **MEASURED),
    evidence("payoff.logits", Verdict.INSUFFICIENT, 4, reason='RTN costs "too little"'),
    evidence("concentration.some-layer", Verdict.INCONCLUSIVE, **MEASURED),
    evidence("replication.verdicts", Verdict.REPORTED),
    evidence("learned.channels", Verdict.NOT_APPLICABLE, reason="no twins"),
]


def written(folder: Path, reasons: dict[str, str] | None = None) -> Path:
    path = folder / "m.toml"
    write_deviations(path, "m", RUN, PROVENANCE, reasons or {})
    return path


def test_a_written_file_is_read_back(tmp_path: Path) -> None:
    written(tmp_path, {"concentration.some-layer": 'by hand: \\ and "quotes"'})
    read = read_deviations("m", tmp_path)
    assert read.conditions == {key: PROVENANCE[key] for key in CONDITIONS}
    assert {key: (entry.verdict, entry.version, entry.reason) for key, entry in read.entries.items()} == {
        "payoff.layers@4": (
            Verdict.REFUTED,
            1,
            "measured 1.012 [1.001, 1.02], and the claim needs above 1.02",
        ),
        "payoff.logits@4": (Verdict.INSUFFICIENT, 1, 'RTN costs "too little"'),
        "concentration.some-layer": (Verdict.INCONCLUSIVE, 1, 'by hand: \\ and "quotes"'),
        "learned.channels": (Verdict.NOT_APPLICABLE, 1, "no twins"),
    }


def test_a_reason_of_several_lines_is_read_back(tmp_path: Path) -> None:
    written(tmp_path, {"payoff.layers@4": "first line\nsecond\tline"})
    assert read_deviations("m", tmp_path).entries["payoff.layers@4"].reason == "first line\nsecond\tline"


def test_a_model_without_a_file_has_nothing_registered(tmp_path: Path) -> None:
    read = read_deviations("unknown", tmp_path)
    assert read.entries == {}
    assert not read.conditions_met(PROVENANCE)
    assert read.unmet(PROVENANCE) == []
    assert read.registration(RUN[0], PROVENANCE) is None


@pytest.mark.parametrize(
    ("item", "matches"),
    [
        (RUN[0], True),
        (evidence("payoff.layers", Verdict.SUPPORTED, 4), False),
        (evidence("payoff.layers", Verdict.INCONCLUSIVE, 4), False),
        (evidence("payoff.layers", Verdict.SUPPORTED, 3), True),  # not listed: registered as supported
        (evidence("payoff.layers", Verdict.REFUTED, 3), False),
        (evidence("concentration.some-layer", Verdict.INCONCLUSIVE), True),
    ],
)
def test_a_verdict_matches_its_registration(tmp_path: Path, item: Evidence, matches: bool) -> None:
    written(tmp_path)
    registered = read_deviations("m", tmp_path).registration(item, PROVENANCE)
    assert registered is not None
    assert registered["matches"] is matches
    assert registered["conditions_met"] is True


def test_another_version_of_a_claim_does_not_match(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("version = 1", "version = 2", 1))
    registered = read_deviations("m", tmp_path).registration(RUN[0], PROVENANCE)
    assert registered is not None
    assert (registered["version"], registered["matches"]) == (2, False)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_another_condition_is_not_the_registered_run(tmp_path: Path, condition: str) -> None:
    written(tmp_path)
    read = read_deviations("m", tmp_path)
    other = PROVENANCE | {condition: "other"}
    assert read.conditions_met(PROVENANCE)
    assert not read.conditions_met(other)
    assert read.unmet(other) == [condition]
    registered = read.registration(RUN[0], other)
    assert registered is not None
    assert registered["conditions_met"] is False


def test_what_is_no_condition_makes_no_difference(tmp_path: Path) -> None:
    written(tmp_path)
    assert read_deviations("m", tmp_path).conditions_met(PROVENANCE | {"device": "cuda"})


HEAD = '[conditions]\neffort = "quick"\n'
ENTRY = '[[verdict]]\nclaim = "payoff.layers"\nbits = 4\nversion = 1\nverdict = "refuted"\nreason = "known"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + ENTRY.replace("payoff.layers", "payoff.layer"), "no claim is called 'payoff.layer@4'; correct the"),
        (HEAD + ENTRY.replace("bits = 4", "bits = 8"), "no claim is called 'payoff.layers@8'"),
        (HEAD + ENTRY.replace("bits = 4\n", ""), "no claim is called 'payoff.layers'"),
        (HEAD + ENTRY + ENTRY, "'payoff.layers@4' is listed twice"),
        (HEAD + ENTRY.replace('"known"', '"  "'), "'payoff.layers@4' has no reason"),
        (HEAD + ENTRY.replace('reason = "known"\n', ""), "'reason'"),
        (HEAD + ENTRY.replace('"refuted"', '"disproved"'), "'disproved' is not a valid Verdict"),
        (ENTRY, "'conditions'"),
        ("[conditions]\n" + ENTRY, "conditions must be some of effort, dtype"),
        (HEAD + 'phase_of_moon = "full"\n' + ENTRY, "conditions must be some of effort, dtype"),
        (HEAD + "verdict = ", "m.toml: "),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(DeviationsError) as caught:
        read_deviations("m", tmp_path, every_key())
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "m.toml"))
    assert "\n" not in str(caught.value)


def test_every_file_in_the_project_can_be_read() -> None:
    for path in FOLDER.glob("*.toml"):
        read = read_deviations(path.stem, known=every_key())
        for key, entry in read.entries.items():
            assert entry.version <= the_suites_own()[entry.claim].version, key
            assert entry.verdict is not Verdict.SUPPORTED, f"{key} is registered as supported by not being listed"
