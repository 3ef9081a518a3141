"""Modules with other weights, from differences alone, against modules that really have them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awq_core.architectures.block_stream import BlockStream
from awq_core.architectures.model import applicable_folds, linear
from awq_core.measure.methods import block_inputs, scale_losses, scale_search
from awq_core.measure.methods.attention_trials import AttentionAtPositions, WholeSequences
from awq_core.measure.methods.block_inputs import BlockInputs
from awq_core.measure.methods.trials import Trial, low_precision, mean_square, output_of
from awq_core.quantization.quantizers import DEPLOYED
from tests.tiny_architectures import CASES, Case, every_case, tiny, token_ids

AT_POSITIONS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "mixtral", "qwen2_moe")
"""Model types with three projections and attention that may be replaced."""
at_positions = [shape for shape in CASES if shape.model_type in AT_POSITIONS]


def inspected(shape: Case, block: int = 1) -> Iterator[tuple[nn.Module, list[Any], Any, Any]]:
    """Every inspected module of a block, the group's linears, and what the module was called with."""
    model, architecture = tiny(shape)
    stream = BlockStream(model, architecture, {"": token_ids(6, 24).numpy()}, groups=1)
    stream.skip(0)
    stream.begin(block)
    inputs = BlockInputs(stream, block, "", torch.float64)
    for fold in applicable_folds(model, architecture, block, grouped=True):
        if fold.inspected in inputs.calls:
            paths = [path for site in fold.sites for _, path in architecture.site(site).linears]
            linears = [linear(model, f"{architecture.blocks}.{block}.{path}") for path in paths]
            ((args, kwargs),) = inputs.calls[fold.inspected]
            yield inputs.module.get_submodule(fold.inspected), linears, args, kwargs


def differences(linears: list[Any], seed: int = 0) -> list[Tensor]:
    """A tenth of each weight's size, as the weight is stored."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(m.weight.shape, generator=generator, dtype=m.weight.dtype) * 0.1 * m.weight.std() for m in linears
    ]


@contextmanager
def added(linears: list[Any], changes: list[Tensor]) -> Iterator[None]:
    with torch.no_grad():
        originals = [m.weight.clone() for m in linears]
        for module, change in zip(linears, changes, strict=True):
            module.weight += change
        yield
        for module, original in zip(linears, originals, strict=True):
            module.weight.copy_(original)


def as_changes(linears: list[Any], changes: list[Tensor]) -> dict[int, Tensor]:
    """`(in, out)` each; GPT-2 stores its weights so."""
    return {
        id(m.weight): change.T if isinstance(m, nn.Linear) else change
        for m, change in zip(linears, changes, strict=True)
    }


def outputs(module: nn.Module, linears: list[Any], args: Any, kwargs: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The output in full precision, its change under other weights, and the weights' changes."""
    changes = differences(linears)
    with torch.no_grad():
        full = output_of(module(*args, **kwargs))
        with added(linears, changes):
            return full, output_of(module(*args, **kwargs)) - full, changes


