"""Published numbers beside ours: our readings, what is comparable, and what the reports show."""

import dataclasses
import json
import math
import re
import shutil

import numpy as np
import pytest

from awq_core.measure.layers.mechanism import FACTORS
from awq_core.measure.methods.table import RANDOM_CHOICES
from claims.support.claim import NotApplicableError
from claims.support.published import published_for, read_published
from claims.support.published_readings import READINGS
from reports.html.environment import macro
from reports.published import sentence
from tests import reporting_sessions
from tests.hand_made import hand_made, set_channel, set_errors, set_losses, set_site
from tests.reporting_sessions import evidence, page
from tests.suite_sessions import assert_no_traceback, everything


def like(name, *, windows=128, length=2048, text="WikiText-2 test", losses=None, identity=None):
    """Measurements under a name, with held-out tokens of a shape and everything measured that a reading asks for."""
    measured = hand_made()
    for strategy, loss in (losses or {}).items():
        set_losses(measured, strategy, loss)
    measured.errors["step_changed"][:] = (np.array(FACTORS) - 1) / 10
    measured.errors["step_ratio"][:] = np.array(FACTORS)
    return dataclasses.replace(
        measured,
        name=name,
        tokens={split: np.zeros((windows, length), dtype=np.int64) for split in ("calibration", "heldout")},
        provenance={**measured.provenance, "heldout_text": text, "id": identity or name},
    )


def varied(measured):
    """The same with errors and weights that differ from linear to linear."""
    rng = np.random.default_rng(5)
    errors, channels = measured.errors, measured.channels
    noise = np.exp(rng.normal(0, 0.3, errors["output_error"].shape))
    return dataclasses.replace(
        measured,
        errors=errors.assign(output_error=errors["output_error"] * noise),
        channels=channels.assign(
            weight_size=channels["weight_size"] * rng.uniform(1, 9, channels["weight_size"].shape)
        ),
    )


def of(values, quantity, source=""):
    (value,) = [v for v in values if v.theirs.quantity == quantity and source in v.theirs.source]
    return value


def test_every_reading_is_used_and_every_one_gives_a_number():
    assert {n.reading for n in read_published().numbers if n.reading} == set(READINGS)
    measured = varied(like("qwen0.5b"))
    found = {name: reading(measured) for name, reading in READINGS.items()}
    assert all(math.isfinite(value.value) for value in found.values())
    assert [name for name, value in found.items() if value.place] == [
        "largest-top-share",
        "largest-kurtosis",
        "largest-reduction",
    ]


def test_readings_are_what_their_names_say():
    measured = like("qwen0.5b", losses={"awq-block-3": 3.0, "keep-random0-3": 3.0})
    set_channel(measured, "magnitude", 1, "attention_out", 3, 37.0)  # of 64 channels: 37 / (37 + 63)
    set_channel(measured, "magnitude", 1, "attention_out", 3, 9.0, split="heldout")  # not what is read
    set_site(measured, "excess_kurtosis", "mlp_out", [1.0, 2.0, 3.0, 10.0])
    at = {"quantizer": "sym-channel", "bits": 3, "alpha": 0.25, "split": "calibration"}
    set_errors(measured, 0.5, families=("down",), block=0, **at)
    set_errors(measured, 0.2, families=("down",), block=1, **at)
    set_errors(measured, 0.01, families=("q",), quantizer="sym-channel", bits=8, alpha=0.0)

    def read(name):
        return READINGS[name](measured).value

    assert read("largest-top-share") == pytest.approx(37.0)
    assert READINGS["largest-top-share"](measured).place == "1.o"
    assert read("mean-top-share-o") == pytest.approx((37 + 3 * 100 / 64) / 4)
    assert READINGS["largest-kurtosis"](measured).place == "3.down"
    assert read("mean-kurtosis-down") == pytest.approx(4.0)
    assert read("mean-kurtosis-qkv") == 0.0
    assert read("mean-reduction-down") == pytest.approx((2 + 5 + 1 + 1) / 4)
    assert read("median-reduction-down") == pytest.approx(1.5)
    assert read("largest-reduction") == pytest.approx(5.0)
    assert read("median-error-8") == 1.0
    assert read("median-best-alpha") == 0.0
    assert read("constant-alpha") == 0.25
    assert read("constant-alpha-asym-g128-3") == 0.0
    assert read("sd-best-alpha") == pytest.approx(np.std([0.25, 0.25] + [0.0] * 26))
    assert read("perplexity-awq-block-3") == pytest.approx(math.exp(3))
    assert read("perplexity-keep-random-3") == pytest.approx((8 * math.exp(2) + math.exp(3)) / RANDOM_CHOICES)
    assert read("steps-changed-2") == pytest.approx(10.0)
    assert read("step-ratio-1.25") == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("reading", "measured", "message"),
    [
        ("mean-reduction-gate", lambda: _without_gate(), "no linears of family gate"),
        ("perplexity-full", lambda: dataclasses.replace(hand_made(), losses=None), "the loss of full was not measured"),
        ("best-alpha-with-top-share", lambda: hand_made(), "all linears are alike"),
    ],
)
def test_a_reading_that_was_not_measured_says_so(reading, measured, message):
    with pytest.raises(NotApplicableError, match=message):
        READINGS[reading](measured())


def _without_gate():
    measured = hand_made()
    families = measured.errors["linear_family"].values.astype("<U8")
    families[families == "gate"] = "fc1"
    return dataclasses.replace(measured, errors=measured.errors.assign_coords(linear_family=("linear", families)))


