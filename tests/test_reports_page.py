"""The HTML report's page: what a reader can tell without colour, filter by, repeat, and read."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

import reports
from awq_core.judging.evidence import WITH_CLIPPING, Contrary, Judgement, Ranking, Threshold, Verdict
from claims.support.readers import exactly
from reports.answer import Answer
from reports.figures.canvas import Drawing
from reports.html.claim import meaning
from reports.html.environment import macro
from reports.html.number_line import WIDTH
from reports.html.pictures import DRAWN_BY, STANDS_IN
from reports.html.report import Report
from reports.html.run import Phase, Repeat, quoted
from reports.nightly.night import Entry, index_page
from reports.verdict_words import APPEARANCES, CATALOGUE, MEANINGS, QUESTIONS
from tests.hand_made import lifelike
from tests.reporting_sessions import rows
from tests.synthetic_claim import synthetic_claim, synthetic_interval

TEMPLATES = Path(reports.__file__).parent / "html" / "templates"
STYLE = "".join((TEMPLATES / name).read_text("utf-8") for name in ("verdicts.css", "report.css"))
SCRIPT = (TEMPLATES / "report.js").read_text("utf-8")


def config(**given):
    return SimpleNamespace(
        getoption=lambda name, default=None: given.get(name.strip("-").replace("-", "_"), default),
        args=given.get("args", ["claims"]),
        invocation_params=SimpleNamespace(dir=Path(reports.__file__).parents[1]),
    )


def phase(claim, node="claims/test_x.py::test_0[4-bit]", **fields):
    made = Phase(
        node=node,
        file=node.partition("::")[0],
        name=node,
        outcome="passed",
        seconds=1.5,
        claim=claim,
        account="",
        output="",
    )
    return replace(made, **fields)


def report_on(claims, drawings=None, **fields):
    made = Report(
        model="synthetic-small",
        answer=Answer("It is worth it."),
        claims=claims,
        beside={},
        drawings=drawings or {},
        measured=None,
        complete=True,
        phases=[phase(claim, f"claims/test_x.py::test_{n}[4-bit]") for n, claim in enumerate(claims)],
        repeat=Repeat(config(), ["synthetic-small"], {}),
    )
    return replace(made, **fields)


def sections(*arguments, **fields):
    """The sections of a page by their ids; a group's is part of that of the claims."""
    text = report_on(*arguments, **fields).html().decode()
    found = re.split(r'<section id="(\w+)"', text)
    return dict(zip(found[1::2], found[2::2], strict=True))


def every_verdict():
    return [synthetic_claim(verdict, id=f"payoff.{slug(verdict)}") for verdict in Verdict]


def slug(verdict):
    return verdict.replace(" ", "-")


def test_the_grid_has_a_symbol_and_a_word_for_every_verdict():
    text = sections(every_verdict())["verdicts"]
    for verdict, look in APPEARANCES.items():
        label = f"payoff.{slug(verdict)}@4: {verdict.value}"
        assert (
            f'<a class="tile {slug(verdict)}" title="{label}" aria-label="{label}" '
            f'href="#payoff.{slug(verdict)}@4"><span aria-hidden="true">{look.symbol}</span></a>'
        ) in text
        assert f"</span> 1 {verdict.value}</span>" in text
        assert MEANINGS[verdict].split("'")[0] in text
    assert len({look.symbol for look in APPEARANCES.values()}) == len(Verdict)


def test_the_tiles_lead_to_the_claims_also_with_two_pairs_of_sizes():
    pairs = [synthetic_claim(id="replication.profile", bits=None, models=models) for models in (("a", "b"), ("b", "c"))]
    text = sections(pairs, model="b")
    anchors = re.findall(r'<article class="claim" id="([^"]*)"', text["claims"])
    assert anchors == ["replication.profile", "replication.profile-2"]
    assert re.findall(r'class="tile [^>]*href="#([^"]*)"', text["verdicts"]) == anchors


def test_claims_carry_what_the_filters_ask_for():
    claims = [*every_verdict(), synthetic_claim(id="bits.cliff")]
    text = sections(claims)["claims"]
    found = re.findall(r'<article class="claim" id="[^"]*" data-verdict="([^"]*)" data-group="([^"]*)"', text)
    assert found == [(slug(Verdict(claim["verdict"])), claim["group"]) for claim in claims]
    form = text.split("<form")[1].split("</form>")[0]
    assert set(re.findall(r'name="verdict" value="([^"]*)"', form)) == {slug(verdict) for verdict in Verdict}
    assert re.findall(r'<option value="([^"]*)"', form) == ["", "payoff", "bits"]
    # Without the script nothing is hidden but the form; the script reads the same names.
    assert re.findall(r"<(\w+)[^>]* hidden", text) == ["form"]
    for name in ("[name=verdict]", "elements.group", "elements.brief", "article.claim", "section.group", "dataset"):
        assert name in SCRIPT


