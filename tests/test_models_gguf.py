"""GGUF files as models: what is taken from one, and what a user is told of one that cannot be measured."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file

from fixtures.models import converted
from fixtures.models.checking import describe
from fixtures.models.converted import RECORD, Conversion, conversion_of, on_this_machine
from fixtures.models.gguf import GgufFile
from fixtures.models.loading import load_model, load_tokenizer, weights_hash
from fixtures.models.resolve import ModelSource, resolve
from fixtures.models.weights import SINGLE
from fixtures.texts.tokens import start_token_of
from tests.gguf_files import BF16, F16, F32, MODELS, gguf_tensors, tiny_model, write_gguf
from tests.refusals import assert_refused, refusal

Q4_1, Q8_0 = GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0
IDS = torch.randint(0, 250, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prepared(path: Path) -> ModelSource:
    return on_this_machine(resolve(str(path), None))


def conversion_to(source: ModelSource) -> Conversion:
    found = conversion_of(source)
    assert found is not None
    return found


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


@pytest.mark.parametrize(
    ("architecture", "tied"),
    [(name, tied) for name in ("llama", "qwen2") for tied in (True, False)] + [(name, None) for name in [*MODELS][2:]],
)
def test_a_file_is_the_model_that_it_was_written_from(tmp_path: Path, architecture: str, tied: bool | None) -> None:
    """Every architecture that the README names. A Llama's rows of q and k are permuted in the file."""
    original = tiny_model(architecture, tied)
    model = load_model(
        prepared(write_gguf(tmp_path / "tiny.gguf", original, architecture=architecture)), "cpu", torch.float32
    )
    expected, found = logits(original), logits(model)
    assert expected.std() > 0.1
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.std()))
    assert model.config.model_type.removesuffix("_text") == architecture
    if tied is not None:
        assert torch.equal(found, expected)
        assert model.config.tie_word_embeddings == tied


def test_without_the_permutation_it_would_be_another_model(tmp_path: Path) -> None:
    original = tiny_model()
    unpermuted = gguf_tensors(original, permuted=False)
    source = prepared(write_gguf(tmp_path / "tiny.gguf", original, tensors=unpermuted))
    assert not torch.allclose(logits(load_model(source, "cpu", torch.float32)), logits(original), atol=0.1)


@pytest.mark.parametrize("kind", [Q4_1, Q8_0])
def test_quantized_tensors_are_dequantized_and_said_to_be(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", kind=kind)
    source = prepared(path)
    assert conversion_to(source).dequantized == f"{kind.name} in 15 of 20 tensors"
    assert source.location is not None
    stored = load_file(source.location / SINGLE)
    read = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    for ours, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"),
    ):
        expected = dequantize(read[theirs].data, read[theirs].tensor_type)
        assert stored[ours].dtype == torch.float32
        assert np.array_equal(stored[ours].numpy(), expected), ours
    assert not np.array_equal(expected, tiny_model().state_dict()[ours].numpy())
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


@pytest.mark.parametrize(("kind", "dtype"), [(F32, torch.float32), (F16, torch.float16), (BF16, torch.bfloat16)])
def test_full_precision_is_kept_to_the_last_bit(tmp_path: Path, kind: GGMLQuantizationType, dtype: torch.dtype) -> None:
    original = tiny_model()
    source = prepared(write_gguf(tmp_path / "tiny.gguf", original, kind))
    conversion = conversion_to(source)
    assert (conversion.dequantized, conversion.notes) == ("", ())
    assert source.location is not None
    stored = load_file(source.location / SINGLE)
    norms = [tensor for tensor in stored.values() if tensor.dim() == 1]
    assert {tensor.dtype for tensor in stored.values() if tensor.dim() > 1} == {dtype}
    assert {tensor.dtype for tensor in norms} == {torch.float32}, "the file's own: half precision would lose digits"
    for name, tensor in original.state_dict().items():
        if name in stored:
            expected = tensor.to(dtype) if tensor.dim() > 1 else tensor
            assert torch.equal(stored[name], expected), name


def test_it_is_described_hashed_and_loaded_as_any_folder(tmp_path: Path) -> None:
    source = prepared(write_gguf(tmp_path / "tiny.gguf", kind=Q8_0))
    found = describe(source)
    assert (found.model_type, found.blocks) == ("llama", 2)
    assert found.parameters == sum(parameter.numel() for parameter in tiny_model().parameters())
    assert len(weights_hash(source)) == 64
    assert (source.name, source.kind, source.label) == ("tiny", "folder", str(tmp_path / "tiny.gguf"))
    assert source.location is not None
    assert "quantization_config" not in json.loads((source.location / "config.json").read_text())


