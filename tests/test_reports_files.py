"""The files of one model: whole or absent, readable back, with AWQ-Diag's field names and units."""

import json

import numpy as np
import pytest

from awq_core.judging.evidence import Evidence, Verdict
from reports.diagnostic_file import diagnostic, write_diagnostic
from reports.evidence_file import plain, read_evidence, write_evidence
from reports.output import write_tokens
from reports.writing import write_whole
from tests.hand_made import lifelike
from tests.synthetic_claim import synthetic_claim

AWQ_DIAG_LAYER_FIELDS = {
    "module_type",
    "layer_idx",
    "hidden_dim",
    "mean_kurtosis",
    "max_kurtosis",
    "mean_outlier_ratio",
    "top1pct_importance_share",
    "output_error",
    "awq_output_error",
    "awq_best_alpha",
    "awq_reduction_3bit",
}
AWQ_DIAG_FAMILY_FIELDS = {
    "count",
    "mean_kurtosis",
    "mean_top1pct_importance_share",
    "mean_3bit_output_error",
    "mean_awq_reduction_3bit",
}


def test_evidence_comes_back_as_it_was_written(tmp_path):
    measured = lifelike()
    claims = [synthetic_claim(), synthetic_claim(Verdict.REFUTED, id="payoff.honest", registered="refuted")]
    path = tmp_path / "model" / "evidence.json"
    write_evidence(path, measured.name, measured, claims, answer="It is worth it.", complete=False)
    content = read_evidence(path)
    assert content["schema_version"] == 2
    assert content["complete"] is False
    assert content["answer"] == "It is worth it."
    assert content["generated"].endswith("+00:00")
    assert content["model"]["name"] == "synthetic-small"
    assert content["model"]["parameters"] == measured.parameters
    assert content["model"]["tokens"] == {"calibration": "aa11", "heldout": "bb22"}
    assert content["claims"] == claims
    assert Evidence.from_dict(content["claims"][0]).as_dict() == claims[0]


def test_numpy_values_become_plain_ones():
    got = plain({"a": np.float32(0.5), "b": np.arange(2), "c": (np.int64(3), np.bool_(True)), 4: None})
    assert got == {"a": 0.5, "b": [0, 1], "c": [3, True], "4": None}
    assert [type(value) for value in (got["a"], got["c"][0], got["c"][1])] == [float, int, bool]


