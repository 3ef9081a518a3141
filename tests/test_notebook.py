"""The notebook runs from top to bottom, and what it says of the model is so."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "awq_story.ipynb"


def cells(kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@pytest.fixture(scope="module")
def run() -> dict[str, Any]:
    """The namespace that the code cells leave behind, with no window to draw in."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with mpl.rc_context():
        mpl.use("agg")
        for cell in cells("code"):
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name} {cell['id']}", "exec"), namespace)
    return namespace


def test_it_is_a_notebook_without_outputs():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))


def test_the_knobs_stand_at_the_top():
    first = "".join(cells("code")[0]["source"])
    assert all(f"{name} = " in first for name in ("BITS", "ALPHA", "BLOCK", "FAMILY", "LARGER"))


def test_it_leaves_no_figure_open(run):
    assert run["plt"].get_fignums() == []


def test_scaling_up_lowers_the_error_and_scaling_down_raises_it(run):
    assert run["up"] < 0.95
    assert run["down"] > 1.2


def test_the_other_exponents_that_it_invites_to_agree(run):
    torch, scales_of = run["torch"], run["linear_scales"]
    for alpha in (0.25, 0.75, 1.0):
        scales = scales_of(run["magnitude"], torch.tensor([alpha, -alpha]))
        up, down = (run["output_error"](run["W"], s, run["heldout"]) / run["unscaled"] for s in scales)
        assert up < 1 < down


def test_rounding_is_off_by_a_quarter_of_a_step_and_by_half_at_most(run):
    error = (run["rounded"] - run["W"]).abs() / run["step"]
    assert error.mean() == pytest.approx(0.25, abs=0.01)
    assert error.max() <= 0.5 + 1e-9


def test_the_curve_begins_at_round_to_nearest_and_calibration_never_chooses_worse(run):
    calibration = run["curve"](run["BLOCK"], "o", "calibration")
    assert calibration[0] == 1
    assert calibration.min() <= 1


def test_linears_choose_different_exponents_and_alpha_one_is_too_much_for_o(run):
    assert len({alpha for alpha, _ in run["best"].values()}) > 2
    assert run["curve"](0, "o", "heldout")[-1] > 2


def test_one_channel_matters_only_where_it_is_much_larger_than_the_rest(run):
    assert run["as_it_is"] > 0.95
    assert run["enlarged"] < 0.1
