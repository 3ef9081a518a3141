"""Evidence crosses process boundaries whole, and files of schema 1 are read as far as they know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from awq_core.judging.evidence import (
    Contrary,
    Evidence,
    Interval,
    Judgement,
    Ranking,
    Scale,
    Threshold,
    Verdict,
)
from reports import findings, results_table, summary
from reports.compare.__main__ import main as compare
from reports.evidence_file import json_bytes, read_evidence
from tests.schema_1 import CLAIMS, claim, interval, write_schema_1

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SPREADS = st.floats(0, 1e9)
NAMES = st.text(max_size=8)
READINGS = st.dictionaries(NAMES, NUMBERS | NAMES, max_size=3)


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    lower, upper = sorted([draw(NUMBERS), draw(NUMBERS)])
    return Interval(
        lower,
        upper,
        draw(NAMES),
        draw(NAMES),
        draw(st.integers(1, 200)),
        draw(st.none() | st.integers(0, 2**32 - 1)),
        draw(st.integers(1, 4)),
        draw(st.floats(0.9, 1)),
        draw(st.integers(1, 4)),
        standard_error=draw(SPREADS),
        degrees_of_freedom=draw(SPREADS),
        scale=draw(st.sampled_from(Scale)),
        exact=draw(st.booleans()),
    )


JUDGEMENTS = st.builds(
    Judgement, verdict=st.sampled_from(Verdict), estimate=st.none() | NUMBERS, interval=st.none() | intervals(),
    reason=NAMES,
)  # fmt: skip
EVIDENCE = st.builds(
    Evidence,
    bits=st.none() | st.integers(2, 8),
    models=st.lists(NAMES, min_size=1, max_size=2),
    verdict=st.sampled_from(Verdict),
    estimate=st.none() | NUMBERS,
    interval=st.none() | intervals(),
    threshold=st.none() | st.builds(Threshold, NUMBERS, st.none() | NUMBERS) | st.builds(Threshold, st.none(), NUMBERS),
    p_value=st.none() | st.floats(0, 1),
    linear=st.none() | NAMES,
    parts=st.dictionaries(NAMES, JUDGEMENTS, max_size=2),
    deciding_part=st.none() | NAMES,
    variants=st.dictionaries(NAMES, JUDGEMENTS, max_size=2),
    twin_estimate=st.none() | NUMBERS,
    contrary=st.lists(st.builds(Contrary, NAMES, NUMBERS), max_size=2),
    ranking=st.sampled_from(Ranking),
    registered=st.none() | READINGS,
    survives_holm=st.none() | st.booleans(),
    readings=READINGS,
)


def kinds(plain: Any) -> set[type]:
    """The types of all values, however deep."""
    if isinstance(plain, dict | list):
        return {type(plain)}.union(*map(kinds, plain.values() if isinstance(plain, dict) else plain))
    return {type(plain)}


@given(EVIDENCE)
def test_evidence_survives_its_record(evidence: Evidence) -> None:
    plain = evidence.as_dict()
    # What a test report carries to another process: an enumeration's member would not arrive.
    assert kinds(plain) <= {dict, list, str, int, float, bool, type(None)}
    assert Evidence.from_dict(json.loads(json_bytes(plain))) == evidence


def read(folder: Path, claims: list[dict[str, Any]] = CLAIMS) -> dict[str, dict[str, Any]]:
    record = read_evidence(write_schema_1(folder, claims) / "evidence.json")
    assert record["schema_version"] == 2
    return {item["key"]: item for item in record["claims"]}


def test_a_file_of_schema_1_is_read_as_evidence(tmp_path: Path) -> None:
    claims = read(tmp_path)
    assert list(claims) == [item["key"] for item in CLAIMS]
    for old in CLAIMS:
        new = claims[old["key"]]
        assert Evidence.from_dict(new).as_dict() == new
        assert {name: new[name] for name in old.keys() - {"details", "interval"}} == {
            name: old[name] for name in old.keys() - {"details", "interval"}
        }
        assert new["p_value"] == old["details"].get("p_value")
        if old["interval"]:
            assert old["interval"].items() <= new["interval"].items()


def test_what_schema_1_said_in_words_has_fields(tmp_path: Path) -> None:
    claims = read(tmp_path)
    perplexity = claims["payoff.perplexity@4"]
    assert perplexity["readings"] == {"gap of RTN": 0.0748700159207334}
    assert (perplexity["interval"]["look"], perplexity["ranking"]) == (4, "those that AWQ helps least")
    clipping = perplexity["variants"]["with clipping"]
    assert (clipping["verdict"], clipping["estimate"]) == ("inconclusive", 0.01255)
    assert [clipping["interval"][name] for name in ("lower", "upper", "n")] == [0.004166, 0.02093, 128]

    layer = claims["payoff.one-layer@3"]
    assert (layer["linear"], layer["ranking"]) == ("model.layers.2.self_attn.v_proj", "what speaks most against it")
    assert layer["variants"]["sym-channel at 3 bits"] == {
        "verdict": "reported", "estimate": 1.1567043819140959, "interval": None, "reason": "",
    }  # fmt: skip

    traffic = claims["calibration.every-traffic@3"]
    assert traffic["deciding_part"] == "code"
    assert {name: (part["estimate"], part["verdict"]) for name, part in traffic["parts"].items()} == {
        "prose": (1.029, "inconclusive"), "code": (1.022, "inconclusive"),
    }  # fmt: skip
    lacking = traffic["variants"]["sym-channel at 3 bits"]
    assert (lacking["verdict"], lacking["reason"]) == ("not applicable", "measured under asym-g128 alone")
    assert traffic["readings"] == {}


def test_standard_errors_of_schema_1_are_rebuilt_from_the_intervals(tmp_path: Path) -> None:
    intervals = {key: item["interval"] for key, item in read(tmp_path).items()}
    looked = intervals["payoff.perplexity@4"]
    half = (looked["upper"] - looked["lower"]) / 2
    assert looked["standard_error"] == pytest.approx(half / stats.t.ppf(0.5 + 0.9875 / 2, 127))
    assert (looked["degrees_of_freedom"], looked["scale"], looked["exact"]) == (127, "linear", False)
    assert intervals["payoff.one-layer@3"]["scale"] == intervals["calibration.every-traffic@3"]["scale"] == "logarithm"
    # A share cannot be under 0: the interval was cut off there, and its longer half counts.
    share = intervals["concentration.few-large"]
    assert share["standard_error"] == pytest.approx((share["upper"] - 0.0017857142857142857) / stats.t.ppf(0.975, 4))
    exact = intervals["bits.four-times-smaller@4"]
    assert (exact["exact"], exact["standard_error"], exact["degrees_of_freedom"]) == (True, 0, 0)
    assert intervals["gptq.slower"] is None


def test_every_reader_reads_schema_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_schema_1(tmp_path / "embedded-tiny", CLAIMS)
    assert compare([str(folder), str(folder), "--fail-on-change"]) == 0
    assert "none of 6 claims changed" in capsys.readouterr().out
    assert summary.main([str(folder)]) == 0
    assert "Another 1 claim is exact" in capsys.readouterr().out
    record = read_evidence(folder / "evidence.json")
    assert [entry.key for entry in findings.refuted_claims([record])] == ["payoff.one-layer@3"]
    assert "1.151 [1.14, 1.163]" in results_table.full_table([record])


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [{"key": "payoff.layers@4"}],
        [claim("payoff.layers", 4, "supported", 1.3, details={"with clipping": "better"})],
        [claim("a.b", None, "supported", 1.3, interval=interval(1, 2, "blocks", 5, "t") | {"n": "five"})],
    ],
)
def test_what_is_not_of_schema_1_is_refused_in_one_line(tmp_path: Path, broken: Any) -> None:
    with pytest.raises(ValueError, match="is not an evidence file: its claims are not of schema 1") as refused:
        read(tmp_path, broken)
    assert "\n" not in str(refused.value)
