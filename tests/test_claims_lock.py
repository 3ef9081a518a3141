"""The lock of the catalogue: it is the one of today's claims, and a change under an old version is noticed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

import claims.lock as lock
from awq_core.judging.evidence import Threshold
from claims.support.catalogue import the_suites_own
from claims.support.claim import Claim

CATALOGUE = the_suites_own()
LAYERS = CATALOGUE["payoff.layers"]


def test_the_lock_file_is_the_catalogue_s() -> None:
    now = lock.lock_of(CATALOGUE)
    assert lock.changed_unversioned(now, lock.read_lock()) == []
    assert lock.rendered(now) == lock.FILE.read_text("utf-8"), f"run {lock.COMMAND}"


def test_the_method_has_every_claim_with_its_bits_and_threshold() -> None:
    text = lock.TABLES.read_text("utf-8")
    assert lock.with_tables(text, CATALOGUE) == text, f"run {lock.COMMAND}"
    rows = [line for line in text.splitlines() if re.match(rf"\| `({'|'.join(map(re.escape, CATALOGUE))})`", line)]
    found = [row for line in rows if (row := lock.ROW.fullmatch(line))]
    assert len(found) == len(rows), "a row that the command does not know is checked by nothing"
    assert sorted(row["id"] for row in found) == sorted(CATALOGUE)


def other_estimate(measured: Any, setting: Any) -> Any:
    return measured.errors["output_error"].mean()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"threshold": Threshold(1.03)}, "above (was 1.02, now 1.03)"),
        ({"threshold": Threshold(upper=1.02)}, "above (was 1.02, now None), below (was None, now 1.02)"),
        ({"threshold": None}, "above (was 1.02, now None)"),
        ({"words": "Something else"}, "words (HASHES)"),
        ({"estimate": other_estimate}, "estimate (HASHES)"),
        ({"unit": "percent"}, "unit (was times smaller (geometric mean), now percent)"),
        ({"bits": (4,)}, "bits (was [4, 3], now [4])"),
        ({"kind": "mechanical"}, "kind (was structural, now mechanical)"),
        ({"level": "model"}, "level (was layer, now model)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_a_change_without_a_raised_version_is_named(changed: dict[str, Any], said: str) -> None:
    locked = lock.lock_of(CATALOGUE)
    (line,) = lock.changed_unversioned(lock.lock_of({LAYERS.id: replace(LAYERS, **changed)}), locked)
    same = "; or, where the estimate is the same, python -m claims.lock --rewritten payoff.layers"
    assert re.sub(r"was \w{16}, now \w{16}", "HASHES", line) == (
        f"payoff.layers has changed and is still version 1: {said}; "
        f"raise the version in its decorator, then run python -m claims.lock{same * said.startswith('estimate')}"
    )
    raised = lock.lock_of({LAYERS.id: replace(LAYERS, version=2, **changed)})
    assert lock.changed_unversioned(raised, locked) == []


def test_an_estimate_that_is_written_otherwise_can_be_said_to_be_the_same() -> None:
    now = lock.lock_of({LAYERS.id: replace(LAYERS, estimate=other_estimate)})
    assert lock.changed_unversioned(now, lock.read_lock(), [LAYERS.id]) == []
    now = lock.lock_of({LAYERS.id: replace(LAYERS, estimate=other_estimate, words="Something else")})
    assert len(lock.changed_unversioned(now, lock.read_lock(), [LAYERS.id])) == 1


def test_what_an_estimate_uses_in_its_file_counts_and_prose_does_not(tmp_path: Any) -> None:
    def hashed(source: str) -> str:
        path = tmp_path / f"test_mine_{len(list(tmp_path.iterdir()))}.py"  # a file is read once
        path.write_text(source)
        namespace: dict[str, Any] = {}
        exec(compile(source, str(path), "exec"), namespace)
        mine: Claim = replace(LAYERS, estimate=namespace["test_mine"])
        return lock.lock_of({"mine": mine})["mine"]["estimate"]

    first = hashed("N = 3\ndef mean(x):\n    return x / N\ndef test_mine(m, s):\n    return mean(m)\n")
    assert hashed("N = 4\ndef mean(x):\n    return x / N\ndef test_mine(m, s):\n    return mean(m)\n") != first
    both = "M, N = 1, {}\ndef test_mine(m, s):\n    return m / N\n"
    assert hashed(both.format(3)) != hashed(both.format(4))
    prose = (
        'N = 3  # three\ndef mean(x):\n    """Mean."""\n    return x / N\n\ndef test_mine(m, s):\n    return mean(m)\n'
    )
    assert hashed(prose) == first


def test_what_an_estimate_uses_of_the_claims_support_counts(tmp_path: Any, monkeypatch: Any) -> None:
    assert "def layers_gain(" in lock._code(LAYERS), "the estimate of payoff.layers is in readers.py"
    assert "@claim" not in lock._code(LAYERS)
    assert "REGISTRY" not in lock._code(LAYERS)
    assert "KURTOSIS_FLOOR = " in lock._code(CATALOGUE["localization.kurtosis"])


def test_a_new_claim_gets_its_row_and_one_that_is_gone_loses_it() -> None:
    text = lock.TABLES.read_text("utf-8")
    new = replace(LAYERS, id="payoff.new", bits=(4,), words="AWQ is new", threshold=Threshold(upper=-0.5))
    added = lock.with_tables(text, CATALOGUE | {new.id: new})
    assert set(added.splitlines()) - set(text.splitlines()) == {
        "| `payoff.new` (4) | AWQ is new | below -0.5 | blocks |"
    }
    assert lock.with_tables(added, CATALOGUE) == text
    with pytest.raises(ValueError, match=r"has no table for novel\.claim; write one under a heading '### novel: '"):
        lock.with_tables(text, CATALOGUE | {"novel.claim": replace(LAYERS, id="novel.claim")})


def test_the_command_refuses_a_change_without_a_raised_version(tmp_path, monkeypatch, capsys) -> None:
    old = lock.FILE.read_text("utf-8").replace("above = 1.02", "above = 1.01", 1)
    monkeypatch.setattr(lock, "FILE", tmp_path / "catalogue.lock")
    lock.FILE.write_text(old)
    monkeypatch.setattr("sys.argv", ["lock"])
    with pytest.raises(SystemExit, match="4"):
        lock.main()
    assert "has changed and is still version 1: above (was 1.01, now 1.02); raise" in capsys.readouterr().err
    assert lock.FILE.read_text() == old
