"""The figures: drawn without a warning, not blank, and titled with what the data say."""

import io
import json

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from reports.figures import draw_all
from reports.figures.canvas import percent, style, times
from reports.figures.kurtosis import kurtosis_by_block
from reports.figures.palette import FAMILY_COLOURS, family_colour
from reports.figures.perplexity import perplexity_by_strategy
from reports.figures.reduction import reduction_across_models, reduction_by_family, reduction_by_linear
from reports.figures.saliency import hockey_stick
from reports.figures.surface import importance_surface
from tests.hand_made import ROLES, lifelike, set_site

ALL = [
    "hockey_stick",
    "importance_surface_down",
    "importance_surface_o",
    "kurtosis_by_block",
    "kurtosis_and_importance_by_family",
    "error_by_bits",
    "reduction_by_linear",
    "reduction_by_family",
    "reduction_across_models",
    "error_by_direction",
    "perplexity_by_strategy",
]


@pytest.fixture(autouse=True)
def styled():
    with style():
        yield


def assert_drawn(drawing):
    pixels = imread(io.BytesIO(drawing.png))[..., :3]
    inked = (pixels < 0.9).any(axis=-1)
    # Ink in each quarter of the picture: a figure whose axes failed to draw has a title only.
    height = inked.shape[0]
    assert all(inked[i * height // 4 : (i + 1) * height // 4].sum() > 300 for i in range(4))


def test_every_figure_is_drawn():
    measured = lifelike()
    before = dict(mpl.rcParams)
    drawings = draw_all(measured, [measured, lifelike("synthetic-tiny", blocks=4, width=64, seed=1)])
    assert list(drawings) == ALL
    for drawing in drawings.values():
        assert_drawn(drawing)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("blocks", "width", "twins", "with_losses"), [(1, 128, 0, False), (4, 32, 1, True), (30, 64, 2, True)]
)
def test_figures_of_unusual_models(blocks, width, twins, with_losses):
    measured = lifelike(blocks=blocks, width=width, twins=twins, with_losses=with_losses)
    drawings = draw_all(measured, [measured])
    assert list(drawings) == (ALL if with_losses else ALL[:-1])
    for drawing in drawings.values():
        assert_drawn(drawing)


def test_a_figure_can_be_shown_without_its_title():
    drawing = kurtosis_by_block(lifelike())
    whole = imread(io.BytesIO(drawing.png))
    below = imread(io.BytesIO(drawing.below_title.png))
    assert below.shape == (drawing.below_title.height, drawing.below_title.width, *below.shape[2:])
    assert np.array_equal(below[..., :3], whole[drawing.head :, :, :3])
    assert (whole[: drawing.head, :, :3] < 0.5).any()


def test_another_architectures_families_are_drawn_under_their_own_names():
    measured = lifelike()
    names = {"q": "qkv", "k": "qkv", "v": "qkv", "o": "dense", "gate": "fc1", "up": "fc1", "down": "fc2"}
    families = [names[family] for family in measured.channels["linear_family"].values]
    measured.channels["linear_family"] = ("linear", families)
    measured.errors["linear_family"] = ("linear", families)
    drawings = draw_all(measured, [measured])
    assert "importance_surface_fc2" in drawings
    assert "importance_surface_dense" in drawings
    assert drawings["kurtosis_by_block"].finding.startswith("dense and fc2 carry")


def test_wide_models_are_drawn_with_the_largest_of_neighbours():
    measured = lifelike(blocks=2, width=512)
    drawing = importance_surface(measured, "down")
    assert "1,024 channels in 256 places" in drawing.reading
    assert_drawn(drawing)


def test_the_surface_names_the_tallest_channel():
    measured = lifelike()
    measured.channels["magnitude"].loc[{"site": "3 mlp_out", "channel": 77}] = 500.0
    assert importance_surface(measured, "down").finding.startswith(
        "down's tallest tower, block 3's channel 77, stands "
    )
    assert importance_surface(measured, "experts") is None


def test_the_hockey_stick_states_the_most_concentrated_linears_share():
    measured = lifelike()
    measured.channels["weight_size"].loc[{"linear": "model.layers.4.mlp.gate_proj"}] = 1.0
    magnitude = measured.channels["magnitude"]
    magnitude.loc[{"site": "4 mlp_in"}] = np.where(np.isfinite(magnitude.sel(site="4 mlp_in")), 1.0, np.nan)
    magnitude.loc[{"site": "4 mlp_in", "channel": 5}] = 127.0
    measured.channels["weight_size"].loc[{"linear": "model.layers.4.mlp.up_proj", "channel": 5}] = 0.0
    finding = hockey_stick(measured).finding
    # One of 128 channels has importance 127, the others 1 each: half of all of it, 64 times its share.
    assert finding.startswith("The top 1% of channels hold 50% of the importance in block 4's gate, 64× their share")


def set_kurtosis(measured, behind, rest):
    for role in ROLES:
        set_site(measured, "excess_kurtosis", role, behind if role.endswith("out") else rest)


def test_the_kurtosis_figure_states_the_ratio_and_the_twins():
    measured = lifelike(twins=1)
    set_kurtosis(measured, 3.8, 0.1)
    set_kurtosis(measured.twins[0], 2.1, 0.1)
    finding = kurtosis_by_block(measured).finding
    assert finding == "o and down carry 38× the kurtosis of the rest (3.8 against 0.1); in the untrained twin 21×"
    set_kurtosis(measured, 4.0, -0.02)
    assert "80× the kurtosis of the rest (4 against −0.02, floored at 0.05)" in kurtosis_by_block(measured).finding


def set_reduction(measured, factor_by_name):
    """Make e(RTN) / e(AWQ) exactly the given factors: alpha 0.5 is best, every other exponent is RTN."""
    error = measured.errors["output_error"]
    error[:] = 1.0
    for name, factor in factor_by_name.items():
        error.loc[{"linear": name, "alpha": 0.5}] = 1 / factor


def test_the_reduction_map_names_the_linear_that_gains_most():
    measured = lifelike(blocks=4)
    names = measured.errors["linear"].values
    set_reduction(measured, {names[0]: 1.5, names[9]: 4.0})
    finding = reduction_by_linear(measured).finding
    assert finding == f"{percent(2 / 28)} of linears gain more than 1% at 3 bits; most gains block 1's v, 4.0×"


def test_the_family_figure_says_when_mean_and_median_disagree():
    measured = lifelike(blocks=5)
    names = [str(name) for name in measured.errors["linear"].values]
    factors = {name: 1.3 for name in names if "up_proj" in name} | {"model.layers.0.mlp.down_proj": 6.0}
    set_reduction(measured, factors)
    finding = reduction_by_family(measured).finding
    assert finding == "Mean and median tell different stories: by mean down gains most (2.0×), by median up (1.30×)"


def test_the_comparison_counts_the_models_and_says_when_there_is_only_one():
    first, second = lifelike("a"), lifelike("b", seed=2)
    downs = [str(n) for n in first.errors["linear"].values if "down_proj" in n or "o_proj" in n]
    set_reduction(first, dict.fromkeys(downs, 2.0))
    set_reduction(second, {})
    assert reduction_across_models([first, second]).finding == (
        "o and down gain over 0.05 more than the rest in 1 of 2 models (mean 2.0× against 1.00×, 1.00× against 1.00×)"
    )
    assert reduction_across_models([first]).finding.startswith("On a, the only model measured, o and down gain 2.0×")


def test_the_perplexity_figure_states_what_awq_wins_back():
    measured = lifelike()
    loss = measured.losses["window_loss"]
    gaps = {"rtn-4": 0.04, "awq-block-4": 0.03, "rtn-3": 0.2, "awq-block-3": 0.25}
    for strategy, gap in (gaps | {"awq-block-clip-4": 0.02, "awq-block-clip-3": 0.15}).items():
        loss.loc[{"strategy": strategy}] = loss.sel(strategy="full") + gap
    assert perplexity_by_strategy(measured).finding == (
        "At 4 bits AWQ wins back 25% of the 0.04 nats RTN loses (50% won back with clipping); "
        "at 3 bits AWQ loses 25% more than RTN's 0.2 nats (25% won back with clipping)"
    )
    assert perplexity_by_strategy(lifelike(with_losses=False)) is None


def test_the_perplexity_figure_compares_methods_on_the_windows_of_both():
    measured = lifelike()
    loss = measured.losses["window_loss"]
    first = np.arange(loss.sizes["window"]) < loss.sizes["window"] // 2
    # RTN loses 0.04 nats where AWQ was scored, and ten times as much where it was not.
    for strategy, gap in {"rtn-4": np.where(first, 0.04, 0.4), "awq-block-4": 0.03}.items():
        loss.loc[{"strategy": strategy}] = loss.sel(strategy="full") + gap
    loss.loc[{"strategy": "awq-block-4"}] = loss.sel(strategy="awq-block-4").where(first)
    measured.losses.attrs["looks"] = json.dumps({"count": 2})
    assert "At 4 bits AWQ wins back 25% of the 0.04 nats" in perplexity_by_strategy(measured).finding


def test_families_have_distinct_colours_and_unknown_ones_keep_theirs():
    seven = [FAMILY_COLOURS[family] for family in ("q", "k", "v", "o", "gate", "up", "down")]
    assert len(set(seven)) == 7
    assert family_colour("experts") == family_colour("experts") not in seven


def test_ratios_and_shares_have_the_digits_they_deserve():
    assert [times(value) for value in (38.4, 2.31, 1.043)] == ["38×", "2.3×", "1.04×"]
    assert [percent(value) for value in (0.123, 0.0181, 0.0004)] == ["12%", "1.8%", "0.04%"]
