"""Only what the selected claims read is measured; what `--stages` leaves out makes its claims not applicable."""

import json
from dataclasses import replace

import pytest

import fixtures.measuring.model
from awq_core.judging.evidence import Verdict
from awq_core.measure.layers.moments import MeasurementError
from awq_core.measure.methods.one_pass import MethodPass
from awq_core.measure.methods.table import METHODS
from claims import register
from claims.support.catalogue import whole_catalogue
from claims.support.claim import NotApplicableError, Setting
from claims.support.judge import judge
from fixtures.cost import METHODS_READ
from fixtures.errors import UserError
from fixtures.measuring.losses_by_look import LossesByLook
from fixtures.measuring.model import ModelMeasurement
from fixtures.measuring.stages import EVERY, check_option, stages_to_measure
from reports.evidence_file import SCHEMA_VERSION
from tests.hand_made import lifelike
from tests.suite_sessions import EVERY_CLAIM, SHAPE, assert_no_traceback, everything
from tests.tiny_models import write_model

PAYOFF = ("claims/test_payoff.py",)
CATALOGUE = whole_catalogue()


@pytest.fixture
def fresh(suite, monkeypatch, tmp_path):
    """An empty cache, and what is measured into it, in order."""
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(tmp_path))
    done = []

    def count(owner, name):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, **options: done.append(name) or real(*given, **options))

    count(fixtures.measuring.model, "measure_layers")
    count(fixtures.measuring.model, "measure_traffic")
    count(LossesByLook, "measure")
    count(MethodPass, "score")
    return done


@pytest.fixture
def judged(suite, fresh):
    """The claims that are judged, in order, each with how much was measured by then."""
    judged = []

    class Watching:
        def pytest_runtest_call(self, item):
            judged.append((item.get_closest_marker("claim").args[0], len(fresh)))

    suite.plugins.append(Watching())
    return judged


def model_of(suite):
    return json.loads((suite.output / "tiny" / "evidence.json").read_text())["model"]


def claims_of(suite):
    claims = json.loads((suite.output / "tiny" / "evidence.json").read_text())["claims"]
    return {claim["key"]: claim for claim in claims}


@pytest.mark.parametrize("claim", CATALOGUE.values(), ids=CATALOGUE)
def test_a_claim_reads_what_it_says_and_nothing_else(claim):
    whole = lifelike(rtn_gap=0.1, twins=3)
    other = replace(lifelike("synthetic-large", seed=1, twins=3), parameters=10 * whole.parameters)
    bits = Setting(claim.bits[0] if claim.bits else None)

    def left(without):
        kept = [replace(m, **dict.fromkeys(without)) for m in (whole, other)]
        return tuple(kept) if claim.level == "pair" else kept[0]

    unread = {"traffic", "losses"} - set(claim.reads)
    plain = judge(claim, left(()), bits).as_dict()
    assert judge(claim, left(unread), bits).as_dict() == plain
    for stage in {"traffic", "losses"} & set(claim.reads):
        with pytest.raises(UNANSWERED):
            ask(claim, left({stage}), bits)
        evidence = judge(claim, left({stage}), bits)
        assert evidence.verdict is Verdict.NOT_APPLICABLE
        verb = "was" if stage == "traffic" else "were"
        assert evidence.reason == f"{'other ' * (stage == 'traffic')}{stage} {verb} not measured (--stages)"
    if "twins" not in claim.stages:
        assert judge(claim, replace(whole, twins=()), bits).as_dict() == plain


UNANSWERED = (NotApplicableError, LookupError)


def ask(claim, subject, setting):
    """The claim's own function; that of `replication.verdicts` skips what was not measured."""
    if claim.id == "replication.verdicts":
        raise NotApplicableError
    return claim.estimate(subject, setting)


def test_the_option_s_stages():
    assert stages_to_measure("all", ()) == EVERY
    assert stages_to_measure("needed", ()) == {"layers"}
    assert stages_to_measure("needed", ("layers", "losses")) == {"layers", "losses"}
    assert stages_to_measure("losses", ("layers", "twins", "traffic")) == {"layers", "twins", "losses"}
    assert stages_to_measure("layers, traffic", ("losses",)) == {"layers", "traffic"}
    for given in ("", "loses", "layers,,losses", "needed,losses", "twins"):
        with pytest.raises(UserError, match="is no stage; give needed, all, or some of layers,traffic,losses"):
            check_option(given)