def test_each_claim_says_its_words_source_estimate_meaning_figure_and_command():
    drawing = Drawing("AWQ wins back 3%", "Bars: intervals.", PNG)
    text = sections([synthetic_claim(Verdict.REFUTED)], {"reduction_by_linear": drawing})["claims"]
    for part in (
        '<h4 id="words-payoff.layers@4">AWQ&#39;s output error is smaller',
        "Source: AWQ paper",
        '<svg class="number-line refuted"',
        "<b>0.7</b> times smaller <span>95% interval [0.6, 0.82]; supported above 1.02</span>",
        "The whole 95% interval lies below 1.02: the claim does not hold on synthetic-small.",
        "<b>Figure 1.</b> AWQ wins back 3%",
        "<code>pytest &#34;claims/test_x.py::test_0[4-bit]&#34; <span>--model synthetic-small</span>",
    ):
        assert part in text
    assert text.count("data:image/png") == 1


def test_what_stands_beside_a_verdict_is_shown():
    claim = synthetic_claim(
        interval=replace(synthetic_interval(1.2, 1.4), looks=3, look=2),
        linear="model.layers.2.self_attn.v_proj",
        parts={
            "code": Judgement(Verdict.SUPPORTED, 1.3, synthetic_interval(1.2, 1.4)),
        },
        variants={
            WITH_CLIPPING: Judgement(Verdict.INCONCLUSIVE, 1.05, synthetic_interval(-1.0, 1.1)),
            "at other depths": Judgement(Verdict.NOT_APPLICABLE, reason="one depth was measured"),
        },
        ranking=Ranking.HELPED_LEAST,
        readings={"gap of RTN": 0.25, "excess": "4.86%"},
    )
    text = sections([claim])["claims"]
    for name, shown in {
        "linear": "model.layers.2.self_attn.v_proj",
        "with clipping": "1.05 [−1, 1.1], inconclusive",
        "resampled": "5 blocks, t interval, seed 7, look 2 of 3",
        "p value": "0.001",
        "part code": "1.3 [1.2, 1.4], supported",
        "at other depths": "one depth was measured",
        "gap of RTN": "0.25",
        "excess": "4.86%",
    }.items():
        assert f"<dt>{name}</dt><dd>{shown}</dd>" in text
    assert "<h5>Those that AWQ helps least</h5>" in text


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)


def test_figures_without_a_group_on_the_page_come_at_its_end():
    drawings = {name: Drawing(name, "", PNG) for name in ("error_by_bits", "reduction_by_linear", "of_ones_own")}
    text = sections([synthetic_claim()], drawings)
    assert re.findall(r'<figure class="drawn" id="([^"]*)"', text["claims"]) == ["figure-reduction_by_linear"]
    assert re.findall(r"<b>(Figure \d\. \w+)</b>", text["figures"]) == [
        "Figure 2. error_by_bits",
        "Figure 3. of_ones_own",
    ]


def test_the_tests_stand_in_the_order_of_their_claims_with_what_they_say():
    first, second = synthetic_claim(), synthetic_claim(Verdict.REFUTED, id="payoff.honest")
    phases = [
        phase(second, "b", outcome="failed", seconds=0.25, account="worst: <layer>"),
        phase(first, "a", output="said <aside>"),
        phase(None, "c", name="c::setup", outcome="error", account="it broke"),
    ]
    text = sections([first, second], phases=phases, seconds=75.2)
    assert [list(row.values()) for row in rows(text["tests"])] == [
        ["passed", "a", '<details><summary>captured output</summary><pre tabindex="0">said <aside></pre></details>',
         "supported", "0:00:02"],
        ["failed", "b", "", "refuted", "250 ms"],
        ["error", "c::setup", "", "", "0:00:02"],
    ]  # fmt: skip
    assert "3 tests took 0:01:15" in text["tests"]
    assert re.findall(r'checkbox" value="(\w+)"> 1 ', text["tests"]) == ["error", "failed", "passed"]
    assert text["errors"].count("<code>") == text["errors"].count("it broke") == 1
    # Nothing is hidden without the script but the form.
    assert re.findall(r"<(\w+)[^>]* hidden", text["tests"]) == ["form"]


