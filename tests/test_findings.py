"""`docs/findings.md`: numbers from the evidence, words from the explanations, and neither without the other."""

import re
import sys

import pytest

from awq_core.judging.evidence import Verdict
from reports import findings
from reports.explanations import Explanations, FindingsError, read_explanations
from reports.findings import document, refuted_claims
from tests.synthetic_claim import synthetic_claim
from tests.two_runs import write_run

MODEL = {
    "parameters": 1000,
    "revision": "0123abc",
    "effort": "quick",
    "dtype": "float32",
    "device": "cpu",
    "seed": 7,
    "calibration_text": "some text",
    "heldout_text": "other text",
}
LAYERS, HONEST, PROFILE = "payoff.layers@4", "payoff.honest@4", "replication.profile"


def record(name, *claims, complete=True):
    return {"model": {"name": name, **MODEL}, "complete": complete, "claims": list(claims)}


def refuted(name, id="payoff.layers", **fields):
    return synthetic_claim(Verdict.REFUTED, id=id, models=(name,), **fields)


def two_models():
    """Both refute payoff.layers; one alone payoff.honest; the two together replication.profile."""
    pair = synthetic_claim(Verdict.REFUTED, id="replication.profile", bits=None, models=("tiny", "small"))
    return [
        record("tiny", pair, refuted("tiny"), refuted("tiny", "payoff.honest", estimate=0.4, twin_estimate=None)),
        record("small", pair, refuted("small", estimate=0.9), synthetic_claim(id="payoff.honest", models=("small",))),
    ]


def explained():
    return Explanations(
        {(LAYERS, None): "Widths are small.", (HONEST, "tiny"): "It overfits.", (PROFILE, None): "Sites differ."}
    )


def test_refuted_claims_come_in_the_catalogues_order_each_with_its_models():
    assert {entry.key: list(entry.by) for entry in refuted_claims(two_models())} == {
        HONEST: ["tiny"],
        LAYERS: ["tiny", "small"],
        PROFILE: ["tiny and small"],
    }


def test_the_document_has_the_evidence_and_the_words():
    text = document(two_models(), explained(), "python -m reports.findings reports/out/tiny")
    assert text.startswith("# What the models refute\n")
    assert "Of 3 claims, counted once for each precision, 3 came out refuted" in text
    assert "pytest claims --model tiny --model small --effort quick --seed 7\npython -m reports.findings" in text
    assert "| claim | tiny | small |" in text
    assert "| [`payoff.honest@4`](#payoffhonest4) | ✗ | ✓ |" in text
    assert "| [`replication.profile`](#replicationprofile) | ✗ | ✗ |" in text
    section = text[text.index("## payoff.layers@4") : text.index("## replication.profile")]
    assert "> AWQ's output error is smaller than round-to-nearest's." in section
    assert "Source: AWQ paper. Supported if above 1.02 (times smaller)." in section
    assert "**tiny**: 0.7 [0.6, 0.82] over 5 blocks; untrained twin: 1.01.\n" in section
    assert "**small**: 0.9 [0.6, 0.82]" in section
    assert len(re.findall(r"`model\.layers\.\d\.mlp\.down_proj` 0\.9", section)) == 10
    assert section.rstrip().endswith("Widths are small.")
    assert "**tiny and small**: 0.7 [0.6, 0.82]" in text
    own = text[text.index("## payoff.honest@4") : text.index("## payoff.layers@4")]
    assert "**tiny**: 0.4 [0.6, 0.82] over 5 blocks; untrained twin: none to ask.\n" in own
    assert "\nIt overfits." in own


def test_a_refuted_part_is_named():
    claim = refuted("tiny", deciding_part="without block 2")
    text = document([record("tiny", claim)], Explanations({(LAYERS, None): "So it is."}), "")
    assert "**tiny** (without block 2): 0.7 [" in text


def test_a_model_of_another_s_says_where_it_comes_from_and_how_it_is_found():
    one = record("tiny", synthetic_claim(models=("tiny",)))
    one["model"]["kind"] = "folder"
    text = document([one], Explanations({}, {"tiny": "Trained by others."}), "")
    assert "judged on other text. Trained by others.\n" in text
    assert "\nAWQ_CLAIMS_MODELS=FOLDER pytest claims --model tiny" in text


def test_nothing_refuted_is_a_document_too():
    text = document([record("tiny", synthetic_claim(models=("tiny",)))], Explanations({}), "")
    assert "Of 1 claims, counted once for each precision, 0 came out refuted" in text
    assert "## " not in text