def test_a_stage_that_is_none_is_one_line(suite):
    result = suite.run("--stages=layers,loses")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --stages 'layers,loses': 'loses' is no stage; give needed, all, or some of" in everything(result)


def test_claims_about_layers_measure_layers_alone(suite, fresh):
    result = suite.run("-k", "some_layer")
    assert fresh == ["measure_layers"] * 4  # and the twins, which stand beside
    assert "  stages measured: layers, untrained twins (--stages needed)" in everything(result)
    assert model_of(suite)["stages"] == ["layers", "twins"]
    assert claims_of(suite)["concentration.some-layer"]["twin_estimate"] is not None
    assert "perplexity was not measured on tiny" in everything(result)


def test_claims_about_losses_measure_no_twins_and_no_traffic_and_what_they_need(suite, fresh):
    suite.run("-k", "logits", claims=PAYOFF)
    assert fresh[:2] == ["measure_layers", "measure"]
    assert set(fresh[2:]) == {"score"}
    assert model_of(suite)["twin_seeds"] == []
    # Rounding costs a random model nothing, so nothing else is wanted.
    assert model_of(suite)["looks"]["strategies_at_look"][0] == 3


def test_claims_about_layers_are_judged_before_losses_are_measured(suite, fresh, judged):
    suite.run("-k", "(test_layers and 3-bit) or logits or fake_traffic", claims=(*PAYOFF, "claims/test_calibration.py"))
    before = ["measure_layers", "measure_traffic", *["measure_layers", "measure_traffic"], *["measure_layers"] * 2]
    assert fresh[: len(before)] == before
    assert fresh[len(before)] == "measure"
    reads = [("losses" in claim.reads, done) for claim, done in judged]
    assert reads == sorted(reads)
    assert {done for of_losses, done in reads if not of_losses} == {len(before)}
    assert {done for of_losses, done in reads if of_losses} == {len(fresh)}


def test_models_come_one_after_another_and_pairs_last(suite, fresh, judged):
    write_model(suite.pytester.path / "second", **SHAPE)
    options = ("-k", "(test_layers and 3-bit) or (logits and 3-bit) or profile")
    suite.run("--model", suite.pytester.path / "second", *options, claims=("claims/test_replication.py", *PAYOFF))
    ids = [claim.id for claim, _ in judged]
    one = [name for name in dict.fromkeys(ids) if not name.startswith("replication")]
    assert ids == [*one * 2, *(name for name in dict.fromkeys(ids) if name.startswith("replication"))]
    assert one[-1] == "payoff.logits"
    assert fresh.count("measure") == 2


def test_what_became_of_the_losses_costs_claims_about_layers_nothing(suite, fresh, judged, monkeypatch):
    def fails(self):
        raise MeasurementError("a window's loss is NaN")

    monkeypatch.setattr(LossesByLook, "measure", fails)
    write_model(suite.pytester.path / "second", **SHAPE)
    result = suite.run(
        *("--model", suite.pytester.path / "second", "-k", "(test_layers and 3-bit) or (logits and 3-bit) or profile"),
        claims=("claims/test_replication.py", *PAYOFF),
    )
    assert_no_traceback(result)
    assert everything(result).count("\ntiny cannot be measured: a window's loss is NaN") == 1
    assert [claim.id for claim, _ in judged].count("payoff.layers") == 2
    assert "replication.profile" in [claim.id for claim, _ in judged]
    assert (suite.output / "tiny" / "diagnostic.json").is_file()


def test_what_several_claims_read_is_measured_once(suite, fresh, judged):
    options = ("-k", "(test_layers and 3-bit) or logits")
    suite.run(*options, claims=PAYOFF)
    assert fresh.count("measure_layers") == 4
    assert fresh.count("measure") == 1
    del fresh[:]
    again = suite.run(*options, claims=PAYOFF)
    assert fresh == ["measure"]  # which reads
    assert "judged from the cache" in everything(again)
    del fresh[:]
    suite.run("-k", "fake_traffic", claims=("claims/test_calibration.py",))
    assert fresh == ["measure_traffic"] * 2  # only what is new


