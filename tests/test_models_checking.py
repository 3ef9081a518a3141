"""Checking a model folder before anything heavy, and what a user is told when it cannot be measured."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from transformers import GPT2Config, GPT2LMHeadModel

from awq_core.architectures.model import SUPPORTED_MODEL_TYPES
from fixtures.errors import UserError
from fixtures.models.checking import ModelDescription, describe
from fixtures.models.loading import revision_of, weights_hash
from fixtures.models.resolve import resolve
from fixtures.models.weights import SINGLE
from tests.tiny_models import byte_tokenizer, write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny")


def described(folder: Path) -> ModelDescription:
    return describe(resolve(str(folder), None))


def message_of(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        described(folder)
    return str(caught.value)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_good_model_is_described_from_its_headers(folder: Path) -> None:
    found = described(folder)
    attention, mlp = [(16, 16), (8, 16), (8, 16), (16, 16)], [(24, 16), (24, 16), (16, 24)]
    norms_and_biases = 2 * (2 * 16 + 16 + 8 + 8) + 16
    assert found.model_type == "qwen2"
    assert (found.hidden_size, found.blocks, found.context, found.vocabulary) == (16, 2, 128, 260)
    assert sorted(found.linears) == sorted(2 * (attention + mlp))
    assert found.parameters == 260 * 16 + sum(rows * columns for rows, columns in found.linears) + norms_and_biases
    assert found.download_bytes == 0


def test_gpt2_has_names_and_an_order_of_its_own(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=257, n_positions=32, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    found = describe(resolve(str(tmp_path), None))
    assert (found.hidden_size, found.blocks, found.context, found.vocabulary) == (8, 1, 32, 257)
    assert sorted(found.linears) == sorted([(24, 8), (8, 8), (32, 8), (8, 32)])


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


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard(folder)[1].unlink()
    assert message_of(folder) == (
        f"{folder}: model.safetensors.index.json names model-00002-of-00002.safetensors, which is not there; "
        "copy or download it again"
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}'])
def test_a_broken_index_is_named(folder: Path, text: str) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(text)
    assert message_of(folder).startswith(f"{index}: no valid index of weights (")


def test_an_embedded_model_that_is_not_there_is_named() -> None:
    source = resolve("embedded-tiny", None)
    gone = type(source)(source.name, Path("/no/such/folder"), None, None, "embedded", "embedded")
    with pytest.raises(UserError) as caught:
        describe(gone)
    assert str(caught.value) == (
        "embedded-tiny: the folder /no/such/folder is not there; check the installation, or the path"
    )


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    assert message_of(tmp_path) == f"{tmp_path}: no model: no config.json is there; give the folder that holds one"


def test_a_configuration_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')
    assert message_of(folder).startswith(f"{folder / 'config.json'}: no valid JSON (Expecting value: line 1")


def test_a_configuration_that_is_no_object(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")
    assert message_of(folder) == (
        f"{folder / 'config.json'}: no configuration of a model (a list); copy or download it again"
    )


def test_a_configuration_with_a_value_of_the_wrong_type(folder: Path) -> None:
    change_config(folder, hidden_size="wide")
    message = message_of(folder)
    assert message.startswith(f"{folder / 'config.json'}: no valid configuration (")
    assert message.endswith("); correct it")


def test_a_model_of_an_unknown_type(folder: Path) -> None:
    change_config(folder, model_type="mamba")
    assert message_of(folder) == (
        f"{folder}: its blocks are of type 'mamba', which the suite does not know; "
        f"supported: {', '.join(sorted(SUPPORTED_MODEL_TYPES))}"
    )


def test_a_model_that_is_already_quantized(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "awq", "bits": 4})
    assert message_of(folder) == (
        f"{folder}: the model is already quantized (method awq); give the full-precision model it came from"
    )


def test_a_nested_quantization_is_seen_too(folder: Path) -> None:
    change_config(folder, text_config={"quantization_config": {"quant_method": "gptq"}})
    assert "already quantized (method gptq)" in message_of(folder)


def test_weights_stored_as_integers(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: np.ones((24, 16), dtype=np.int8)}, folder / SINGLE, {"format": "pt"})
    assert message_of(folder) == (
        f"{folder}: the model is already quantized ({name} is stored as I8); give the full-precision model it came from"
    )


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_pickled_weights_are_refused(folder: Path, name: str) -> None:
    (folder / SINGLE).rename(folder / name)
    assert message_of(folder) == (
        f"{folder}: the weights are pickled (.bin, .pt), which runs code when opened; "
        "convert them to model.safetensors with save_pretrained first"
    )


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / SINGLE).unlink()
    assert message_of(folder) == (
        f"{folder}: no model: neither model.safetensors nor model.safetensors.index.json is there; "
        "give the folder or repository that holds the weights"
    )


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_truncated_weights_are_named(folder: Path, kept: int) -> None:
    path = folder / SINGLE
    path.write_bytes(path.read_bytes()[:kept])
    message = message_of(folder)
    assert message.startswith(f"{path}: truncated or no safetensors file (")
    assert message.endswith("); copy or download it again")


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "bare", with_tokenizer=False)
    assert message_of(folder) == (
        f"{folder}: no tokenizer (such as tokenizer.json) beside the model; copy it into the folder"
    )


def test_a_damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": ')
    message = message_of(folder)
    assert message.startswith(f"{folder}: the tokenizer cannot be read (")
    assert message.endswith("); copy or download it again")


def test_a_tokenizer_of_a_larger_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "narrow", vocab_size=100)
    assert message_of(folder) == (
        f"{folder}: the tokenizer has ids up to 256, the model knows only 100 tokens; "
        "put the model's own tokenizer beside it"
    )


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