@every_case
def test_a_module_with_other_weights_gives_what_the_differences_say(shape: Case) -> None:
    """Attention, MLPs, mixtures of experts and whole blocks."""
    for module, linears, args, kwargs in inspected(shape):
        full, expected, changes = outputs(module, linears, args, kwargs)
        trial = Trial(module, args, kwargs)
        torch.testing.assert_close(trial.full, full, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(trial.change(as_changes(linears, changes)), expected, rtol=1e-9, atol=1e-9)
        assert expected.abs().max() > 1e-3
        nothing = {key: torch.zeros_like(change) for key, change in as_changes(linears, changes).items()}
        assert not trial.change(nothing).any()  # nothing is left of one trial in the next
        torch.testing.assert_close(trial.change(as_changes(linears, changes)), expected, rtol=1e-9, atol=1e-9)


PLACES = torch.stack(
    [torch.randperm(24, generator=torch.Generator().manual_seed(s))[:5].sort().values for s in range(6)]
)


@pytest.mark.parametrize("shape", at_positions, ids=[shape.name for shape in at_positions])
@pytest.mark.parametrize("block", [0, 1])
def test_attention_at_some_positions_is_the_whole_module_s_output_there(shape: Case, block: int) -> None:
    """Positions of each sequence's own; sliding windows (of one block in gemma3) and shared values included."""
    module, linears, args, kwargs = next(inspected(shape, block))
    projections = [id(m.weight) for m in linears]
    assert len(projections) == 3
    full, changed, changes = outputs(module, linears, args, kwargs)
    rows = torch.arange(6)[:, None]
    trial = AttentionAtPositions(module, args, kwargs, PLACES, projections)
    torch.testing.assert_close(trial.full, full[rows, PLACES], rtol=1e-9, atol=1e-9)
    found = trial.change(as_changes(linears, changes))
    torch.testing.assert_close(found, changed[rows, PLACES], rtol=1e-9, atol=1e-9)
    whole = WholeSequences(module, args, kwargs, PLACES)
    torch.testing.assert_close(whole.change(as_changes(linears, changes)), found, rtol=1e-9, atol=1e-9)
    assert AttentionAtPositions.matches(full[rows, PLACES], module, args, kwargs, PLACES, projections)
    assert not AttentionAtPositions.matches(full[rows, PLACES] * 1.01, module, args, kwargs, PLACES, projections)
    assert not AttentionAtPositions.matches(full, module, args, kwargs, PLACES, projections)


@every_case
def test_the_search_looks_at_positions_where_it_can(shape: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[type] = []
    for name in ("AttentionAtPositions", "WholeSequences"):
        kind = getattr(scale_losses, name)

        class Watched(kind):  # type: ignore[misc, valid-type]
            def _output(self, changes: Any, kind: type = kind) -> Tensor:
                if changes:
                    used.append(kind)
                return super()._output(changes)

        monkeypatch.setattr(scale_losses, name, Watched)
    model, architecture = tiny(shape)
    stream = BlockStream(model, architecture, {"": token_ids(6, 24).numpy()}, groups=1)
    stream.begin(0)
    inputs = BlockInputs(stream, 0, "", torch.float64)
    (fold, *_) = applicable_folds(model, architecture, 0)
    scale_search.search_group(model, architecture, 0, fold, DEPLOYED, 3, inputs)
    if "attention_in" not in fold.sites or fold.inspected not in inputs.calls:
        assert not used
    else:
        assert set(used) == {AttentionAtPositions if shape in at_positions else WholeSequences}


@pytest.mark.parametrize("room", [0, 2**27])
def test_trials_serve_every_search_where_there_is_room(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second search finds the same, whether or not the first one's trials are stored."""
    monkeypatch.setattr(block_inputs, "TRIAL_BYTES", room)
    made: list[Hashable] = []
    genuine = BlockInputs.trial
    monkeypatch.setattr(
        BlockInputs, "trial", lambda self, key, make: genuine(self, key, lambda: made.append(key) or make())
    )
    model, architecture = tiny(at_positions[0])
    stream = BlockStream(model, architecture, {"": token_ids(6, 24).numpy()}, groups=1)
    stream.begin(0)
    inputs = BlockInputs(stream, 0, "", torch.float64)
    folds = applicable_folds(model, architecture, 0)
    expected = [scale_search.search_group(model, architecture, 0, fold, DEPLOYED, 3, inputs) for fold in folds]
    once = len(made)
    found = [scale_search.search_group(model, architecture, 0, fold, DEPLOYED, 3, inputs) for fold in folds]
    assert once > 0
    assert len(made) == (once if room else 2 * once)
    assert [entry.losses for entry in found] == [entry.losses for entry in expected]


def test_differences_are_multiplied_in_half_precision_where_the_processor_can(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    for can in (False, True):
        monkeypatch.setattr("awq_core.measure.methods.trials.multiplies_bfloat16", lambda device, can=can: can)
        assert low_precision(values).dtype == (torch.bfloat16 if can else torch.float32)
        assert low_precision(values.double()).dtype == torch.float64
        expected = values.double().square().mean(dim=1)
        torch.testing.assert_close(mean_square(low_precision(values)), expected, rtol=0.02 if can else 1e-6, atol=0)
