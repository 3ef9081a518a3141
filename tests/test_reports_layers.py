"""Per-layer records held against each other: matching, rank correlations, families, definitions, the page."""

import copy
import json
import re

import numpy as np
import pytest

from reports.compare.__main__ import main
from reports.compare.layer_definitions import definitions, is_ours
from reports.compare.layers import compare_layers, family_rows

FAMILIES = ("q_proj", "o_proj", "down_proj")


def record(blocks=6, model="theirs", seed=0, grid=6, ours=False, families=FAMILIES):
    """A per-layer record with AWQ-Diag's field names and invented numbers."""
    generator = np.random.default_rng(seed)
    layers = {}
    for block in range(blocks):
        for family in families:
            layer = {
                "module_type": family,
                "layer_idx": block,
                "hidden_dim": 64,
                "mean_kurtosis": float(generator.normal(1, 1)),
                "top1pct_importance_share": float(generator.uniform(1, 9)),
                "awq_reduction_3bit": float(generator.uniform(1, 2)),
                "awq_best_alpha": {"3": int(generator.integers(0, grid + 1)) / grid},
            }
            if ours:
                layer["heldout_mean_kurtosis"] = layer["mean_kurtosis"]
            layers[f"model.layers.{block}.{family}"] = layer
    config = {"num_calibration_samples": 4, "max_calibration_length": 512}
    return {"model": model, "config": config, "model_info": {"num_params": 1234567}, "layers": layers}


def rhos(pair):
    return {found.quantity: found.rho for found in pair.correlations}


def test_layers_are_matched_by_name_whatever_their_order():
    first = record()
    second = copy.deepcopy(first)
    second["layers"] = dict(reversed(second["layers"].items()))
    for layer in second["layers"].values():
        layer["mean_kurtosis"] = layer["mean_kurtosis"] ** 3  # the ranks stay
        layer["awq_reduction_3bit"] = 3 - layer["awq_reduction_3bit"]
    pair = compare_layers(first, second)
    assert pair.by_name
    assert pair.matched == "18 layers matched by name"
    assert rhos(pair) == pytest.approx({"mean_kurtosis": 1, "top1pct_importance_share": 1, "awq_reduction_3bit": -1})


def test_the_interval_over_blocks_holds_the_estimate_and_stays_within_bounds():
    for found in compare_layers(record(seed=1), record(seed=2)).correlations:
        assert -1 <= found.lower <= found.rho <= found.upper <= 1
    few = compare_layers(record(blocks=3, seed=1), record(blocks=3, seed=2))
    assert all(found.rho is not None and found.lower is None for found in few.correlations)


def test_other_depths_are_compared_by_thirds_and_say_so():
    first, second = record(blocks=6), record(blocks=12)
    for deep, blocks in ((first, 6), (second, 12)):
        for layer in deep["layers"].values():
            place = FAMILIES.index(layer["module_type"])
            layer["mean_kurtosis"] = 10.0 * place + 3 * layer["layer_idx"] // blocks
    pair = compare_layers(first, second)
    assert not pair.by_name
    assert pair.matched.startswith("The models are 6 and 12 blocks deep, so no layer has its counterpart")
    assert rhos(pair)["mean_kurtosis"] == pytest.approx(1)
    assert len(pair.correlations[0].points) == 9
    assert pair.correlations[0].points[0].name == "q_proj, first third"
    assert pair.correlations[0].lower is None


def test_layers_in_one_file_only_are_counted():
    second = record()
    del second["layers"]["model.layers.0.q_proj"]
    assert compare_layers(record(), second).matched == "17 layers matched by name; 1 are in one file only"


def test_nothing_in_common_has_no_correlation():
    pair = compare_layers(record(), record(blocks=8, families=("qkv", "fc1", "fc2")))
    assert set(rhos(pair).values()) == {None}
    assert all(found.points == [] for found in pair.correlations)