def test_a_refresh_measures_everything_anew(suite, fresh):
    options = ("-k", "logits and 3-bit")
    suite.run(*options, claims=PAYOFF)
    first, fresh[:] = list(fresh), []
    claims = claims_of(suite)
    result = suite.run(*options, "--refresh", claims=PAYOFF)
    assert fresh == first
    assert "judged from the cache" not in everything(result)
    assert claims_of(suite) == claims


def test_all_methods_are_scored_where_asked_for_or_effort_allows(suite, fresh):
    def methods(*options):
        suite.run("-k", "logits and 3-bit", *options, claims=PAYOFF)
        return model_of(suite)["looks"]["strategies_at_look"][0]

    few, every = methods(), methods("--all-methods")
    shown = [method for method in METHODS.values() if method.shown and not method.grouped]
    assert few == 3  # full precision, and round-to-nearest at both precisions, which costs nothing here
    assert every >= METHODS_READ + 1 + 2 * len(shown)
    assert methods("--effort=standard") == every


def test_all_stages_are_measured_where_asked_for(suite):
    result = suite.run("-k", "some_layer", "--stages=all")
    assert model_of(suite)["stages"] == ["layers", "twins", "traffic", "losses"]
    assert "--stages" not in everything(result)
    assert "perplexity was not measured" not in everything(result)


def test_one_size_alone_needs_nothing_of_replication(suite, fresh):
    suite.run(claims=("claims/test_replication.py",))
    assert fresh == ["measure_layers"]


def test_claims_whose_stage_is_left_out_are_not_applicable(suite, monkeypatch):
    folder = suite.pytester.path
    monkeypatch.setattr(ModelMeasurement, "_by_look", None)
    monkeypatch.setattr("claims.support.deviations.FOLDER", folder)
    suite.run("-k", "nothing or some_layer", claims=EVERY_CLAIM)
    conditions = {key: model_of(suite)[key] for key in ("effort", "seed", "weights_hash")}
    (folder / "tiny.toml").write_text(
        "[conditions]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in conditions.items())
    )
    result = suite.run("--stages=traffic", claims=EVERY_CLAIM)
    assert_no_traceback(result)
    claims = claims_of(suite)
    assert len(claims) == sum(len(claim.keys()) for claim in CATALOGUE.values())
    for key, claim in claims.items():
        reads = CATALOGUE[key.split("@")[0]].reads
        if "losses" in reads and not key.startswith("replication"):
            assert claim["reason"] == "losses were not measured (--stages)", key
            assert claim["registered"] is None, key  # it says nothing of a registered verdict
        else:
            assert "--stages" not in claim["reason"], key
    assert claims["payoff.layers@4"]["registered"] is not None
    assert (suite.output / "tiny" / "diagnostic.json").is_file()
    assert "perplexity was not measured" in (suite.output / "tiny" / "report.html").read_text()


def test_figures_are_drawn_of_what_was_measured(suite, monkeypatch):
    monkeypatch.undo()  # of the shortened sessions, which draw nothing
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(suite.material.cache))
    assert_no_traceback(suite.run("-k", "four_times_smaller", claims=("claims/test_bits.py",)))
    drawn = {path.stem for path in (suite.output / "tiny" / "figures").iterdir()}
    assert {"kurtosis_by_block", "reduction_by_linear", "error_by_direction"} <= drawn
    assert "perplexity_by_strategy" not in drawn
    assert model_of(suite)["stages"] == ["layers"]


def test_a_run_without_all_stages_is_not_registered(tmp_path, monkeypatch, capsys):
    model = {"name": "tiny", "stages": ["layers", "twins"]}
    record = {"schema_version": SCHEMA_VERSION, "complete": True, "model": model, "claims": []}
    (tmp_path / "evidence.json").write_text(json.dumps(record))
    monkeypatch.setattr("sys.argv", ["register", str(tmp_path)])
    with pytest.raises(SystemExit, match="4"):
        register.main()
    assert "evidence.json lacks other traffic, losses; run all claims, all stages" in capsys.readouterr().err
