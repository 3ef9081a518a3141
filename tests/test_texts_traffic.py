"""The kinds of traffic: what passages there are, and the tokens that are made of them."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest

import fixtures.texts.traffic
from awq_core.measured import SPLITS, TRAFFIC_KINDS
from fixtures.errors import UserError
from fixtures.texts.tokens import tokenize
from fixtures.texts.traffic import (
    FOLDER,
    FOREIGN,
    FOREIGN_PART,
    LONG_PROMPT_LENGTH,
    TOKENS,
    Traffic,
    passages,
    select_traffic,
)
from tests.tiny_models import byte_tokenizer

EVERY = [(kind, split) for kind in TRAFFIC_KINDS for split in SPLITS]
VOCABULARY = 260


def test_the_kinds_are_the_lesson_s() -> None:
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == set(TRAFFIC_KINDS)
    assert set(TRAFFIC_KINDS) == {"prose", "code", "json", "long-prompts", "languages"}
    assert FOREIGN in TRAFFIC_KINDS


@pytest.mark.parametrize("kind", TRAFFIC_KINDS)
def test_a_kind_has_twenty_passages_half_of_them_in_either_split(kind: str) -> None:
    calibration, heldout = (passages(kind, split) for split in SPLITS)
    assert len(calibration) == len(heldout) >= 10
    assert len({*calibration, *heldout}) == len(calibration) + len(heldout)
    entries = (FOLDER / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(entries) == len(calibration) + len(heldout)
    least = 3000 if kind == "long-prompts" else 250
    assert all(len(text) >= least for text in [*calibration, *heldout])


def test_no_two_splits_of_any_kinds_share_a_line() -> None:
    """Of more than 40 characters: shorter ones are braces and imports."""
    lines = {
        place: {line.strip() for text in passages(*place) for line in text.splitlines() if len(line.strip()) > 40}
        for place in EVERY
    }
    assert all(lines.values())
    for first, second in combinations(EVERY, 2):
        assert not lines[first] & lines[second], f"{first} and {second}"


def test_the_languages_are_in_either_split() -> None:
    entries = [json.loads(line) for line in (FOLDER / "languages.jsonl").read_text(encoding="utf-8").splitlines()]
    for split in SPLITS:
        found = {entry["language"] for entry in entries if entry["split"] == split}
        assert found >= {"zh", "es", "de", "ar"}
        assert "en" not in found


def test_json_passages_hold_tool_calls() -> None:
    for split in SPLITS:
        assert any("tool" in text or "function" in text for text in passages("json", split))
        assert all("{" in text for text in passages("json", split))


def selected(
    calibration: tuple[int, int] = (8, 64), context: int = 2048, seed: int = 0, template: str | None = None
) -> Traffic:
    tokenizer = byte_tokenizer(template=template)
    return select_traffic(tokenizer, np.zeros(calibration, dtype=np.int64), context, VOCABULARY, seed)


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return selected()


def test_all_kinds_weigh_the_same(traffic: Traffic) -> None:
    assert list(traffic.kinds) == list(TRAFFIC_KINDS)
    for kind, parts in traffic.kinds.items():
        length = LONG_PROMPT_LENGTH if kind == "long-prompts" else 256
        assert {split: array.shape for split, array in parts.items()} == dict.fromkeys(
            SPLITS, (TOKENS // length, length)
        )


@pytest.mark.parametrize(("context", "longest"), [(2048, 1024), (512, 512), (128, 128)])
def test_no_sequence_is_longer_than_the_context(context: int, longest: int) -> None:
    for kind, parts in selected(context=context).kinds.items():
        for array in parts.values():
            assert array.shape[1] == min(longest, context, 1024 if kind == "long-prompts" else 256)
            assert array.size <= TOKENS


def test_sequences_are_the_passages_own_tokens(traffic: Traffic) -> None:
    for kind, split in EVERY:
        stream = tokenize(byte_tokenizer(), passages(kind, split), VOCABULARY)
        array = traffic.kinds[kind][split]
        whole = stream[: len(stream) // array.shape[1] * array.shape[1]].reshape(-1, array.shape[1])
        rows = {row.tobytes(): index for index, row in enumerate(whole)}
        places = [rows[row.tobytes()] for row in array]
        assert places == sorted(places)
        assert places[-1] > len(whole) * (1 - 2 / len(array))  # spread over all passages


def test_a_short_stream_is_one_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixtures.texts.traffic, "passages", lambda kind, split: [f"{kind} {split}."] * 2)
    for parts in selected().kinds.values():
        assert all(len(array) == 1 and 0 < array.shape[1] < 64 for array in parts.values())


@pytest.mark.parametrize("shape", [(8, 64), (3, 200), (100000, 8)])
def test_foreign_text_comes_in_the_calibration_s_shape_as_far_as_there_is(shape: tuple[int, int]) -> None:
    found = selected(shape)
    stream = tokenize(byte_tokenizer(), passages(FOREIGN, "calibration"), VOCABULARY)
    assert found.foreign.shape == (min(max(1, shape[0] // FOREIGN_PART), len(stream) // shape[1]), shape[1])
    assert found.foreign[0].tolist() == stream[: shape[1]].tolist()
    assert found.random.shape == shape


def test_random_tokens_are_uniform_and_follow_the_seed() -> None:
    shape = (64, 256)
    first, again, other = selected(shape), selected(shape), selected(shape, seed=1)
    np.testing.assert_array_equal(first.random, again.random)
    assert not np.array_equal(first.random, other.random)
    known = len(byte_tokenizer())
    counts = np.bincount(first.random.ravel(), minlength=known)
    assert len(counts) == known  # no id that the tokenizer does not have
    assert counts.min() > 0.5 * counts.mean()
    assert counts.max() < 1.5 * counts.mean()


def test_every_array_has_a_name(traffic: Traffic) -> None:
    splits = traffic.splits()
    assert set(splits) == {"random"} | {f"{kind} {split}" for kind, split in EVERY}
    assert splits["code heldout"] is traffic.kinds["code"]["heldout"]
    assert all(array.dtype == np.int64 for array in [*splits.values(), traffic.foreign])


def test_the_hash_changes_with_whatever_is_measured(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    assert selected().hash == traffic.hash
    others: list[Any] = [selected(seed=1), selected((8, 65)), selected((9, 64)), selected(context=128)]
    for place in EVERY:
        with monkeypatch.context() as patch:
            patch.setattr(
                fixtures.texts.traffic,
                "passages",
                lambda kind, split, changed=place: ["A"] * ((kind, split) == changed) + passages(kind, split),
            )
            others.append(selected())
    hashes = {traffic.hash, *(other.hash for other in others)}
    assert len(hashes) == 1 + len(others) == 15


def test_an_id_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match="the model knows only 100 tokens"):
        select_traffic(byte_tokenizer(), np.zeros((2, 8), dtype=np.int64), 64, 100, 0)


def test_every_sequence_begins_with_the_start_token() -> None:
    plain, started = (selected(template=template) for template in ("$A", "<B> $A"))
    for array in (*started.splits().values(), started.foreign):
        assert np.all(array[:, 0] == 257)
    assert {name: array.shape for name, array in started.splits().items()} == {
        name: array.shape for name, array in plain.splits().items()
    }
    assert np.array_equal(started.random[:, 1:], plain.random[:, 1:])
    assert np.array_equal(started.foreign[0, 1:], plain.foreign[0, :-1])


def test_a_short_stream_is_one_sequence_with_its_start_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixtures.texts.traffic, "passages", lambda kind, split: [f"{kind} {split}."])
    started = selected(template="<B> $A")
    text = byte_tokenizer()("prose heldout.")["input_ids"]
    assert started.kinds["prose"]["heldout"].tolist() == [[257, *text]]