def test_what_was_not_measured_is_left_out():
    second = record()
    second["layers"]["model.layers.0.q_proj"]["mean_kurtosis"] = None
    assert [len(found.points) for found in compare_layers(record(), second).correlations] == [17, 18, 18]
    assert family_rows(second)["q_proj"]["mean kurtosis"] is not None


def test_family_rows_take_means_and_medians():
    made = record(blocks=4)
    for place, name in enumerate(name for name in made["layers"] if name.endswith("o_proj")):
        made["layers"][name]["awq_reduction_3bit"] = [1.0, 1.0, 1.2, 9.0][place]
        made["layers"][name]["awq_best_alpha"] = {"3": [0.0, 0.5, 0.5, 1.0][place]}
    row = family_rows(made)["o_proj"]
    assert row["layers"] == 4
    assert row["mean reduction"] == pytest.approx(3.05)
    assert row["median reduction"] == pytest.approx(1.1)
    assert row["median best alpha"] == 0.5


def test_definitions_say_where_the_files_differ():
    ours, theirs = record(ours=True, grid=20, model="mine"), record()
    assert is_ours(ours)
    assert not is_ours(theirs)
    said = " ".join(definitions(ours, theirs))
    for part in (
        "squared relative output error",
        "A, mine (this suite): 4 calibration texts of at most 512 tokens; moments are pooled",
        "B, theirs (AWQ-Diag's definitions)",
        "cannot exceed about n",
        "i/20 in A and i/6 in B",
    ):
        assert part in said
    alike = " ".join(definitions(theirs, record(seed=1)))
    assert "Both records follow AWQ-Diag's definitions." in alike
    assert "the same grid, i/6" in alike


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("blocks", [6, 9])
def test_the_command_recognises_the_schema_and_draws_the_page(tmp_path, capsys, blocks):
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder / "diagnostic.json", record(ours=True, grid=20, model="mine"))
    theirs = write(tmp_path / "any name.json", record(blocks=blocks, seed=3, model="<theirs>|$x$"))
    page = tmp_path / "page.html"
    assert main([str(folder), theirs, "--html", str(page)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# Layers of mine and <theirs>|$x$\n")
    assert "A: mine (18 linears, 1,234,567 parameters)." in text
    assert "| quantity | Spearman's rho | 95% interval over blocks |" in text
    shown = page.read_text("utf-8")
    pictures = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)"', shown)
    assert len(pictures) == 3
    assert all("Spearman" in words for words in pictures)
    assert "<theirs>" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{theirs}"], "two at a time, got 1"),
        (["{theirs}", "{theirs}", "{theirs}"], "two at a time, got 3"),
        (["{theirs}", "{theirs}", "--fail-on-change"], "between per-layer records nothing counts as a change"),
        (["{theirs}", "{folder}"], "there is no "),
        (["{theirs}", "{evidence}"], "evidence.json is not a diagnostic file: it needs a model and its layers"),
        (["{theirs}", "{lacking}"], "model.layers.0.q_proj has no mean_kurtosis"),
        (["{theirs}", "{broken}"], "is not a diagnostic file: Expecting"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_status_4(tmp_path, capsys, arguments, message):
    lacking = record()
    del lacking["layers"]["model.layers.0.q_proj"]["mean_kurtosis"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{", "utf-8")
    places = {
        "theirs": write(tmp_path / "theirs.json", record()),
        "folder": str(tmp_path / "empty"),
        "evidence": write(tmp_path / "evidence.json", {"schema_version": 1, "claims": []}),
        "lacking": write(tmp_path / "lacking.json", lacking),
        "broken": str(tmp_path / "broken.json"),
    }
    with pytest.raises(SystemExit) as left:
        main([argument.format(**places) for argument in arguments])
    assert left.value.code == 4
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert message in said.err


def test_our_own_record_can_be_compared(tmp_path, capsys):
    from reports.diagnostic_file import write_diagnostic
    from tests.hand_made import lifelike

    path = tmp_path / "diagnostic.json"
    write_diagnostic(path, lifelike())
    assert main([str(path), str(path)]) == 0
    assert "Both records are this suite's: the same definitions." in capsys.readouterr().out