HOSTILE = "<script>alert(1)</script>\"'&"


def test_nothing_that_a_model_a_claim_or_a_test_says_becomes_markup():
    claim = synthetic_claim(
        id=f"payoff.{HOSTILE}",
        group=HOSTILE,
        words=HOSTILE,
        unit=HOSTILE,
        source=HOSTILE,
        models=(HOSTILE,),
        contrary=[Contrary(HOSTILE, 0.9)],
        linear=HOSTILE,
        parts={HOSTILE: Judgement(Verdict.NOT_APPLICABLE, reason=HOSTILE)},
        deciding_part=HOSTILE,
        variants=dict.fromkeys((WITH_CLIPPING, HOSTILE), Judgement(Verdict.NOT_APPLICABLE, reason=HOSTILE)),
        ranking=HOSTILE,
        readings={HOSTILE: HOSTILE},
        registered=HOSTILE,
    )
    number = {"value": 1.0, "ours": 1.0, "agrees": True, "tolerance": {"text": HOSTILE}, "not_comparable": ""}
    names = ("quantity", "source", "definition", "differs", "unit", "place", "our_place")
    measured = lifelike(blocks=2, twins=0)
    text = report_on(
        [claim],
        {f"reduction_by_linear{HOSTILE}": Drawing(HOSTILE, HOSTILE, PNG)},
        model=HOSTILE,
        answer=Answer(HOSTILE),
        beside={f"other {HOSTILE}": [claim]},
        measured=replace(measured, provenance={HOSTILE: HOSTILE, "id": HOSTILE}),
        phases=[
            phase(claim, HOSTILE, account=HOSTILE, output=HOSTILE),
            phase(None, HOSTILE, outcome="error", account=HOSTILE),
        ],
        published=[number | dict.fromkeys(names, HOSTILE), number | dict.fromkeys(names, HOSTILE) | {"agrees": None}],
    ).html()
    assert_text_only(text.decode())
    assert_text_only(macro("pytest_html.jinja2", "cell", claim) + macro("pytest_html.jinja2", "figure", claim))
    assert_text_only(macro("pytest_html.jinja2", "summary", {HOSTILE: [claim]}))
    entry = Entry(HOSTILE, HOSTILE, HOSTILE, HOSTILE, ("supported",), {HOSTILE: HOSTILE})
    assert_text_only(index_page([entry]).decode())


def assert_text_only(page):
    """Hostile text is on the page, and every script and tag there is the page's own."""
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert '</script>"' not in page
    parser = Attributes()
    parser.feed(page)
    assert {name for name in parser.names if not re.fullmatch(r"[a-z][a-zA-Z0-9-]*", name)} == set()