def test_a_nan_is_an_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "evidence.json"
    write_evidence(path, "m", None, [], answer="first", complete=True)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_evidence(path, "m", None, [synthetic_claim(estimate=float("nan"))], answer="second", complete=True)
    assert read_evidence(path)["answer"] == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["evidence.json"]


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 99}', "has schema version 99; this version of the suite reads 1 and 2"),
        ('{"claims": []}', "is not an evidence file: it has no schema_version"),
        ("[1]", "is not an evidence file: it has no schema_version"),
        ('{"schema_ver', "is not an evidence file: Unterminated string"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_a_reason(tmp_path, content, message):
    path = tmp_path / "evidence.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_evidence(path)


def test_the_diagnostic_has_awq_diags_field_names(tmp_path):
    measured = lifelike()
    write_diagnostic(tmp_path / "diagnostic.json", measured)
    record = json.loads((tmp_path / "diagnostic.json").read_bytes())
    assert list(record) == ["model", "config", "model_info", "summary", "layers"]
    assert record["model"] == "invented/synthetic-small"
    assert set(record["config"]) >= {"bit_widths", "outlier_sigma", "awq_report_bit", "seed"}
    assert record["config"]["bit_widths"] == [8, 6, 4, 3, 2]
    assert record["model_info"] == {
        "num_params": measured.parameters,
        "num_layers": 5,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_linear_analyzed": 35,
    }
    summary = record["summary"]
    assert set(summary) == {
        "module_family", "per_bit_median_output_error", "top_kurtosis_layer", "awq_reduction_3bit", "correlations",
    }  # fmt: skip
    assert list(summary["module_family"]) == [f"{f}_proj" for f in ("q", "k", "v", "o", "gate", "up", "down")]
    assert all(set(family) == AWQ_DIAG_FAMILY_FIELDS for family in summary["module_family"].values())
    assert list(summary["per_bit_median_output_error"]) == ["8", "6", "4", "3", "2"]
    assert set(summary["top_kurtosis_layer"]) == {"name", "mean_kurtosis"}
    assert set(summary["awq_reduction_3bit"]) == {"min", "median", "mean", "max"}
    assert len(record["layers"]) == 35
    for layer in record["layers"].values():
        assert set(layer) >= AWQ_DIAG_LAYER_FIELDS
        # Whatever stands beside AWQ-Diag's fields says what it is.
        assert all("heldout" in field or "asym_g128" in field for field in set(layer) - AWQ_DIAG_LAYER_FIELDS)


def test_the_diagnostics_values_are_in_sample_and_symmetric():
    measured = lifelike()
    name = "model.layers.2.mlp.down_proj"
    layer = diagnostic(measured)["layers"][name]
    errors = measured.errors["output_error"].sel(linear=name, quantizer="sym-channel", bits=3)
    in_sample = errors.sel(split="calibration").values
    assert layer["output_error"]["3"] == pytest.approx(in_sample[0])
    assert layer["awq_output_error"]["3"] == pytest.approx(in_sample.min())
    assert layer["awq_best_alpha"]["3"] == pytest.approx(in_sample.argmin() / 20)
    assert layer["awq_reduction_3bit"] == pytest.approx(in_sample[0] / in_sample.min())
    # Held out: the error of the exponent chosen in sample, not the smallest held-out error.
    assert layer["heldout_awq_output_error"]["3"] == pytest.approx(
        errors.sel(split="heldout").values[in_sample.argmin()]
    )
    deployed = measured.errors["output_error"].sel(linear=name, quantizer="asym-g128", bits=4, split="heldout").values
    assert layer["heldout_asym_g128_output_error"]["4"] == pytest.approx(deployed[0])

    weight_size = measured.channels["weight_size"].sel(linear=name).values
    magnitude = measured.channels["magnitude"].sel(split="calibration", site="2 mlp_out").values
    importance = np.sort((weight_size * magnitude)[:256])[::-1]
    assert layer["top1pct_importance_share"] == pytest.approx(100 * importance[:2].sum() / importance.sum())
    assert layer["max_kurtosis"] == pytest.approx(
        np.nanmax(measured.channels["excess_kurtosis"].sel(split="calibration", site="2 mlp_out"))
    )
    assert (layer["module_type"], layer["layer_idx"], layer["hidden_dim"]) == ("down_proj", 2, 256)


def test_where_no_exponents_were_tried_none_is_written():
    measured = lifelike()
    measured.errors["output_error"].loc[{"bits": 6, "alpha": measured.errors["alpha"].values[1:]}] = np.nan
    for layer in diagnostic(measured)["layers"].values():
        assert layer["output_error"]["6"] > 0
        assert layer["awq_output_error"]["6"] is layer["awq_best_alpha"]["6"] is None
        assert layer["awq_output_error"]["4"] > 0


def test_an_error_that_is_nan_is_refused_not_written():
    measured = lifelike()
    measured.errors["output_error"].loc[{"bits": 6, "split": "heldout"}] = np.nan
    with pytest.raises(ValueError, match="an output error in the measurements is NaN"):
        diagnostic(measured)


def test_tokens_are_written_exactly(tmp_path):
    measured = lifelike()
    write_tokens(tmp_path / "tokens.npz", measured)
    with np.load(tmp_path / "tokens.npz") as tokens:
        assert sorted(tokens) == ["calibration", "heldout"]
        for split in tokens:
            np.testing.assert_array_equal(tokens[split], measured.tokens[split])
