"""`claims/published.toml`: the published numbers themselves, and a file that cannot be used."""

import re

import pytest

from claims.support.published import PublishedError, Tolerance, read_published
from fixtures.models.registry import ALIASES


@pytest.mark.parametrize(
    ("model", "quantity", "source", "theirs"),
    [
        ("Qwen2.5-1.5B", "largest top-1% importance share of a layer", "AWQ-Diag", 17.6),
        ("Qwen2.5-0.5B", "largest layer-mean excess kurtosis", "AWQ-Diag", 10.78),
        ("Qwen2.5-1.5B", "mean kurtosis, down", "AWQ-Diag", 4.31),
        ("Qwen2.5-0.5B", "mean error reduction, o", "AWQ-Diag", 1.77),
        ("Qwen2.5-1.5B", "median error reduction, down", "AWQ-Diag", 1.04),
        ("Qwen2.5-0.5B", "mean top-1% share, k", "AWQ-Diag", 9.1),
        ("Qwen2.5-1.5B", "largest reduction of one layer", "AWQ-Diag", 25.85),
        ("Qwen2.5-0.5B", "median output error at 8 bits", "AWQ-Diag", 9.2e-5),
        ("Qwen2.5-1.5B", "AWQ by block, 3 bits", "AWQ-Diag", 16.65),
        ("Qwen2.5-0.5B", "AWQ with a constant alpha, 4 bits", "AWQ-Diag", 14.89),
        ("Qwen2.5-1.5B", "constant alpha, 3 bits", "AWQ-Diag", 0.40),
        ("Qwen2.5-0.5B", "best alpha with top-1% share", "AWQ-Diag", -0.39),
        ("OPT-1.3B", "RTN", "Table 1", 119.00),
        ("OPT-1.3B", "1% kept by activation", "Table 1", 16.91),
        ("OPT-13B", "3% kept by weight", "Table 1", 54.49),
        ("OPT-6.7B", "steps that change, factor 2", "Table 2", 8.2),
        ("OPT-6.7B", "mean step ratio, factor 4", "Table 2", 1.213),
        ("OPT-6.7B", "perplexity, factor 2", "Table 2", 11.92),
        ("Llama-2-70B", "INT3, AWQ", "Table 4", 3.74),
        ("Llama-2-7B", "INT4, GPTQ", "Table 4", 5.69),
        ("OPT-6.7B", "sequences that GPTQ needs", "Fig. 8", 192),
        ("OPT-125m", "UINT4, AWQ", "third parties", 29.77),
        ("Qwen2.5-7B", "FP16", "third parties", 6.85),
        ("Qwen2.5-1.5B", "INT4, RTN, groups of 32", "third parties", 10.21),
    ],
)
def test_the_numbers_are_the_published_ones(model, quantity, source, theirs):
    (number,) = [
        n for n in read_published().numbers if n.model == model and n.quantity == quantity and source in n.source
    ]
    assert number.value == theirs


def test_the_table_of_the_study_is_there_in_full():
    per_model = [n.model for n in read_published().numbers if n.source.startswith("AWQ-Diag")]
    # 1 largest share, 1 kurtosis, 4 + 7 + 7 + 7 by family, 1 reduction, 5 errors, 9 perplexities, 4 alphas, 1 rho.
    assert [per_model.count(model) for model in ("Qwen2.5-0.5B", "Qwen2.5-1.5B")] == [47, 47]


def test_models_are_known_by_names_that_the_suite_takes():
    repositories = {alias.hub_id: alias.name for alias in ALIASES.values()}
    for names in read_published().names.values():
        for name in names:
            assert name in ALIASES or "/" in name
            if name in repositories:
                assert repositories[name] in names


def test_a_tolerance_is_absolute_or_relative():
    assert Tolerance(relative=0.1).holds(-2.0, -2.2)
    assert not Tolerance(relative=0.1).holds(-2.0, -1.7)
    assert Tolerance(absolute=0.05).holds(0.25, 0.30)
    assert not Tolerance(absolute=0.05).holds(0.25, 0.31)
    assert [str(Tolerance(relative=0.1)), str(Tolerance(absolute=0.05))] == ["within 10%", "within 0.05"]


HEAD = '[models]\n"M" = ["m"]\n[[table]]\nsource = "S"\ndefinition = "D"\ndiffers = "E"\nunit = "U"\n'
ROW = '{ quantity = "Q", reading = "constant-alpha", values = { "M" = 1 } }'
TOLERANCE = "tolerance = { relative = 0.1 }\n"


def table(*rows, head=HEAD, tolerance=TOLERANCE):
    return f"{head}{tolerance}rows = [{', '.join(rows)}]\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table(ROW.replace("constant-alpha", "no-such")), "Q: no reading is called 'no-such'"),
        (table(ROW, ROW), "'Q' of M (S) is listed twice"),
        (table(ROW.replace('"M"', '"N"')), "'Q' of N (S): the model is not listed under [models]"),
        (table(ROW, head=HEAD.replace('definition = "D"\n', "")), "S: 'definition' is missing"),
        (table(ROW, head=HEAD.replace('"D"', '" "')), "S: 'definition' must be words"),
        (table(ROW, head=HEAD.replace('source = "S"\n', "")), "'source' is missing"),
        (table(ROW, head=HEAD + 'unti = "U"\n'), "S: no field is called 'unti'"),
        (table(ROW, head=HEAD.replace('["m"]', '["m", "m"]')), "'m' stands for two models"),
        (table(ROW, tolerance=""), "S: 'tolerance' is missing"),
        (table(ROW, tolerance="tolerance = {}\n"), "S: a tolerance is either absolute or relative"),
        (table(ROW.replace('quantity = "Q", ', "")), "'quantity' is missing"),
        (table(ROW.replace('reading = "constant-alpha", ', "")), "Q: give either a reading or why there is none"),
        (table(ROW.replace("values", 'not_comparable = "why", values')), "Q: give either a reading or why"),
        (table(ROW.replace('values = { "M" = 1 }', 'values = { "M" = "x" }')), "could not convert"),
        (table(ROW.replace("values", 'places = { "N" = "q" }, values')), "Q: a place without a value, for N"),
        (table(ROW, head=HEAD.replace('[models]\n"M" = ["m"]\n', "")), "'models' is missing"),
        ("[models", "published.toml: "),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, content, message):
    path = tmp_path / "published.toml"
    path.write_text(content)
    with pytest.raises(PublishedError, match=re.escape(message)) as caught:
        read_published(path)
    assert "\n" not in str(caught.value)


def test_a_valid_file_is_read(tmp_path):
    path = tmp_path / "published.toml"
    path.write_text(table(ROW))
    (number,) = read_published(path).numbers
    assert (number.model, number.value, number.reading) == ("M", 1.0, "constant-alpha")
    assert number.tolerance == Tolerance(relative=0.1)
