"""The fenced code blocks of a document, and a run of its Python: each block in order, in one namespace.

    python -m tests.document_blocks docs/adding.md            run it; show the text blocks that are not what was printed
    python -m tests.document_blocks --write docs/adding.md    write what was printed into them

A text block that directly follows a Python block is what that block prints.
"""

from __future__ import annotations

import argparse
import io
import linecache
import os
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"```([\w-]*)[ \t]*")
RENAMES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink"}


class DocumentError(Exception):
    """A document that cannot be run as it stands; the message names its line."""


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: what stands behind the fence; may be empty.
        content: its lines, each with its newline.
        line: of the document, where the content begins, counted from 1.
        follows: language of the block right before it, nothing but empty lines between; else empty.
    """

    language: str
    content: str
    line: int
    follows: str = ""


def blocks(text: str) -> list[Block]:
    """Every fenced block of a document, in order.

    Raises:
        DocumentError: for a block that is never closed.
    """
    found: list[Block] = []
    lines = iter(enumerate(text.splitlines(keepends=True), start=1))
    follows = ""
    for number, line in lines:
        opening = FENCE.fullmatch(line.rstrip("\n"))
        if opening is None:
            if "```" in line and line.lstrip().startswith("```"):
                raise DocumentError(f"line {number}: a fence that is indented or has more than a language behind it")
            follows = follows if not line.strip() else ""
            continue
        found.append(Block(opening[1], "".join(_content(lines, number)), number + 1, follows))
        follows = opening[1]
    return found


def _content(lines: Iterator[tuple[int, str]], opened: int) -> Iterator[str]:
    for _, line in lines:
        if line.rstrip("\n") == "```":
            return
        yield line
    raise DocumentError(f"line {opened}: this block is never closed")


def commands(block: Block) -> list[tuple[int, str]]:
    """The commands of a shell block with their lines: continued lines joined, a loop in one piece, comments dropped."""
    found: list[tuple[int, str]] = []
    open_loops, continued = 0, False
    for number, line in enumerate(block.content.splitlines(), start=block.line):
        text = re.sub(r"(^|\s)#.*", "", line).rstrip()
        if not text:
            continue
        if continued or open_loops:
            found[-1] = (found[-1][0], f"{found[-1][1]}{' ' if continued else chr(10)}{text.strip()}")
        else:
            found.append((number, text))
        open_loops += len(re.findall(r"\b(?:for|while)\b.*\bdo\b", text)) - len(re.findall(r"^\s*done\b", text))
        continued = text.endswith("\\")
        if continued:
            found[-1] = (found[-1][0], found[-1][1].rstrip("\\").rstrip())
    return found


def printed(text: str, name: str) -> list[tuple[Block, str]]:
    """Run the Python blocks of a document in this process; each with what it printed."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    found = []
    for block in blocks(text):
        if block.language != "python":
            continue
        source = "\n" * (block.line - 1) + block.content  # so that a traceback names the document's line
        filename = f"{name}:{block.line}"
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        out = io.StringIO()
        with redirect_stdout(out):
            exec(compile(source, filename, "exec"), namespace)
        found.append((block, out.getvalue()))
    return found


def differences(text: str, outputs: list[tuple[Block, str]]) -> Iterator[tuple[Block, str]]:
    """Text blocks that are not what the Python block right before them printed, each with what was printed."""
    by_end = {block.line + block.content.count("\n"): output for block, output in outputs}
    ends = sorted(by_end)
    for block in blocks(text):
        if block.language == "text" and block.follows == "python":
            output = by_end[max(end for end in ends if end < block.line)]
            if block.content != output:
                yield block, output


def refuse_writing(folder: Path) -> None:
    """From now on this process may create, rename and remove nothing in a folder."""
    inside = str(folder) + os.sep

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in RENAMES:
            for path in arguments[:1] if event == "open" else arguments[:2]:
                if isinstance(path, str | bytes) and os.path.abspath(os.fsdecode(path)).startswith(inside):
                    raise PermissionError(f"a document must leave no files in the project: {os.fsdecode(path)}")

    sys.addaudithook(refuse)


def main() -> None:
    """Command line; the exit status is 1 where a text block is not what was printed."""
    parser = argparse.ArgumentParser(description="Run the Python of a document.")
    parser.add_argument("document", type=Path)
    parser.add_argument("--write", action="store_true", help="write what was printed into the text blocks")
    chosen = parser.parse_args()
    text = chosen.document.read_text(encoding="utf-8")
    if not chosen.write:
        refuse_writing(ROOT)
    differing = list(differences(text, printed(text, chosen.document.name)))
    if chosen.write:
        lines = text.splitlines(keepends=True)
        for block, output in reversed(differing):
            lines[block.line - 1 : block.line - 1 + block.content.count("\n")] = [output]
        chosen.document.write_text("".join(lines), encoding="utf-8")
        return
    for block, output in differing:
        print(f"line {block.line} says:\n{block.content}and what is printed is:\n{output}")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
