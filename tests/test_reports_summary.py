"""`python -m reports.summary`: one run for a pull request, short whatever the run."""

import pytest

from awq_core.judging.evidence import Verdict
from reports.summary import main
from tests.synthetic_claim import synthetic_claim
from tests.two_runs import write_run


def sections(text):
    return {part.partition("\n")[0]: part for part in text.split("\n## ")}


def test_the_answer_the_counts_and_what_wants_to_be_read(tmp_path, capsys):
    claims = [
        synthetic_claim(registered="supported"),
        synthetic_claim(Verdict.REFUTED, id="payoff.honest", registered="refuted"),
        synthetic_claim(Verdict.INCONCLUSIVE, id="payoff.one-layer", registered="supported", conditions_met=False),
        synthetic_claim(Verdict.NOT_APPLICABLE, id="gptq.close"),
    ]
    folder = write_run(tmp_path / "run", claims)
    (folder / "report.html").write_text("", "utf-8")
    assert main([str(folder)]) == 0
    text = capsys.readouterr().out
    parts = sections(text)
    assert "AWQ is worth it." in text
    assert "**✓ 1 supported, ✗ 1 refuted, ? 1 inconclusive, ∅ 1 not applicable**" in text
    assert "`payoff.one-layer@4`" in parts["Not as registered"]
    assert "supported, under other conditions" in parts["Not as registered"]
    besides = parts["Refuted and inconclusive besides"]
    assert "`payoff.honest@4` | ✗ refuted | 0.7 [0.6, 0.82] | above 1.02 | as registered |" in besides
    assert "`payoff.one-layer@4`" not in besides
    assert "`payoff.layers@4`" not in text
    assert f"- the report: `{folder / 'report.html'}`" in parts["Reports"]
    assert "diagnostic.json" not in text


def test_nothing_to_complain_of_is_said(tmp_path, capsys):
    main([str(write_run(tmp_path / "run", [synthetic_claim(registered="supported")]))])
    text = capsys.readouterr().out
    assert "Every registered verdict came out as registered." in text
    assert "Refuted" not in text
    main([str(write_run(tmp_path / "run", [synthetic_claim()]))])
    assert "No verdicts are registered for this model." in capsys.readouterr().out


def test_a_partial_run_is_summed_up_and_says_so(tmp_path, capsys):
    assert main([str(write_run(tmp_path / "run", [], complete=False))]) == 0
    text = capsys.readouterr().out
    assert "**Partial: the run ended before every claim was judged.**" in text
    assert "**No claim was judged.**" in text


def test_it_stays_under_200_lines(tmp_path):
    claims = [
        synthetic_claim(Verdict.REFUTED, id=f"payoff.c{number}", registered=registered)
        for number in range(300)
        for registered in ("refuted", "supported")
    ]
    path = tmp_path / "summary.md"
    main([str(write_run(tmp_path / "run", claims)), "--markdown", str(path)])
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < 200
    assert text.count("and 230 more, in the report.") == 2


def test_a_missing_run_is_one_line_and_status_4(tmp_path, capsys):
    with pytest.raises(SystemExit, match="4"):
        main([str(tmp_path / "nothing")])
    assert capsys.readouterr().err.count("\n") == 1
