"""From documents to sequences of tokens."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from fixtures.errors import UserError
from fixtures.models.loading import load_tokenizer
from fixtures.models.quiet import quiet
from fixtures.models.resolve import resolve
from fixtures.texts.choose import Texts
from fixtures.texts.effort import EFFORTS, Effort, default_effort, effort_of
from fixtures.texts.tokens import select_tokens, sequences, start_token_of, token_hash, tokenize
from tests.refusals import refusal
from tests.tiny_models import byte_tokenizer, write_model


def texts(calibration: str | list[str], heldout: str | list[str], notes: tuple[str, ...] = ()) -> Texts:
    both = [(text,) if isinstance(text, str) else tuple(text) for text in (calibration, heldout)]
    return Texts(both[0], both[1], "A", "B", notes)


def test_the_efforts_are_the_registered_ones() -> None:
    assert {
        "quick": Effort("quick", 16384, 256, 32768, 512, 2 * 10**15),
        "standard": Effort("standard", 32768, 512, 262144, 2048, 4 * 10**17),
        "paper": Effort("paper", 65536, 512, None, 2048),
    } == EFFORTS
    assert default_effort("cpu") == "quick"
    assert default_effort("cuda:1") == "standard"


def test_quick_has_shorter_windows_for_a_large_model_alone() -> None:
    assert effort_of("quick", 50_000_000) == EFFORTS["quick"]
    large = effort_of("quick", 50_000_001)
    assert (large.window_length, large.heldout_tokens) == (256, 16384)  # as many windows
    assert (large.calibration_tokens, large.name) == (16384, "quick")
    assert effort_of("standard", 10**10) == EFFORTS["standard"]


def test_one_document_gets_no_special_token() -> None:
    tokenizer = byte_tokenizer(bos=True)
    ids = tokenize(tokenizer, ["abc"], 260)
    assert ids.dtype == np.int64
    assert ids.shape == (3,)
    assert tokenizer.decode(ids) == "abc"


@pytest.mark.parametrize(("bos", "eos"), [(True, False), (False, True)])
def test_of_several_documents_each_begins_with_the_special_token(bos: bool, eos: bool) -> None:
    ids = tokenize(byte_tokenizer(bos, eos), ["ab", "c"], 260)
    assert ids.shape == (5,)
    assert list(np.flatnonzero(ids == 0)) == [0, 3]


def test_without_special_tokens_documents_are_joined_as_they_are() -> None:
    assert tokenize(byte_tokenizer(bos=False, eos=False), ["ab", "c"], 260).shape == (3,)


def test_a_text_longer_than_the_context_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger("transformers")  # keeps its records to itself, so caplog must listen there
    library.addHandler(caplog.handler)
    try:
        assert tokenize(byte_tokenizer(), ["x" * 1000], 260).shape == (1000,)
    finally:
        library.removeHandler(caplog.handler)
    assert caplog.records == []


def test_an_id_that_the_model_does_not_know_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<new>"])
    assert refusal(tokenize, tokenizer, ["a <new> word"], 257) == (
        "the tokenizer gives id 257 for the text, the model knows only 257 tokens; "
        "put the model's own tokenizer beside it"
    )


def test_all_sequences_drop_the_remainder() -> None:
    assert sequences(np.arange(11), 3, None).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert sequences(np.arange(11), 3, 5).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert sequences(np.arange(2), 3, None).shape == (0, 3)


@pytest.mark.parametrize(("available", "count"), [(10, 3), (7, 6), (100, 1), (64, 64), (1591, 64)])
def test_fewer_sequences_are_spread_over_the_whole_text(available: int, count: int) -> None:
    chosen = sequences(np.arange(available * 4), 4, count)[:, 0] // 4
    gaps = np.diff([*chosen, available])
    assert len(set(chosen)) == count
    assert chosen[0] == 0
    assert gaps.max() - gaps.min() <= 1


def test_the_hash_tells_shapes_and_values_apart_and_not_number_formats() -> None:
    tokens = np.arange(6)
    hashes = {
        token_hash(tokens.reshape(2, 3)),
        token_hash(tokens.reshape(3, 2)),
        token_hash(tokens[::-1].reshape(2, 3)),
    }
    assert len(hashes) == 3
    assert token_hash(tokens.reshape(2, 3).astype(np.int32)) == token_hash(tokens.reshape(2, 3))
    # SHA-256 of "1x2:" and two little-endian 64-bit ones, computed with sha256sum.
    assert token_hash(np.ones((1, 2))) == "e86c745ffea741e4933d8c9e624ec8f0a14f20ebf55c9642e85d356ef5ee2afd"


def test_a_run_s_tokens_have_the_effort_s_shapes() -> None:
    chosen = select_tokens(
        byte_tokenizer(), texts("c" * 40_000, "h" * 40_000, ("a note",)), EFFORTS["quick"], 1024, 260
    )
    assert chosen.calibration.shape == (64, 256)
    assert chosen.heldout.shape == (64, 512)
    assert chosen.calibration.dtype == chosen.heldout.dtype == np.int64
    assert (chosen.calibration_name, chosen.heldout_name) == ("A", "B")
    assert chosen.calibration_hash == token_hash(chosen.calibration) != chosen.heldout_hash
    assert chosen.heldout_hash == token_hash(chosen.heldout)
    assert chosen.notes == ("a note",)


def test_sequences_come_from_many_documents() -> None:
    documents = [letter * 4000 for letter in "abcdefghijklmnopqrstuvwxyz"]
    chosen = select_tokens(byte_tokenizer(), texts(documents, "h" * 40_000), EFFORTS["quick"], 1024, 260)
    assert len(set(chosen.calibration.ravel())) == 27


FEW = "the held-out text has {} windows of {} tokens, {} asks for {}"
LITTLE = "the calibration text has 2048 tokens, quick asks for 16384"
SHORT = "the {} text ({}) is too short: it has {} tokens, {} are needed{}; give a longer --{}-text"


@pytest.mark.parametrize(
    ("lengths", "effort", "context", "shapes", "notes"),
    [
        ((40_000, 40_000), "standard", 128, ((256, 128), (312, 128)), [FEW.format(312, 128, "standard", 2048)]),
        ((70_000, 2048 * 20), "paper", 4096, ((128, 512), (20, 2048)), []),
        ((2100, 512 * 20), "quick", 1024, ((8, 256), (20, 512)), [LITTLE, FEW.format(20, 512, "quick", 64)]),
    ],
    ids=["a small context shortens both", "every window", "short texts are used whole"],
)
def test_what_there_is_of_context_and_text_is_used_with_a_note(
    lengths: tuple[int, int], effort: str, context: int, shapes: tuple[tuple[int, int], ...], notes: list[str]
) -> None:
    words = texts("c" * lengths[0], "h" * lengths[1])
    chosen = select_tokens(byte_tokenizer(), words, EFFORTS[effort], context, 260)
    assert (chosen.calibration.shape, chosen.heldout.shape) == shapes
    assert list(chosen.notes) == notes


@pytest.mark.parametrize(("template", "start"), [("$A", 0), ("<B> $A", 1)])
@pytest.mark.parametrize(("at_least", "missing", "length"), [(512, 0, 512), (512, 1, 256), (64, 0, 64)])
def test_windows_are_halved_until_there_are_sixteen(
    at_least: int, missing: int, length: int, template: str, start: int
) -> None:
    """With a start token each needs one token of text less."""
    tokens = 16 * (at_least - start) - missing
    words = texts("c" * 40_000, "h" * tokens)
    chosen = select_tokens(byte_tokenizer(template=template), words, EFFORTS["quick"], 1024, 260)
    assert chosen.heldout.shape == (tokens // (length - start), length)
    if length < 512:
        assert chosen.notes == (f"the held-out text is short: windows of {length} tokens instead of 512",)


@pytest.mark.parametrize(
    ("lengths", "template", "words"),
    [
        ((2047, 40_000), "$A", SHORT.format("calibration", "A", 2047, 2048, "", "calibration")),
        ((40_000, 1023), "$A", SHORT.format("held-out", "B", 1023, 1024, " (16 windows of 64)", "heldout")),
        ((40_000, 1007), "<B> $A", SHORT.format("held-out", "B", 1007, 1008, " (16 windows of 64)", "heldout")),
    ],
)
def test_a_text_that_is_too_short(lengths: tuple[int, int], template: str, words: str) -> None:
    given = byte_tokenizer(template=template), texts("c" * lengths[0], "h" * lengths[1])
    assert refusal(select_tokens, *given, EFFORTS["quick"], 1024, 260) == words


@pytest.mark.parametrize(
    ("template", "start"),
    [(None, None), ("$A", None), ("<B> $A", 257), ("<B> $A <E>", 257), ("$A <E>", None)],
)
def test_the_start_token_is_what_the_tokenizer_puts_in_front(template: str | None, start: int | None) -> None:
    assert start_token_of(byte_tokenizer(template=template), 260) == start


def test_a_beginning_of_sequence_token_that_is_not_put_in_front_is_no_start_token() -> None:
    assert byte_tokenizer(bos=True).bos_token_id == 0
    assert start_token_of(byte_tokenizer(bos=True), 260) is None


@pytest.mark.parametrize("stated", [True, False])
def test_the_tokenizer_s_own_file_decides_and_the_library_s_automatic_class_agrees(
    tmp_path: Path, stated: bool
) -> None:
    """Where tokenizer.json is there, the library ignores `add_bos_token` beside it."""
    for template, start in (("<B> $A", 257), ("$A", None)):
        folder = write_model(tmp_path / template[-2:] / template[:1], "llama")
        byte_tokenizer(template=template).save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        stored = json.loads(path.read_text()) | {"bos_token": "<B>", "add_bos_token": stated}
        path.write_text(json.dumps(stored | {"tokenizer_class": "LlamaTokenizer"}))
        ours = load_tokenizer(resolve(str(folder), None))
        with quiet():
            library = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        assert start_token_of(ours, 260) == start_token_of(library, 260) == start


def test_a_start_token_that_the_model_does_not_know() -> None:
    with pytest.raises(UserError, match="the tokenizer gives id 257 for the text, the model knows only 200 tokens"):
        start_token_of(byte_tokenizer(template="<B> $A"), 200)


def test_a_start_token_takes_the_first_place_of_every_sequence_and_no_text_is_lost() -> None:
    chosen = sequences(np.arange(11), 4, None, 99)
    assert chosen.tolist() == [[99, 0, 1, 2], [99, 3, 4, 5], [99, 6, 7, 8]]
    assert sequences(np.arange(40), 5, 2, 99).tolist() == [[99, 0, 1, 2, 3], [99, 20, 21, 22, 23]]


def test_every_window_and_calibration_sequence_begins_with_the_start_token() -> None:
    words = texts("c" * 40_000, "h" * 40_000)
    chosen = select_tokens(byte_tokenizer(template="<B> $A <E>"), words, EFFORTS["quick"], 1024, 260)
    assert chosen.start_token == 257
    assert chosen.calibration.shape == (64, 256)
    assert chosen.heldout.shape == (64, 512)
    c, h = byte_tokenizer()("ch")["input_ids"]
    for tokens, letter in ((chosen.calibration, c), (chosen.heldout, h)):
        assert np.all(tokens[:, 0] == 257)
        assert np.all(tokens[:, 1:] == letter)


def test_without_a_start_token_nothing_is_put_anywhere() -> None:
    words = texts("c" * 40_000, "h" * 40_000)
    plain = select_tokens(byte_tokenizer(), words, EFFORTS["quick"], 1024, 260)
    appended = select_tokens(byte_tokenizer(template="$A <E>"), words, EFFORTS["quick"], 1024, 260)
    assert plain.start_token is appended.start_token is None
    assert (plain.calibration_hash, plain.heldout_hash) == (appended.calibration_hash, appended.heldout_hash)