class Attributes(HTMLParser):
    """The names of all attributes: a quote that is not escaped would make new ones."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def handle_starttag(self, tag, attrs):
        self.names |= {name for name, _ in attrs}


def test_figures_and_groups_are_called_as_the_catalogue_calls_them():
    assert {name.partition(".")[0] for name in DRAWN_BY} <= set(CATALOGUE)
    assert set(STANDS_IN.values()) <= set(CATALOGUE)
    assert set(DRAWN_BY.values()) <= set(STANDS_IN)
    assert set(QUESTIONS) == set(CATALOGUE)


@pytest.mark.parametrize(
    ("claim", "sentences"),
    [
        (synthetic_claim(), "The whole 95% interval lies above 1.02: the claim holds on synthetic-small."),
        (synthetic_claim(), "The untrained twin's estimate, 1.01, lies on the other side: training brings it over."),
        (synthetic_claim(twin_estimate=1.1), "the architecture meets this threshold before any training."),
        (
            synthetic_claim(interval=exactly(1.3, "modules", 3).interval),
            "Nothing is sampled here: the value is exact, and lies above 1.02, as claimed.",
        ),
        (
            synthetic_claim(Verdict.REFUTED, threshold=Threshold(lower=1.0, upper=1.5)),
            "The whole 95% interval lies outside 1 to 1.5",
        ),
        (
            synthetic_claim(Verdict.INCONCLUSIVE),
            "The 95% interval holds the threshold, so this much data cannot tell. About 12 blocks like these would",
        ),
        (synthetic_claim(Verdict.INSUFFICIENT), "too little to judge by: 3 blocks measured, at least 4 needed."),
        (synthetic_claim(Verdict.NOT_APPLICABLE), "cannot be asked of synthetic-small: needs a gate."),
        (synthetic_claim(Verdict.REPORTED), "the catalogue does not judge it."),
        (synthetic_claim(survives_holm=True), "It survives Holm's correction"),
        (synthetic_claim(survives_holm=False), "It does not survive Holm's correction"),
        (
            synthetic_claim(parts=dict.fromkeys("ab", Judgement(Verdict.SUPPORTED, 1.3)), deciding_part="a"),
            "It has 2 parts and needs them all; shown is the one that decides: a.",
        ),
        (
            synthetic_claim(Verdict.REFUTED, registered="refuted"),
            "The verdict is registered for this model: a small model's tails are light. It does not fail the run.",
        ),
        (synthetic_claim(Verdict.REFUTED, registered="supported"), "the change fails the run."),
        (synthetic_claim(Verdict.REFUTED, registered="supported", conditions_met=False), "the change warns"),
    ],
)
def test_what_a_verdict_means_is_said_in_sentences(claim, sentences):
    assert sentences in meaning(claim)


def test_a_mechanical_claim_says_nothing_of_training():
    assert "twin" not in meaning(synthetic_claim(kind="mechanical"))


PROVENANCE = {"kind": "embedded", "effort": "quick", "device": "cpu", "dtype": "float32"}


def test_the_command_names_the_claim_and_all_that_its_numbers_depend_on():
    repeat = Repeat(config(seed=0), ["embedded-small"], PROVENANCE)
    test = phase(None, "claims/test_payoff.py::test_layers[4-bit-embedded-small]")
    assert repeat.claim(test, ["embedded-small"]) == (
        'pytest "claims/test_payoff.py::test_layers[4-bit-embedded-small]" --model embedded-small '
        "--effort quick --device cpu --dtype float32 --seed 0 --output reports/repeated"
    )
    assert "--output" not in repeat.run(["embedded-small"])  # it is the whole report again
    assert repeat.run(["embedded-small"]).startswith("pytest claims --model embedded-small --effort quick ")


def test_the_command_asks_for_models_and_texts_as_the_user_did():
    given = config(model=["my models/tiny", "org/small"], seed=3, calibration_text="mine.txt")
    repeat = Repeat(given, ["tiny", "small"], PROVENANCE | {"effort": "paper"})
    # Two sizes in the order asked for, whatever the order in which the claim names them.
    assert repeat.run(["small", "tiny"]) == (
        'pytest claims --model "my models/tiny" --model org/small --effort paper --device cpu --dtype float32 '
        "--seed 3 --calibration-text mine.txt"
    )


def test_claims_from_outside_the_project_are_named_by_their_files():
    given = config(args=["claims", "../my_claims"], claims_deviations="../my_claims/deviations", seed=0)
    repeat = Repeat(given, ["tiny"], {"kind": "control"})
    # Pytest's own ids of files outside its root leave out where these are.
    test = phase(None, "test_mine.py::test_ten[any-bits-tiny]", file="../my_claims/test_mine.py")
    assert repeat.claim(test, ["tiny"]) == (
        'pytest -c pyproject.toml "../my_claims/test_mine.py::test_ten[any-bits-tiny]" --model tiny --seed 0 '
        "--claims-deviations ../my_claims/deviations --output reports/repeated"
    )
    assert repeat.run(["tiny"]) == (
        "pytest claims ../my_claims --model tiny --seed 0 --claims-deviations ../my_claims/deviations"
    )


def test_a_controls_command_has_no_effort():
    assert Repeat(config(seed=0), ["null-control"], {"kind": "control", "effort": "control"}).run(["null-control"]) == (
        "pytest claims --model null-control --seed 0"
    )


def test_words_that_a_shell_would_change_are_quoted():
    assert [quoted(word) for word in ("a/b-1.txt", "a b", "[4-bit]", "$HOME", 'a"b')] == [
        "a/b-1.txt", '"a b"', '"[4-bit]"', "'$HOME'", "'a\"b'",
    ]  # fmt: skip


def variables(block):
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))


LIGHT = variables(STYLE.split(":root {")[1].split("}")[0])
DARK = LIGHT | variables(STYLE.split("body.claims-report {")[1].split("}")[0])
TEXT_ON_PAPER = [
    *product(("ink", "muted", "link"), ("page", "soft", "mark")),
    *product(("supported", "refuted", "inconclusive", "unjudged", "reported", "error"), ("page", "mark")),
    *[(name, f"{name}-paper") for name in ("supported", "refuted", "inconclusive", "unjudged", "reported", "error")],
    ("ink", "error-paper"),
]
SIGNS_ON_PAPER = [
    *product(("supported", "refuted", "inconclusive", "reported", "muted", "ink"), ("page", "side", "mark")),
    ("axis", "page"),
]


def luminance(colour):
    """Relative luminance of a colour, after WCAG 2."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """The ratio of their luminances, after WCAG 2: 1 for the same, 21 for black on white."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_wcag_defines_it():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_every_colour_of_text_has_contrast_aa_on_every_paper_it_stands_on(palette):
    poor = {pair: contrast(palette[pair[0]], palette[pair[1]]) for pair in TEXT_ON_PAPER}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_every_sign_of_a_number_line_stands_out_from_its_ground(palette):
    poor = {pair: contrast(palette[pair[0]], palette[pair[1]]) for pair in SIGNS_ON_PAPER}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 3} == {}


