"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def obstacle(folder: Path) -> str:
    """Say what keeps a folder from being made and written; nothing is an empty text."""
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not there.is_dir():
            return f"{there} is a file"
        return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written"
    except OSError as problem:
        return f"{folder} cannot be reached ({problem.strerror})"


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name beside `path`, then rename: a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        # mkstemp makes a file that only its owner may read; a report is for everybody the folder is for.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
