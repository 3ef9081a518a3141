"""`python -m reports.compare`: rows, references, marks, pages, exit status, and errors in one line."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from awq_core.judging.evidence import Threshold, Verdict
from reports.compare.__main__ import main
from reports.compare.inputs import read_runs
from reports.compare.runs import compare_runs
from tests.synthetic_claim import synthetic_claim
from tests.two_runs import PROVENANCE, around, write_run


def claim(value, half=0.1, **fields):
    return synthetic_claim(**{**around(value, half), **fields})


@pytest.fixture
def nights(tmp_path):
    """Two nights of one model: one claim moved, one drifted, one is gone, one new, one as it was."""
    first = write_run(
        tmp_path / "first",
        [
            claim(1.3),
            claim(1.2, id="payoff.most-layers"),
            claim(1.3, id="bits.gone"),
            claim(1.3, id="concentration.same", bits=None),
        ],
    )
    second = write_run(
        tmp_path / "second",
        [
            claim(1.9),
            claim(1.1, id="payoff.most-layers", verdict=Verdict.INCONCLUSIVE),
            claim(1.3, id="gptq.new"),
            claim(1.31, id="concentration.same", bits=None),
        ],
        heldout_hash="dd" * 32,
    )
    return first, second


def row(text, key):
    return next(line for line in text.splitlines() if line.startswith(f"| `{key}` |") and "[" in line)


def test_the_table_has_a_row_for_each_claim_in_the_catalogues_order(nights, capsys):
    assert main([str(path) for path in nights]) == 0
    text = capsys.readouterr().out
    keys = re.findall(r"^\| `([^`]+)` \|", text.partition("## Every claim")[2], re.MULTILINE)
    assert keys == ["concentration.same", "payoff.layers@4", "payoff.most-layers@4", "bits.gone@4", "gptq.new@4"]
    assert "| claim | supported if | A: synthetic-small | B: synthetic-small |" in text
    every = text.partition("## Every claim")[2]
    assert row(every, "payoff.layers@4").endswith("| ✓ 1.3 [1.2, 1.4] | ✓ 1.9 [1.8, 2] **▲ estimate beyond noise** |")
    assert row(every, "payoff.most-layers@4").endswith("? 1.1 [1, 1.2] **≈ drift, within noise** |")
    assert row(every, "bits.gone@4").endswith("| ✓ 1.3 [1.2, 1.4] | **− removed** |")
    assert row(every, "gptq.new@4").endswith("|  | ✓ 1.3 [1.2, 1.4] **+ new** |")
    assert "**" not in row(every, "concentration.same")
    assert "B against A, the same model: 3 claims of 5 changed, 1 drift within noise. " in text
    assert "The runs differ in held-out tokens." in text
    assert "Of 3 estimates compared 1 moved beyond noise" in text
    assert "1.3 → 1.9 (difference 0.6, noise up to 0.1709)" in text


def test_the_exit_status_tells_a_change_only_when_asked(nights, tmp_path, capsys):
    first, second = map(str, nights)
    assert main([first, second]) == 0
    assert main([first, second, "--fail-on-change"]) == 1
    assert main([first, first, "--fail-on-change"]) == 0
    drifted = write_run(tmp_path / "drifted", [claim(1.1, verdict=Verdict.INCONCLUSIVE)])
    steady = write_run(tmp_path / "steady", [claim(1.2)])
    assert main([str(steady), str(drifted), "--fail-on-change"]) == 0
    moved = write_run(tmp_path / "moved", [claim(1.2, threshold=Threshold(lower=1.05))])
    capsys.readouterr()
    assert main([str(steady), str(moved), "--fail-on-change"]) == 1
    text = capsys.readouterr().out
    assert "**▲ threshold moved**" in text
    assert "A: above 1.02; B: above 1.05" in text


def test_each_run_is_compared_with_the_first_of_its_model(tmp_path):
    paths = [
        write_run(tmp_path / "a", [claim(1.3)]),
        write_run(tmp_path / "b", [claim(0.7, verdict=Verdict.REFUTED)], name="other", weights_hash="ee"),
        write_run(tmp_path / "c", [claim(1.9)]),
        write_run(tmp_path / "d", [claim(0.71, verdict=Verdict.REFUTED)], name="other", weights_hash="ee"),
        write_run(tmp_path / "e", [claim(1.9)], weights_hash="ff"),
    ]
    comparison = compare_runs(read_runs(paths))
    assert comparison.references == (None, 0, 0, 1, 0)
    marks = [[kind.value for kind in found.kinds] if found else [] for found in comparison.rows[0].changes]
    assert marks == [[], ["verdict differs"], ["estimate beyond noise"], [], []]
    assert comparison.sentence(1) == (
        "B against A, another model: the verdicts agree on 0 of 1 claim judged on both (0%)."
    )
    assert comparison.sentence(4).startswith("E against A, other weights under the same name: the verdicts agree on 1")


def test_on_the_same_tokens_any_movement_is_counted(tmp_path):
    paths = [
        write_run(tmp_path / "a", [claim(1.3), claim(1.3, id="payoff.honest")]),
        write_run(tmp_path / "b", [claim(1.301), claim(1.3 + 1e-9, id="payoff.honest")]),
    ]
    comparison = compare_runs(read_runs(paths))
    assert not comparison.flagged
    assert comparison.sentence(1) == (
        "B against A, the same model: none of 2 claims changed. Settings, instruments and versions are the same. "
        "On the same tokens 1 estimate moved at all. Of 2 estimates compared none moved beyond noise."
    )


def test_models_alone_never_fail_on_change(tmp_path):
    one = write_run(tmp_path / "a", [claim(1.3)])
    two = write_run(tmp_path / "b", [claim(0.3, verdict=Verdict.REFUTED)], name="other", weights_hash="ee")
    assert main([str(one), str(two), "--fail-on-change"]) == 0


def test_a_claim_judged_on_several_pairs_has_a_row_for_each(tmp_path):
    pairs = [claim(value, models=pair, bits=None) for value, pair in ((1.3, ("t", "s")), (1.4, ("s", "l")))]
    comparison = compare_runs(read_runs([write_run(tmp_path / "a", pairs), write_run(tmp_path / "b", pairs[:1])]))
    assert [found.name for found in comparison.rows] == ["payoff.layers (s, l)", "payoff.layers (t, s)"]


def test_the_markdown_file_takes_the_place_of_the_terminal(nights, tmp_path, capsys):
    first, second = map(str, nights)
    main([first, second])
    shown = capsys.readouterr().out
    main([first, second, "--markdown", str(tmp_path / "deep" / "table.md")])
    assert capsys.readouterr().out == ""
    assert (tmp_path / "deep" / "table.md").read_text("utf-8") == shown


class Page(HTMLParser):
    """What a page holds: tags with their attributes, and whether every tag that opens closes."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_self_contained_and_accessible(nights, tmp_path):
    path = tmp_path / "page.html"
    main([*map(str, nights), "--html", str(path), "--markdown", str(tmp_path / "x.md")])
    text = path.read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert all(attributes.get("scope") in ("col", "row", "rowgroup") for tag, attributes in page.tags if tag == "th")
    assert sum(tag == "caption" for tag, _ in page.tags) == sum(tag == "table" for tag, _ in page.tags) == 3
    assert not any(tag in ("script", "link", "iframe") for tag, _ in page.tags)
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import""", text)
    assert "width=device-width" in text
    assert '<html lang="en">' in text
    # A symbol and a word stand beside every colour.
    assert '<span class="mark changed">▲ estimate beyond noise</span>' in text
    assert '<span aria-hidden="true">✓</span> supported' in text


def test_marks_keep_contrast():
    css = (Path(__file__).parent.parent / "reports" / "html" / "templates" / "compare.css").read_text("utf-8")
    pairs = re.findall(r"\.mark\.\w+ \{ color: (#\w{6}); background: (#\w{6});", css)
    assert len(pairs) == 3

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ink, paper in pairs:
        assert (luminance(paper) + 0.05) / (luminance(ink) + 0.05) >= 4.5


def test_what_a_file_says_is_escaped(tmp_path):
    one = write_run(tmp_path / "a", [claim(1.3, id="payoff.<b>|x")], name="<i>|m")
    path, table = tmp_path / "page.html", tmp_path / "table.md"
    main([str(one), str(one), "--html", str(path), "--markdown", str(table)])
    assert "<b>" not in path.read_text("utf-8")
    assert "<i>" not in path.read_text("utf-8")
    lines = [line for line in table.read_text("utf-8").splitlines() if "payoff." in line]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in lines)


def broken(tmp_path, kind):
    good = write_run(tmp_path / "good", [claim(1.3)])
    path = tmp_path / "bad"
    if kind == "missing":
        return good, path
    write_run(path, [claim(1.3)], complete=kind != "partial")
    file = path / "evidence.json"
    content = json.loads(file.read_text("utf-8"))
    if kind == "no folder's file":
        file.unlink()
    elif kind == "no json":
        file.write_text("{", "utf-8")
    elif kind == "binary":
        file.write_bytes(b"\xff\xfe\x00")
    elif kind == "schema":
        file.write_text(json.dumps({**content, "schema_version": 3}), "utf-8")
    elif kind == "no claims":
        file.write_text(json.dumps({**content, "claims": None}), "utf-8")
    elif kind == "a claim without a verdict":
        del content["claims"][0]["verdict"]
        file.write_text(json.dumps(content), "utf-8")
    elif kind == "an unknown verdict":
        content["claims"][0]["verdict"] = "perhaps"
        file.write_text(json.dumps(content), "utf-8")
    elif kind == "words for a number":
        content["claims"][0]["estimate"] = "big"
        file.write_text(json.dumps(content), "utf-8")
    return good, path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "there is no "),
        ("no folder's file", "there is no "),
        ("no json", "is not an evidence file: Expecting property name"),
        ("binary", "is not an evidence file: "),
        ("schema", "has schema version 3; this version of the suite reads 1 and 2"),
        ("partial", "is partial: the run ended before every claim was judged"),
        ("no claims", "is not an evidence file: it has no list of claims"),
        ("a claim without a verdict", "claim payoff.layers@4 has no verdict"),
        ("an unknown verdict", "claim payoff.layers@4 has the unknown verdict 'perhaps'"),
        ("words for a number", "claim payoff.layers@4 has an estimate or an interval that is no number"),
    ],
)
def test_a_file_that_cannot_be_compared_is_one_line_and_status_4(tmp_path, capsys, kind, message):
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit) as left:
        main([*map(str, broken(tmp_path, kind)), "--html", str(page)])
    assert left.value.code == 4
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err
    assert not page.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["one"], "a comparison needs at least two runs; python -m reports.summary sums up one"),
        (["one", "two", "--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_4(arguments, message, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 4
    assert capsys.readouterr().err == f"python -m reports.compare: {message}\n"


def test_a_place_that_cannot_be_written_is_one_line(nights, tmp_path, capsys):
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(SystemExit) as left:
        main([*map(str, nights), "--html", str(tmp_path / "file" / "page.html")])
    assert left.value.code == 4
    assert "cannot be written" in capsys.readouterr().err


def test_help_says_what_counts_as_a_change(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for part in (
        "Welch's test of the difference at 99%",
        "drift, within\nnoise",
        "threshold",
        "--fail-on-change",
        "Exit status",
    ):
        assert part in text


def test_a_control_without_a_hash_is_the_same_model_under_another_seed(tmp_path):
    hashless = {**dict.fromkeys(PROVENANCE), "seed": 1}
    paths = [
        write_run(tmp_path / "a", [claim(1.3)], name="null-control", **{**hashless, "seed": 0}),
        write_run(tmp_path / "b", [claim(1.3)], name="null-control", **hashless),
    ]
    comparison = compare_runs(read_runs(paths))
    assert comparison.same_model(1)
    assert "The runs differ in seed." in comparison.sentence(1)
