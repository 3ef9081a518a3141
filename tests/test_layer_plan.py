"""What the layer-level instruments look at, by size and effort."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from awq_core.measured import TRAFFIC_KINDS
from fixtures.measuring.layer_plan import LayerPlan, Tokens, layer_plan
from fixtures.texts.effort import LARGE_PARAMETERS

CALIBRATION, HELDOUT = np.zeros((64, 256), int), np.zeros((64, 256), int)


def kinds(sequences: int = 16, length: int = 512) -> Tokens:
    splits = [f"{kind} {split}" for kind in TRAFFIC_KINDS for split in ("calibration", "heldout")]
    named = {name: np.zeros((sequences, length), int) for name in splits}
    return named | {"random": np.zeros(CALIBRATION.shape, int)}


def sizes(plan: LayerPlan, *, of_twin: bool) -> dict[str, int]:
    tokens = plan.traffic(CALIBRATION, HELDOUT, kinds(), of_twin=of_twin)
    assert list(tokens) == plan.traffic_settings(of_twin=of_twin).splits()
    return {name: array.size for name, array in tokens.items()}


@pytest.mark.parametrize("effort", ["quick", "standard", "paper"])
def test_a_small_model_is_looked_at_whole(effort: str) -> None:
    plan = layer_plan(LARGE_PARAMETERS, effort)
    for settings in (plan.model, plan.twin, plan.model_traffic, plan.twin_traffic):
        assert (settings.arithmetic, settings.raced, settings.row_share) == (torch.float64, False, 1.0)
    for of_twin in (False, True):
        assert all(array.size == 64 * 256 for array in plan.tokens(CALIBRATION, HELDOUT, of_twin=of_twin).values())
        assert set(sizes(plan, of_twin=of_twin).values()) == {64 * 256, 16 * 512}


@pytest.mark.parametrize(
    ("effort", "rows", "twin_rows", "own", "of_kind", "of_random"),
    [
        ("quick", 0.5, 0.0625, False, 1024, 2048),
        ("standard", 1.0, 0.125, True, 4096, 4096),
        ("paper", 1.0, 0.25, True, 4096, 4096),
    ],
)
def test_a_large_one_is_looked_at_in_part(
    effort: str, rows: float, twin_rows: float, own: bool, of_kind: int, of_random: int
) -> None:
    plan = layer_plan(LARGE_PARAMETERS + 1, effort)
    for settings in (plan.model, plan.twin, plan.model_traffic, plan.twin_traffic):
        assert (settings.arithmetic, settings.raced) == (torch.float32, True)
    assert (plan.model.row_share, plan.twin.row_share) == (rows, twin_rows)
    assert (plan.model_traffic.own, plan.twin_traffic.own) == (own, False)
    found = sizes(plan, of_twin=False)
    assert {found["calibration"], found["random"], found["heldout"]} == {of_random}  # compared on equal terms
    assert {found[f"{kind} heldout"] for kind in TRAFFIC_KINDS} == {of_kind}
    twin = sizes(plan, of_twin=True)
    assert twin["calibration"] == twin["random"] == of_random
    assert {twin[f"{kind} heldout"] for kind in TRAFFIC_KINDS} == {of_kind // 2}
    limited = sum(size for name, size in found.items())
    assert plan.looked_at_of_traffic(CALIBRATION.size, HELDOUT.size, of_twin=False) == limited


@pytest.mark.parametrize("effort", ["quick", "standard", "paper"])
@pytest.mark.parametrize("length", [256, 2048])
def test_a_twin_has_windows_of_every_group_uncut_and_of_the_models(effort: str, length: int) -> None:
    plan = layer_plan(LARGE_PARAMETERS + 1, effort)
    calibration, heldout = (np.arange(first, first + 64 * length).reshape(64, length) for first in (0, 10**6))
    models = plan.tokens(calibration, heldout)
    assert {array.shape[1] for array in models.values()} == {length}
    for split, array in plan.tokens(calibration, heldout, of_twin=True).items():
        assert array.shape == (16, length)
        of_the_model = [sequence.tolist() for sequence in models[split]]
        places = [of_the_model.index(sequence.tolist()) for sequence in array]
        assert np.diff(places).min() == np.diff(places).max() == len(of_the_model) / 16  # spread evenly


def test_passages_of_other_traffic_are_left_out_and_never_cut() -> None:
    plan = layer_plan(LARGE_PARAMETERS + 1, "quick")
    for of_twin in (False, True):
        tokens = plan.traffic(CALIBRATION, HELDOUT, kinds(4, 1024), of_twin=of_twin)
        assert tokens["random"].shape == tokens["heldout"].shape == (8, 256)
        assert tokens["code heldout"].shape == (1, 1024)


def test_what_a_result_depends_on_tells_the_plans_apart() -> None:
    efforts = ("quick", "standard", "paper")
    plans = [layer_plan(LARGE_PARAMETERS + more, effort) for more in (0, 1) for effort in efforts]
    for twin in (False, True):
        assert len({str(plan.traffic_basis(of_twin=twin)) for plan in plans}) == 4  # small, and three efforts


def test_what_is_not_looked_at_is_said() -> None:
    assert layer_plan(LARGE_PARAMETERS, "quick").in_words() == ""
    assert layer_plan(LARGE_PARAMETERS + 1, "quick").in_words() == (
        "layers: 0.5 of the rows, 8,192 held-out tokens; "
        "untrained twins: 0.0625 of the rows, 16 sequences of either text; "
        "other traffic: 0.125 of the rows, 1,024 tokens of each kind and 2,048 random ones"
    )
    assert (
        layer_plan(LARGE_PARAMETERS + 1, "standard").in_words().startswith("layers: all rows, 32,768 held-out tokens;")
    )