def test_converting_is_silent_and_announced(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    path = write_gguf(tmp_path / "tiny.gguf", kind=Q8_0)
    capfd.readouterr()
    for _ in range(2):
        on_this_machine(resolve(str(path), None), said.append)
    assert said == ["converting tiny.gguf, once"]
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_what_lies_beside_the_file_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "crowded"
    folder.mkdir()
    path = write_gguf(folder / "tiny.gguf")
    made = prepared(path).location
    assert made is not None
    alone = {file.name: file.read_bytes() for file in made.iterdir()}
    shutil.rmtree(made)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "adapter_config.json"):
        (folder / name).write_text("{")
    assert prepared(path).location == made
    assert {file.name: file.read_bytes() for file in made.iterdir()} == alone


def test_the_file_s_tokenizer_is_taken(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(prepared(write_gguf(tmp_path / "tiny.gguf")))
    assert tokenizer.tokenize("a  to") == ["a", "Ġ", "Ġt", "o"]
    assert start_token_of(tokenizer, 260) is None


@pytest.mark.parametrize("added", [True, False])
def test_whether_texts_begin_with_a_start_token_is_the_file_s_word(tmp_path: Path, added: bool) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", more={"tokenizer.ggml.add_bos_token": added})
    assert start_token_of(load_tokenizer(prepared(path)), 260) == (0 if added else None)


def test_digits_are_set_apart_where_the_file_asks_for_it(tmp_path: Path) -> None:
    """GPT-2's rule, which the library takes for names that it does not know, would split '  1' into ' ' and ' 1'."""
    path = write_gguf(tmp_path / "tiny.gguf", more={"tokenizer.ggml.pre": "smollm"})
    source = prepared(path)
    assert load_tokenizer(source).tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert conversion_to(source).notes == ()


def test_a_rule_of_splitting_that_is_not_known_is_noted(tmp_path: Path) -> None:
    source = prepared(write_gguf(tmp_path / "tiny.gguf", more={"tokenizer.ggml.pre": "a-new-one"}))
    assert conversion_to(source).notes == (
        "the file's pre-tokenizer, 'a-new-one', is not known: texts are split as for GPT-2, and some token ids may "
        "differ from those that the model was trained on",
    )


def test_a_folder_with_one_file_means_that_file(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write_gguf(folder / "tiny.gguf")
    source = resolve(str(folder), None)
    assert (source.name, source.gguf, source.location) == ("mine", folder / "tiny.gguf", None)
    (folder / SINGLE).write_bytes(b"weights of its own")
    assert resolve(str(folder), None).location == folder


def test_a_folder_with_several_files_asks_for_one(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    words = f"{tmp_path}: 2 GGUF files are there (a.gguf, b.gguf); give the path of one of them"
    assert_refused(words, prepared, tmp_path)


def test_it_is_converted_once_however_many_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    began: list[Path] = []
    convert = converted.convert
    monkeypatch.setattr(converted, "convert", lambda file, work: (began.append(file), convert(file, work)))
    threads = [threading.Thread(target=prepared, args=(path,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert began == [path]


def test_a_folder_that_is_damaged_or_older_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    source = prepared(path)
    assert source.location is not None
    whole, weights = weights_hash(source), source.location / SINGLE
    weights.write_bytes(weights.read_bytes()[:-10])
    assert weights_hash(prepared(path)) == whole
    (source.location / RECORD).write_text("{")
    assert weights_hash(prepared(path)) == whole
    monkeypatch.setattr(converted, "CONVERSION", converted.CONVERSION + 1)
    (source.location / "older").touch()
    assert prepared(path).location == source.location
    assert not (source.location / "older").exists()


def test_what_a_killed_process_left_is_removed(tmp_path: Path, cache: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    source = prepared(path)
    assert source.location is not None
    shutil.move(source.location, f"{source.location}.tmp")
    prepared(path)
    assert [entry.suffix for entry in (cache / "models").iterdir() if entry.suffix != ".lock"] == [""]


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    refusal(prepared, write_gguf(tmp_path / "tiny.gguf", tokenizer=False))
    assert [entry.suffix for entry in (cache / "models").iterdir()] == [".lock"]


TENSORS = gguf_tensors(tiny_model())
VALUES = sum(values.size for values in TENSORS.values())
UP, Q_NORM = "blk.1.ffn_up.weight", "blk.1.attn_q_norm.weight"
AGAIN = "give the original model, as safetensors"
SCALED = "its positions are scaled ({}), which transformers does not read from GGUF files; " + AGAIN
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "adapter": (
        {"more": {"general.type": "adapter"}},
        "an adapter (LoRA), no model; merge it into its model first, or give the model's own file",
    ),
    "importance matrix": (
        {"more": {"general.type": "imatrix"}},
        "an importance matrix, no model; give the model's own file",
    ),
    "projector": (
        {"more": {"general.type": "mmproj"}},
        "a projector for images, no language model; give the language model's own file",
    ),
    "another type": ({"more": {"general.type": "dataset"}}, "holds 'dataset', no model; give a model"),
    "one part of several": (
        {"more": {"split.count": 3}},
        "one of 3 parts of a split file; merge them with `llama-gguf-split --merge`, and give the whole",
    ),
    "a vocabulary alone": ({"tensors": {}}, "a vocabulary alone, without any tensor; give the model's own file"),
    "no tokenizer": (
        {"tokenizer": False},
        "no tokenizer is inside (tokenizer.ggml.tokens); give a file that has one",
    ),
    "an unknown tokenizer": (
        {"more": {"tokenizer.ggml.model": "rwkv"}},
        f"its tokenizer ('rwkv') cannot be read (*); {AGAIN}",
    ),
    "an architecture that transformers cannot read": (
        {"architecture": "rwkv7"},
        f"transformers cannot read architecture 'rwkv7' from a GGUF file (*; {AGAIN}",
    ),
    "an architecture that the suite does not know": (
        {"architecture": "starcoder2"},
        "its blocks are of type 'starcoder2', which the suite does not know; supported: gemma*",
    ),
    "a missing tensor": (
        {"tensors": {name: values for name, values in TENSORS.items() if name != UP}},
        f"lacks 1 tensor of architecture 'llama', such as model.layers.1.mlp.up_proj.weight; {AGAIN}",
    ),
    "tensors of other sizes than the file says": (
        {"tensors": TENSORS | {UP: np.ones((32, 64), dtype=np.float32)}},
        "transformers cannot load its weights: they have other sizes than it takes from the file's metadata; " + AGAIN,
    ),
    "tensors that would be dropped": (
        {"tensors": TENSORS | {Q_NORM: np.ones(16, dtype=np.float32)}},
        f"holds {VALUES + 16:,} values, of which transformers reads {VALUES:,} as architecture 'llama'; {AGAIN}",
    ),
    # As in Llama 3.1 and later: the library would take the frequencies for unscaled ones and say nothing.
    "scaled positions, by tensor": (
        {"tensors": TENSORS | {"rope_freqs.weight": np.ones(8, dtype=np.float32)}},
        SCALED.format("rope_freqs.weight"),
    ),
    "scaled positions, by name": (
        {"more": {"llama.rope.scaling.type": "linear"}},
        SCALED.format("llama.rope.scaling.type = 'linear'"),
    ),
}


@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_measured_is_named_in_one_line(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", **options)
    assert_refused(f"{path}: {words}", prepared, path)


def test_the_only_part_of_one_is_a_whole_file(tmp_path: Path) -> None:
    assert prepared(write_gguf(tmp_path / "whole.gguf", more={"split.count": 1})).location is not None


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.02, 0.5, 0.999])
def test_a_file_that_is_cut_short(tmp_path: Path, share: float) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    os.truncate(path, int(path.stat().st_size * share))
    what = "damaged, cut short or newer than" if share else "empty; copy"
    assert_refused(f"{path}: {what}*", prepared, path)


def test_random_bytes_under_the_name_of_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "noise.gguf"
    for magic, what in ((b"", "no GGUF file"), (b"GGUF\x03\0\0\0", "damaged, cut short or newer")):
        path.write_bytes(magic + np.random.default_rng(0).bytes(5000))
        assert_refused(f"{path}: {what}*", prepared, path)


def test_a_cache_that_cannot_take_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(tmp_path / "taken"))
    words = (
        f"the cache folder '{tmp_path / 'taken'}' cannot take a converted model (*set AWQ_CLAIMS_CACHE to one that can"
    )
    assert_refused(words, prepared, write_gguf(tmp_path / "tiny.gguf"))


def test_types_are_counted_the_commonest_first() -> None:
    types = Counter({F32: 61, Q8_0: 1, Q4_1: 210})
    file = GgufFile(Path("x.gguf"), "llama", types, frozenset(), 0, None, None)
    assert file.dequantized == "Q4_1 in 210 of 272 tensors, Q8_0 in 1"
