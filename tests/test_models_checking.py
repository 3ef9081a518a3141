"""Checking a model folder before anything heavy, and what a user is told when it cannot be measured."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from awq_core.architectures.model import SUPPORTED_MODEL_TYPES
from fixtures.models.checking import ModelDescription, describe
from fixtures.models.loading import revision_of, weights_hash
from fixtures.models.resolve import resolve
from fixtures.models.weights import SINGLE
from tests.refusals import assert_refused
from tests.tiny_models import byte_tokenizer, write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny")


def described(folder: Path) -> ModelDescription:
    return describe(resolve(str(folder), None))


def test_a_good_model_is_described_from_its_headers(folder: Path) -> None:
    found = described(folder)
    attention, mlp = [(16, 16), (8, 16), (8, 16), (16, 16)], [(24, 16), (24, 16), (16, 24)]
    norms_and_biases = 2 * (2 * 16 + 16 + 8 + 8) + 16
    assert found.model_type == "qwen2"
    assert (found.hidden_size, found.blocks, found.context, found.vocabulary) == (16, 2, 128, 260)
    assert sorted(found.linears) == sorted(2 * (attention + mlp))
    assert found.parameters == 260 * 16 + sum(rows * columns for rows, columns in found.linears) + norms_and_biases
    assert found.download_bytes == 0


def test_a_sharded_model_is_described_whole(folder: Path) -> None:
    whole = described(folder)
    shard(folder)
    parts = described(folder)
    assert (parts.parameters, parts.linears) == (whole.parameters, whole.linears)


def shard(folder: Path) -> list[Path]:
    """Split the weights into two files with an index, as large models are stored."""
    tensors = load_file(folder / SINGLE)
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, keys in halves.items():
        save_file({key: tensors[key] for key in keys}, folder / file, {"format": "pt"})
    weight_map = {key: file for file, keys in halves.items() for key in keys}
    (folder / f"{SINGLE}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / SINGLE).unlink()
    return [folder / file for file in halves]


def test_an_embedded_model_that_is_not_there_is_named() -> None:
    source = replace(resolve("embedded-tiny", None), location=Path("/no/such/folder"))
    words = "embedded-tiny: the folder /no/such/folder is not there; check the installation, or the path"
    assert_refused(words, describe, source)


Change = Callable[[Path], object]


def writing(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)


def without(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def configured(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def called(name: str) -> Change:
    return lambda folder: (folder / SINGLE).rename(folder / name)


def cut_after(kept: int) -> Change:
    return lambda folder: (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:kept])


def with_integers(folder: Path) -> None:
    up = {"model.layers.0.mlp.up_proj.weight": np.ones((24, 16), dtype=np.int8)}
    save_file(load_file(folder / SINGLE) | up, folder / SINGLE, {"format": "pt"})


def of_a_narrow_model(folder: Path) -> None:
    write_model(folder, vocab_size=100)


INDEX, AGAIN = f"{SINGLE}.index.json", "copy or download it again"
ORIGINAL = "give the full-precision model it came from"
PICKLED = (
    ": the weights are pickled (.bin, .pt), which runs code when opened; "
    "convert them to model.safetensors with save_pretrained first"
)
BROKEN_INDEX, CUT = (
    f"/{INDEX}: no valid index of weights (*",
    f"/{SINGLE}: truncated or no safetensors file (*); {AGAIN}",
)
REFUSED: list[tuple[Change, str]] = [
    (
        lambda folder: shard(folder)[1].unlink(),
        f": {INDEX} names model-00002-of-00002.safetensors, which is not there; {AGAIN}",
    ),
    *((writing(INDEX, text), BROKEN_INDEX) for text in ("{", "[]", '{"weight_map": 3}')),
    (without("config.json"), ": no model: no config.json is there; give the folder that holds one"),
    (writing("config.json", '{"model_type": '), "/config.json: no valid JSON (Expecting value: line 1*"),
    (writing("config.json", "[1]"), f"/config.json: no configuration of a model (a list); {AGAIN}"),
    (configured(hidden_size="wide"), "/config.json: no valid configuration (*); correct it"),
    (
        configured(model_type="mamba"),
        ": its blocks are of type 'mamba', which the suite does not know; "
        f"supported: {', '.join(sorted(SUPPORTED_MODEL_TYPES))}",
    ),
    (
        configured(quantization_config={"quant_method": "awq", "bits": 4}),
        f": the model is already quantized (method awq); {ORIGINAL}",
    ),
    (
        configured(text_config={"quantization_config": {"quant_method": "gptq"}}),
        f": the model is already quantized (method gptq); {ORIGINAL}",
    ),
    (
        with_integers,
        f": the model is already quantized (model.layers.0.mlp.up_proj.weight is stored as I8); {ORIGINAL}",
    ),
    *((called(name), PICKLED) for name in ("pytorch_model.bin", "consolidated.00.pth")),
    (
        without(SINGLE),
        f": no model: neither {SINGLE} nor {INDEX} is there; give the folder or repository that holds the weights",
    ),
    *((cut_after(kept), CUT) for kept in (0, 4, 1000, -1)),
    (without("tokenizer.json"), ": no tokenizer (such as tokenizer.json) beside the model; copy it into the folder"),
    (writing("tokenizer.json", '{"version": '), f": the tokenizer cannot be read (*); {AGAIN}"),
    (
        of_a_narrow_model,
        ": the tokenizer has ids up to 256, the model knows only 100 tokens; put the model's own tokenizer beside it",
    ),
]


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=[f"{i}{words}" for i, (_, words) in enumerate(REFUSED)])
def test_what_cannot_be_measured_is_named_in_one_line(folder: Path, change: Change, words: str) -> None:
    change(folder)
    assert_refused(f"{folder}{words}", described, folder)


def test_a_padding_token_beyond_the_vocabulary_is_no_fault(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tuned", vocab_size=257)
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    assert max(tokenizer.get_vocab().values()) == 257
    assert described(folder).vocabulary == 257


def test_a_control_has_no_files_to_check() -> None:
    with pytest.raises(ValueError, match="null-control is made at run time"):
        describe(resolve("null-control", None))


def test_the_hash_of_the_weights_is_that_of_the_files(folder: Path) -> None:
    source = resolve(str(folder), None)
    before = weights_hash(source)
    assert len(before) == 64
    assert weights_hash(source) == before
    tensors = load_tensors(folder / SINGLE)
    tensors["model.norm.weight"][0] += 1
    save_tensors(tensors, folder / SINGLE, {"format": "pt"})
    assert weights_hash(source) != before
    assert revision_of(source) == "local"


def test_a_blob_of_the_hub_s_cache_counts_as_its_own_name(folder: Path, tmp_path: Path) -> None:
    source = resolve(str(folder), None)
    read = weights_hash(source)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    blob = blobs / hashlib.sha256((folder / SINGLE).read_bytes()).hexdigest()
    (folder / SINGLE).rename(blob)
    (folder / SINGLE).symlink_to(blob)
    assert weights_hash(source) == read
    blob.write_bytes(b"not read again")
    assert weights_hash(source) == read
