"""Streamed moments: however the tokens are split into batches and groups, the pooled value comes out."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from awq_core.measure.layers.moments import ChannelMoments, MeasurementError

WIDTH = 5


@st.composite
def split_tokens(draw: st.DrawFn, largest_mean: float = 1e6) -> tuple[np.ndarray, list[tuple[int, slice]], int]:
    """Tokens `[tokens, 5]`, a split of them into batches that each belong to a group, and the number of groups."""
    tokens = draw(st.integers(12, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_t(4, size=(tokens, WIDTH)) * np.exp(rng.normal(size=WIDTH))
    x[:, 1] += draw(st.floats(-largest_mean, largest_mean))
    x[:, 2] = draw(st.floats(-1e3, 1e3))  # a constant channel
    x[:, 3] = np.abs(x[:, 3])
    groups = draw(st.integers(2, 4))
    inner = sorted(draw(st.sets(st.integers(1, tokens - 1), min_size=groups - 1, max_size=8)))
    edges = [0, *inner, tokens]
    batches = [slice(a, b) for a, b in itertools.pairwise(edges)]
    owners = [draw(st.integers(0, groups - 1)) for _ in batches]
    owners[:groups] = range(groups)  # no group is empty
    return x, list(zip(owners, batches, strict=True)), groups


def streamed(x: np.ndarray, batches: list[tuple[int, slice]], groups: int) -> ChannelMoments:
    moments = ChannelMoments(WIDTH, groups)
    for group, batch in batches:
        moments.update(torch.from_numpy(x[batch]), group)
    return moments


def kurtosis(x: np.ndarray) -> np.ndarray:
    """scipy's biased excess kurtosis, which is the pooled one; 0 by convention for a constant channel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of the constant channel
        values = stats.kurtosis(x, axis=0, fisher=True, bias=True)
    return np.where(np.ptp(x, axis=0) == 0, 0.0, values)


@given(split_tokens())
def test_any_split_gives_the_pooled_moments(case: tuple[np.ndarray, list[tuple[int, slice]], int]) -> None:
    x, batches, groups = case
    moments = streamed(x, batches, groups)
    assert float(moments.counts.sum()) == len(x)
    np.testing.assert_allclose(moments.magnitude(), np.abs(x).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.mean(), x.mean(axis=0), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(moments.variance(), x.var(axis=0), rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(moments.max_abs, np.abs(x).max(axis=0))
    np.testing.assert_allclose(moments.excess_kurtosis(), kurtosis(x), rtol=1e-6, atol=1e-6)


@given(split_tokens(largest_mean=1e3))
def test_a_group_left_out_is_as_if_it_had_not_come(case: tuple[np.ndarray, list[tuple[int, slice]], int]) -> None:
    x, batches, groups = case
    moments = streamed(x, batches, groups)
    for group in range(groups):
        rest = np.concatenate([x[batch] for owner, batch in batches if owner != group])
        np.testing.assert_allclose(moments.magnitude(without=group), np.abs(rest).mean(axis=0), rtol=1e-10)
        if len(rest) > 3:
            np.testing.assert_allclose(moments.excess_kurtosis(without=group), kurtosis(rest), rtol=1e-4, atol=1e-4)


@given(st.floats(-1e6, 1e6), st.integers(1, 40))
def test_a_constant_channel_has_no_spread_and_no_tails(value: float, per_batch: int) -> None:
    moments = ChannelMoments(1)
    for _ in range(5):
        moments.update(torch.full((per_batch, 1), value, dtype=torch.float64))
    assert float(moments.excess_kurtosis()) == 0.0
    assert float(moments.variance()) <= 1e-20 * max(1.0, value**2)


def test_a_mean_of_kurtoses_would_be_something_else() -> None:
    """Two texts of different scale: each is Gaussian, the pooled tokens are not."""
    rng = np.random.default_rng(0)
    narrow, wide = rng.normal(size=(5000, WIDTH)), 4 * rng.normal(size=(5000, WIDTH))
    pooled = ChannelMoments(WIDTH, 2)
    pooled.update(torch.from_numpy(narrow), 0)
    pooled.update(torch.from_numpy(wide), 1)
    # 3 (1 + 256) / 2 / (17 / 2)^2 - 3
    np.testing.assert_allclose(pooled.excess_kurtosis(), 3 * 128.5 / 8.5**2 - 3, atol=0.3)
    assert np.abs(kurtosis(narrow)).max() < 0.3
    assert np.abs(kurtosis(wide)).max() < 0.3


def test_the_last_partial_batch_counts() -> None:
    """It adds to the statistics and does not overwrite them (a known bug elsewhere)."""
    x = torch.arange(70, dtype=torch.float64).reshape(14, WIDTH)
    moments = ChannelMoments(WIDTH)
    for batch in x.split(4):
        moments.update(batch)
    np.testing.assert_allclose(moments.magnitude(), x.mean(dim=0))
    np.testing.assert_allclose(moments.variance(), x.var(dim=0, correction=0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_inputs_are_summed_in_double(dtype: torch.dtype) -> None:
    x = torch.full((4096, 1), 100.0, dtype=dtype)
    x[::2] += 1
    moments = ChannelMoments(1)
    moments.update(x)
    assert float(moments.mean()) == float(x.double().mean())
    assert float(moments.variance()) == pytest.approx(float(x.double().var(correction=0)), rel=1e-12)


@given(st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.integers(0, 11), st.integers(0, WIDTH - 1))
def test_nan_and_infinity_are_errors(bad: float, token: int, channel: int) -> None:
    x = torch.ones(12, WIDTH)
    x[token, channel] = bad
    moments = ChannelMoments(WIDTH)
    with pytest.raises(MeasurementError, match=f"NaN or infinite activations in 1 of {WIDTH} channels"):
        moments.update(x)


def test_infinities_that_cancel_are_still_errors() -> None:
    with pytest.raises(MeasurementError, match="in 1 of 1 channels"):
        ChannelMoments(1).update(torch.tensor([[float("inf")], [-float("inf")]]))


def test_no_tokens_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="no tokens"):
        ChannelMoments(3).mean()
