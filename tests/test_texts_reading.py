"""Reading the user's own traffic, and what is said of a file that cannot be read."""

import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.texts.documents import read_documents
from tests.refusals import refusal


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a"])
def test_plain_text_is_one_document(tmp_path: Path, name: str) -> None:
    assert read_documents(written(tmp_path, name, "one\n\ntwo\n")) == ["one\n\ntwo\n"]


def test_a_byte_order_mark_and_windows_line_ends_do_not_reach_the_model(tmp_path: Path) -> None:
    assert read_documents(written(tmp_path, "a.txt", b"\xef\xbb\xbfone\r\ntwo")) == ["one\ntwo"]


CONVERSATION = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {}}],
        },
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": "A cat."},
    ]
}


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("a string", "a string"),
        ({"text": "T", "prompt": "P"}, "T"),
        ({"content": "C", "prompt": "P"}, "C"),
        ({"prompt": "P", "id": 3}, "P"),
        ({"text": None, "prompt": "P"}, "P"),
        (CONVERSATION, "Be brief.\n\nWhat is this?\n\nA cat."),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".JSONL", ".json"])
def test_strings_objects_and_conversations_are_documents(tmp_path: Path, suffix: str, item: Any, text: str) -> None:
    listed = json.dumps([item, "last"])
    lines = json.dumps(item) + "\n\n" + json.dumps("last") + "\n"
    path = written(tmp_path, "traffic" + suffix, listed if suffix == ".json" else lines)
    assert read_documents(path) == [text, "last"]


def test_a_line_separator_inside_a_json_string_ends_no_line(tmp_path: Path) -> None:
    assert read_documents(written(tmp_path, "a.jsonl", '"one\u2028two"\n"three"')) == ["one\u2028two", "three"]


def test_empty_documents_are_dropped(tmp_path: Path) -> None:
    assert read_documents(written(tmp_path, "a.json", '["", "  ", "x"]')) == ["x"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", ""),
        ("a.txt", " \n\n"),
        ("a.jsonl", "\n"),
        ("a.json", ""),
        ("a.json", "[]"),
        ("a.jsonl", '{"text": ""}'),
    ],
)
def test_a_file_without_text(tmp_path: Path, name: str, content: str) -> None:
    path = written(tmp_path, name, content)
    words = f"{path}: no text is in the file; give one with the text to calibrate or judge on"
    assert refusal(read_documents, path) == words


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "gone.txt"
    assert refusal(read_documents, path) == f"{path}: cannot be read (No such file or directory); check the path"
    words = f"{tmp_path} is a folder; give one file of text, JSON lines or a JSON list"
    assert refusal(read_documents, tmp_path) == words


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "one\ntwo\nGrüße".encode("latin-1"), ", line 3: not UTF-8 text; convert the file to UTF-8"),
        ("a.txt", b"one\ntwo\0", ", line 2: a zero byte: this is a binary file; give a text file"),
        ("a.jsonl", '"x"\n\n{"text": \n', ", line 3: no valid JSON (Expecting value); correct the line"),
        ("a.json", '["x",\n', ", line 2: no valid JSON (Expecting value); correct the file"),
        ("a.json", '{"text": "x"}', ", line 1: a JSON list is needed, not an object; put [ ] around the documents"),
        ("a.json", "3", ", line 1: a JSON list is needed, not a number; put [ ] around the documents"),
        ("a.jsonl", '"x"\n[1]', ", line 2: a string or an object is needed, not a list; correct it"),
        ("a.jsonl", '"x"\nnull', ", line 2: a string or an object is needed, not null; correct it"),
        ("a.json", '["x", true]', ", item 2: a string or an object is needed, not a truth value; correct it"),
        (
            "a.jsonl",
            '{"body": "x"}',
            ", line 1: the object has no text in any of text, content, prompt, messages; rename its field to 'text'",
        ),
        (
            "a.json",
            '[{"messages": ["hello"]}]',
            ", item 1: a message must be an object with 'content', not a string; correct it",
        ),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = written(tmp_path, name, content)
    assert refusal(read_documents, path) == f"{path}{message}"
