"""The clip search against a loop that replays every token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from awq_core.quantization.clipping import search_clipping
from tests import reference_clipping

GROUP = 16


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("tokens", [10, 300], ids=["fewer tokens than channels", "many"])
def test_the_limits_are_those_of_replayed_tokens(bits: int, tokens: int) -> None:
    rng = np.random.default_rng(bits)
    weight = rng.standard_t(3, size=(12, 4 * GROUP))  # heavy tails: something to clip
    weight[0] = np.abs(weight[0]) + 0.3  # one sign
    weight[1, :GROUP] = 0.0
    x = rng.normal(size=(tokens, 4 * GROUP)) @ rng.normal(size=(4 * GROUP, 4 * GROUP))
    x[:, 5] *= 30
    x[:, 3 * GROUP :] = 0.0  # a group that no token reaches: nothing is clipped
    found = search_clipping(torch.from_numpy(weight), torch.from_numpy(x.T @ x), bits, GROUP).numpy()
    np.testing.assert_allclose(found, reference_clipping.search(weight, x, bits, GROUP), rtol=1e-12)
    largest = np.abs(weight).reshape(12, 4, GROUP).max(axis=-1)
    np.testing.assert_array_equal(found[:, 3], largest[:, 3])
    assert (found < largest).mean() > 0.2  # the search has something to find here