def test_the_style_sheet_has_the_verdicts_own_colours():
    names = {Verdict.INSUFFICIENT: "unjudged", Verdict.NOT_APPLICABLE: "unjudged"}
    for verdict, look in APPEARANCES.items():
        name = names.get(verdict, verdict.value)
        assert (LIGHT[name], LIGHT[f"{name}-paper"]) == (look.ink, look.paper)
        assert re.search(rf"\.{slug(verdict)}\b[^{{]*{{ --verdict: var\(--{name}\)", STYLE)


def drawn(claim):
    """The claim's number line as SVG."""
    return macro("number_line.jinja2", "drawn", claim)


def at(svg, kind, attribute):
    """Where the number line puts its signs of one kind."""
    return [float(x) for x in re.findall(rf'<\w+ class="{kind}" [^>]*?\b{attribute}="([\d.]+)"', svg)]


def test_the_number_line_places_estimate_interval_threshold_and_twin():
    svg = drawn(synthetic_claim(Verdict.REFUTED))
    assert 'aria-label="estimate 0.7, 95% interval 0.6 to 0.82, supported above 1.02, untrained twin 1.01"' in svg
    # From 0.6 to 1.02 with a tenth of room on either side, between margins of 14 in 400.
    scale = {value: 14 + 372 * (value - 0.558) / (1.062 - 0.558) for value in (0.6, 0.7, 0.82, 1.01, 1.02)}
    assert at(svg, "disc", "cx") == [pytest.approx(scale[0.7], abs=0.1)]
    assert at(svg, "threshold", "x1") == at(svg, "side", "x") == [pytest.approx(scale[1.02], abs=0.1)]
    start, end = re.search(r'class="bar" d="M([\d.]+),.*?H([\d.]+)"', svg).groups()
    assert (float(start), float(end)) == (pytest.approx(scale[0.6], abs=0.1), pytest.approx(scale[0.82], abs=0.1))
    tip = float(svg.split('points="')[1].split(",")[0])
    assert tip == pytest.approx(scale[1.01], abs=0.1)
    assert "<polygon" not in drawn(synthetic_claim(twin_estimate=None))


def test_the_number_line_says_in_words_which_side_is_supported():
    assert "supported above 1.02 ▸" in drawn(synthetic_claim())
    assert "◂ supported below 0.5" in drawn(synthetic_claim(threshold=Threshold(upper=0.5)))
    svg = drawn(synthetic_claim(threshold=Threshold(lower=1.0, upper=1.5)))
    assert "supported from 1 to 1.5" in svg
    assert len(at(svg, "threshold", "x1")) == 2


@pytest.mark.parametrize("estimate", [1.03, 123456.0, -0.000012345])
def test_labels_of_the_number_line_stay_on_it(estimate):
    svg = drawn(synthetic_claim(estimate=estimate, interval=None, threshold=Threshold(lower=estimate)))
    for left, words in re.findall(r'<text [^>]*x="([\d.]+)"[^>]*>([^<]*)<', svg):
        assert 0 <= float(left) <= WIDTH - 6 * len(words)


def test_no_number_line_without_an_estimate():
    assert drawn(synthetic_claim(Verdict.INSUFFICIENT)) == ""