def test_ours_stands_beside_theirs():
    losses = {"full": math.log(13.3), "rtn-3": math.log(90.0)}
    values = published_for(like("qwen0.5b", losses=losses))
    assert [value.theirs for value in values] == [n for n in read_published().numbers if n.model == "Qwen2.5-0.5B"]
    full = of(values, "full precision")
    assert (full.ours, full.agrees, full.not_comparable) == (pytest.approx(13.3), True, "")
    assert of(values, "RTN, 3 bits").agrees is False
    kurtosis = of(values, "largest layer-mean excess kurtosis")
    assert (kurtosis.theirs.place, kurtosis.our_place) == ("layers.16.self_attn.o_proj", "0.q")
    plain = json.loads(json.dumps(full.as_dict()))
    assert plain["value"] == 13.12
    assert plain["tolerance"] == {"absolute": None, "relative": 0.05, "text": "within 5%"}
    assert plain["agrees"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "mine.txt"}, "measured on mine.txt, theirs on WikiText-2 test"),
        ({"windows": 64, "length": 512}, "measured in windows of 512 tokens, theirs of 2048"),
        ({"windows": 16}, "measured on 32,768 tokens of the text, and 81,920 are needed"),
    ],
)
def test_a_perplexity_on_another_text_or_at_another_effort_is_not_comparable(change, message):
    values = published_for(like("qwen0.5b", **change))
    value = of(values, "RTN, 4 bits")
    assert (value.ours, value.agrees) == (None, None)
    assert value.not_comparable.startswith(message)
    assert of(values, "mean error reduction, q").agrees is not None


def test_what_the_suite_does_not_measure_says_why():
    values = published_for(like("opt-1.3b"))
    assert of(values, "3% kept by weight").not_comparable == "the suite keeps 1%"
    assert of(values, "1% kept by weight").ours == pytest.approx(math.exp(2))


def test_a_nan_in_the_measurements_costs_a_comparison_and_nothing_more():
    measured = like("qwen0.5b", losses={"full": math.nan})
    set_errors(measured, math.nan, families=("q",), block=0, quantizer="sym-channel", bits=3, alpha=0.5)
    values = published_for(measured)
    assert of(values, "full precision").not_comparable == "ours came out as nan"
    assert of(values, "mean error reduction, q").not_comparable == "an output error in the measurements is NaN"
    assert of(values, "RTN, 4 bits").ours is not None


def test_a_model_is_known_by_its_alias_its_repository_or_its_own_name():
    for name, identity in (("qwen0.5b", None), ("a-folder", "Qwen/Qwen2.5-0.5B"), ("Qwen2.5-0.5B", None)):
        assert len(published_for(like(name, identity=identity))) == 49
    assert published_for(hand_made()) == []


def section(name, published):
    return macro("published.jinja2", "section", name, published)


def test_the_sentence_and_the_section_say_how_many_agree():
    published = [value.as_dict() for value in published_for(like("opt-125m", losses={"full": math.log(27.6)}))]
    assert sentence("opt-125m", published) == (
        "opt-125m: ours agree with 1 of 4 comparable published numbers, within tolerances registered in advance."
    )
    text = section("<opt>", published)
    assert "<opt>" not in text
    assert text.count("<tr><td") == 4
    assert "Theirs: FP16; WikiText-2 test, non-overlapping windows of 2048 tokens, all of them." in text
    published = [value.as_dict() for value in published_for(like("opt-125m", text="other"))]
    assert sentence("m", published) == "m: others have published 4 of its numbers; none is comparable with ours."
    assert text.count("not comparable:") == 0
    assert section("m", published).count("not comparable: measured on other, theirs on WikiText-2 test") == 4
    assert sentence("m", []) == section("m", []) == ""


MODELS = '["qwen0.5b", "synthetic-small"]'
CONFTEST = (
    reporting_sessions.CONFTEST.replace('["synthetic-small", "synthetic-tiny"]', MODELS).replace(
        "MEASURED = []", f"MEASURED = [lifelike(name, blocks=2, twins=0) for name in {MODELS}]"
    )
    + """
from claims.support.published import published_for

def pytest_claims_published(measured):
    return [value.as_dict() for value in published_for(measured)]
"""
)


def test_the_reports_show_them_for_such_a_model_and_for_no_other(session, pytester, monkeypatch):
    monkeypatch.setattr("reports.output.draw_all", lambda measured, all_measured: {})
    source = "def test_a(judge): judge(models=('qwen0.5b',))\ndef test_b(judge): judge(models=('synthetic-small',))"
    result = session(source, conftest=CONFTEST)
    assert result.ret == 0
    lines = [line for line in result.outlines if "published numbers" in line]
    assert len(lines) == 1
    assert re.match(r"qwen0\.5b: ours agree with \d+ of 38 comparable published numbers", lines[0])

    written = page(pytester, "qwen0.5b")
    assert written.index('id="claims"') < written.index('id="published"') < written.index('id="provenance"')
    assert 'id="published"' not in page(pytester)
    published = evidence(pytester, "qwen0.5b")["published"]
    assert len(published) == 49
    assert {"quantity", "value", "ours", "agrees", "definition", "differs", "not_comparable"} <= published[0].keys()
    assert evidence(pytester)["published"] == []


def test_the_claims_answer_the_reports_question(suite):
    folder = suite.pytester.path / "Llama-2-7B"
    shutil.copytree(suite.material.model, folder)
    result = suite.run(model=folder)
    result.stdout.fnmatch_lines(["Llama-2-7B: others have published 7 of its numbers; none is comparable with ours."])
    assert 'id="published"' in (suite.output / "Llama-2-7B" / "report.html").read_text("utf-8")


def test_a_file_that_cannot_be_used_ends_the_run_before_anything_is_measured(suite, tmp_path, monkeypatch):
    monkeypatch.setattr("claims.support.published.FILE", tmp_path / "published.toml")
    (tmp_path / "published.toml").write_text("[models")
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "published.toml: " in everything(result)
    assert_no_traceback(result)
