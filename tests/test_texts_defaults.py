"""Which texts a model gets, and that calibration and held-out text share no document."""

from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pyarrow
import pytest
from huggingface_hub import errors
from pyarrow import parquet

from fixtures.errors import UserError
from fixtures.models.resolve import ModelSource
from fixtures.texts import choose as defaults
from fixtures.texts import python_docs as corpus
from fixtures.texts import wikitext
from fixtures.texts.choose import choose_texts
from fixtures.texts.overlap import separate
from tests.refusals import refusal

EMBEDDED = ModelSource("embedded-tiny", Path("here"), None, None, "embedded", "embedded")
FOLDER = ModelSource("mine", Path("here"), None, None, None, "folder")
HUB = ModelSource("org--name", None, "org/name", None, None, "hub")
CONTROL = ModelSource("null-control", None, None, None, "null-control", "control")

ROWS = [" \n", " = Title = \n", " \n", " Some text . \n"]
JOINED = "\n\n = Title = \n\n\n\n\n Some text . \n"
LONG = "All work and no play makes a dull document. " * 6


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python library of two modules, an empty hub cache, and no network."""

    def documents(split: str) -> list[corpus.Document]:
        return [corpus.Document(f"module-{split}", f"the {split} modules")]

    def no_network(*_: object, **__: object) -> str:
        raise errors.LocalEntryNotFoundError("Cannot reach the hub.\nMore words.")

    monkeypatch.setattr(corpus, "documents", documents)
    monkeypatch.setattr(defaults, "_python_documentation", defaults._python_documentation.__wrapped__)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)


@pytest.fixture
def texts_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts" / "wikitext-2"
    folder.mkdir(parents=True)
    (folder / "validation.txt").write_text("".join(ROWS) + " validation \n")
    (folder / "test.txt").write_text("".join(ROWS) + " test \n")
    return folder.parent


def file_of(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_rows_are_joined_as_perplexities_are_reported() -> None:
    assert wikitext.join_rows(ROWS) == JOINED


def test_an_embedded_model_gets_the_python_documentation(texts_folder: Path) -> None:
    texts = choose_texts(EMBEDDED, None, None, texts_folder)
    assert texts.calibration == ("the calibration modules",)
    assert texts.heldout == ("the heldout modules",)
    assert texts.calibration_name == "Python documentation, calibration modules"
    assert texts.heldout_name == "Python documentation, held-out modules"
    assert texts.notes == ()


@pytest.mark.parametrize("source", [FOLDER, HUB])
def test_any_other_model_gets_wikitext_from_the_texts_folder(source: ModelSource, texts_folder: Path) -> None:
    texts = choose_texts(source, None, None, texts_folder)
    assert texts.calibration == (JOINED + "\n\n validation \n",)
    assert texts.heldout == (JOINED + "\n\n test \n",)
    assert (texts.calibration_name, texts.heldout_name) == ("WikiText-2 validation", "WikiText-2 test")
    assert texts.notes == ()


@pytest.mark.parametrize("source", [FOLDER, HUB])
def test_or_from_the_hub_s_cache(source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_cache(repository: str, name: str, *, revision: str, repo_type: str) -> str:
        assert (repository, revision, repo_type) == (wikitext.DATASET, wikitext.REVISION, "dataset")
        folder, file = name.split("/")
        assert folder == "wikitext-2-raw-v1"
        path = tmp_path / file
        rows = ["" if row == " \n" else row for row in [*ROWS, f" {file.partition('-')[0]} \n"]]
        parquet.write_table(pyarrow.table({"text": rows}), path)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", in_cache)
    texts = choose_texts(source, None, None, None)
    assert texts.calibration == (JOINED + "\n\n validation \n",)
    assert texts.heldout == (JOINED + "\n\n test \n",)


def test_a_hub_model_without_network_is_told_what_to_do() -> None:
    assert refusal(choose_texts, HUB, None, None, None) == (
        "WikiText-2 is needed: Salesforce/wikitext: not in the hub's cache, and the hub cannot be reached "
        "(Cannot reach the hub.); connect to the network, unset HF_HUB_OFFLINE, or give a local folder; "
        "or put validation.txt and test.txt into a folder wikitext-2 of AWQ_CLAIMS_TEXTS, "
        "or give --calibration-text and --heldout-text"
    )


def test_a_local_folder_gets_the_python_documentation_and_a_note_instead() -> None:
    texts = choose_texts(FOLDER, None, None, None)
    assert texts.heldout == ("the heldout modules",)
    assert texts.notes == (
        "WikiText-2 cannot be had here: the calibration and held-out text is the Python documentation; "
        "set AWQ_CLAIMS_TEXTS or give your own",
    )


@pytest.mark.parametrize("reached", [True, False])
def test_a_packaged_model_asks_the_hub_if_it_answers(reached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = replace(FOLDER, kind="packaged")
    monkeypatch.setattr(defaults, "answers", lambda: reached)
    monkeypatch.setattr(wikitext, "from_hub", lambda part, network: f"the hub's {part}" if network else None)
    texts = choose_texts(packaged, None, None, None)
    assert texts.heldout == (("the hub's test",) if reached else ("the heldout modules",))
    assert len(texts.notes) == (0 if reached else 1)


def test_half_of_wikitext_is_not_mixed_with_python(texts_folder: Path) -> None:
    (texts_folder / "wikitext-2" / "test.txt").unlink()
    texts = choose_texts(FOLDER, None, None, texts_folder)
    assert (texts.calibration, texts.heldout) == (("the calibration modules",), ("the heldout modules",))


@pytest.mark.parametrize("source", [EMBEDDED, FOLDER, HUB])
def test_the_user_s_files_come_first(source: ModelSource, tmp_path: Path) -> None:
    mine, yours = file_of(tmp_path, "mine.txt", "mine"), file_of(tmp_path, "yours.json", '["yours", "too"]')
    texts = choose_texts(source, mine, yours, None)
    assert (texts.calibration, texts.heldout) == (("mine",), ("yours", "too"))
    assert (texts.calibration_name, texts.heldout_name) == (str(mine), str(yours))
    assert texts.notes == ()


def test_one_file_alone_is_completed_with_a_note(tmp_path: Path, texts_folder: Path) -> None:
    mine = file_of(tmp_path, "mine.txt", "mine")
    assert choose_texts(EMBEDDED, mine, None, None).notes == (
        "no --heldout-text was given: the held-out text is Python documentation, held-out modules",
    )
    assert choose_texts(HUB, None, mine, texts_folder).notes == (
        "no --calibration-text was given: the calibration text is WikiText-2 validation",
    )


def test_a_texts_folder_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(choose_texts, HUB, None, None, tmp_path / "gone") == (
        f"AWQ_CLAIMS_TEXTS names no folder: {str(tmp_path / 'gone')!r}; correct it or unset it"
    )


@pytest.mark.parametrize(("content", "message"), [(b"\xff\xfe", "not UTF-8 text"), (b" \n", "the file is empty")])
def test_a_damaged_copy_of_wikitext(texts_folder: Path, content: bytes, message: str) -> None:
    path = texts_folder / "wikitext-2" / "validation.txt"
    path.write_bytes(content)
    words = f"{path}: {message}; copy WikiText-2's raw validation file again"
    assert refusal(choose_texts, FOLDER, None, None, texts_folder) == words


def test_a_control_makes_its_own_tokens() -> None:
    with pytest.raises(ValueError, match="null-control makes its own tokens"):
        choose_texts(CONTROL, None, None, None)


def test_the_same_file_cannot_calibrate_and_judge(tmp_path: Path) -> None:
    mine = file_of(tmp_path, "mine.txt", "short")
    assert refusal(choose_texts, EMBEDDED, mine, mine, None) == (
        f"the calibration text ({mine}) and the held-out text ({mine}) share 1 document, such as 'short'; "
        "give texts that share none, for no claim judges on what it was tuned on"
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["x", LONG], [LONG.replace(" ", "\n"), "y"]),
        ([f"start {LONG} end"], [LONG]),
        ([LONG], [f"start {LONG} end"]),
    ],
)
def test_a_long_document_or_part_of_one_in_both_texts_is_refused(first: list[str], second: list[str]) -> None:
    with pytest.raises(UserError, match=r"the calibration text \(A\) and the held-out text \(B\) share 1 document,"):
        separate(first, second, "A", "B")


def test_a_short_document_in_both_texts_is_left_out_and_noted() -> None:
    kept, notes = separate(["Hello", "one"], ["Hello", "two", " Hello "], "A", "B")
    assert kept == ["two"]
    assert notes == ["2 short held-out documents are in the calibration text too and were left out"]


def test_texts_that_share_nothing_are_kept_whole() -> None:
    assert separate(["one", LONG], ["two", LONG[::-1]], "A", "B") == (["two", LONG[::-1]], [])