@pytest.mark.parametrize(
    ("without", "words", "message"),
    [
        ((HONEST, "tiny"), {}, "'payoff.honest@4' is refuted by tiny and not explained"),
        ((LAYERS, None), {(LAYERS, "tiny"): "A."}, "'payoff.layers@4' is refuted by small and not explained"),
        (None, {("payoff.one-layer@3", None): "A."}, "'payoff.one-layer@3' is explained and not refuted"),
        (None, {(HONEST, "small"): "A."}, "'payoff.honest@4' is explained for small and not refuted there"),
        (None, {(HONEST, None): "It is 40% less."}, "the explanation of 'payoff.honest@4' holds the number '40%'"),
        (None, {(HONEST, None): "At 3 bits, 0.4 is left."}, "holds the number '0.4'"),
    ],
)
def test_words_and_evidence_must_fit_each_other(without, words, message):
    base = {key: text for key, text in explained().words.items() if key != without}
    with pytest.raises(FindingsError, match=re.escape(message)):
        document(two_models(), Explanations(base | words), "")


def test_bit_widths_and_names_may_hold_digits():
    words = "At 3 bits, as 4-bit rounding and `payoff.layers@4` show on gpt2; 3 and 4 bits agree."
    text = document([record("gpt2", refuted("gpt2"))], Explanations({(LAYERS, None): words}), "")
    assert words in text


def test_partial_or_double_evidence_is_refused():
    with pytest.raises(FindingsError, match="the evidence of tiny is partial"):
        document([record("tiny", complete=False)], Explanations({}), "")
    with pytest.raises(FindingsError, match="the evidence of tiny is given twice"):
        document([record("tiny"), record("tiny")], Explanations({}), "")
    with pytest.raises(FindingsError, match="judged in two versions"):
        document([record("tiny", refuted("tiny")), record("small", refuted("small", version=2))], explained(), "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[[explanation]]\nclaim = "a.b"', "an entry lacks 'words'"),
        ('[[explanation]]\nclaim = "a.b"\nwords = " "', "'a.b' is explained in no words"),
        ('[[explanation]]\nclaim = "a.b"\nwords = "A."\nwhy = "B."', "'a.b' has an unknown field 'why'"),
        ('[[explanation]]\nclaim = "a.b"\nwords = "A."\n' * 2, "a.b is explained twice"),
        ('[[explanation]]\nclaim = "a.b"\nmodel = "m"\nwords = "A."\n' * 2, "a.b on m is explained twice"),
        ("[[explanation]", "findings.toml: "),
    ],
)
def test_a_file_of_explanations_that_is_not_valid_is_one_line(tmp_path, content, message):
    path = tmp_path / "findings.toml"
    path.write_text(content)
    with pytest.raises(FindingsError, match=re.escape(message)) as caught:
        read_explanations(path)
    assert "\n" not in str(caught.value)


def test_the_projects_own_explanations_can_be_read():
    assert read_explanations(findings.EXPLANATIONS).words is not None


def test_the_command_writes_and_checks(tmp_path, monkeypatch, capsys):
    output = tmp_path / "tiny"
    text = {"calibration_text": "a", "heldout_text": "b"}
    write_run(output, [refuted("tiny")], name="tiny", parameters=5, revision="r", device="cpu", **text)
    monkeypatch.setattr(findings, "DOCUMENT", tmp_path / "findings.md")
    monkeypatch.setattr(findings, "EXPLANATIONS", tmp_path / "findings.toml")

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["findings", str(output), *arguments])
        findings.main()

    (tmp_path / "findings.toml").write_text("")
    with pytest.raises(SystemExit, match="4"):
        command()
    assert "findings: 'payoff.layers@4' is refuted by tiny and not explained" in capsys.readouterr().err
    (tmp_path / "findings.toml").write_text(f'[[explanation]]\nclaim = "{LAYERS}"\nwords = "So it is."')
    with pytest.raises(SystemExit, match=r"findings.md is not what the evidence says"):
        command("--check")
    command()
    command("--check")
    (tmp_path / "findings.md").write_text((tmp_path / "findings.md").read_text().replace("0.7", "0.8"))
    with pytest.raises(SystemExit, match=r"findings.md is not what the evidence says"):
        command("--check")
    (output / "evidence.json").unlink()
    with pytest.raises(SystemExit, match="4"):
        command()
    assert "evidence.json cannot be read" in capsys.readouterr().err
