"""Loading a model, its tokenizer and its untrained twin, on a device and in a number format."""

import logging
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers.utils import logging as transformers_logging

from fixtures.models.device import choose_device, choose_dtype, dtype_name
from fixtures.models.loading import load_model, load_tokenizer, untrained_twin
from fixtures.models.quiet import quiet
from fixtures.models.resolve import ModelSource, resolve
from fixtures.models.weights import SINGLE
from tests.refusals import assert_refused, refusal
from tests.tiny_models import END_OF_TEXT, write_model


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    return resolve(str(write_model(tmp_path / "tiny")), None)


def stored(source: ModelSource) -> dict[str, torch.Tensor]:
    assert source.location is not None
    return load_file(source.location / SINGLE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_the_weights_are_those_of_the_file(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    source = resolve(str(write_model(tmp_path / "tiny", kind)), None)
    model = load_model(source, "cpu", dtype)
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    parameters = dict(model.named_parameters())
    for name, tensor in stored(source).items():
        assert parameters[name].dtype == dtype
        assert torch.equal(parameters[name], tensor.to(dtype)), name


def test_accelerate_places_a_model_on_what_there_is(source: ModelSource) -> None:
    model = load_model(source, "auto", torch.float32)
    ids = torch.arange(8).view(1, 8)
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, load_model(source, "cpu", torch.float32)(ids).logits)


def test_loading_is_silent(
    source: ModelSource, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    load_model(source, "cpu", torch.float32)
    load_tokenizer(source)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_weights_that_are_missing_are_not_made_up(source: ModelSource) -> None:
    tensors = stored(source)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    assert source.location is not None
    save_file(tensors, source.location / SINGLE, {"format": "pt"})
    assert refusal(load_model, source, "cpu", torch.float32) == (
        f"{source.location}: the weights lack 1 tensor that config.json asks for, such as "
        "model.layers.1.mlp.up_proj.weight; copy or download the model again"
    )


def test_weights_of_another_shape_are_refused(source: ModelSource) -> None:
    tensors = stored(source) | {"model.norm.weight": torch.ones(7)}
    assert source.location is not None
    save_file(tensors, source.location / SINGLE, {"format": "pt"})
    assert_refused(f"{source.location}: the model cannot be loaded: *", load_model, source, "cpu", torch.float32)


def test_a_model_too_large_for_the_device(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", no_memory)
    words = "tiny: not enough memory on cuda; give --device auto or --device cpu, or a smaller model"
    assert refusal(load_model, source, "cuda", torch.float32) == words


def test_the_tokenizer_gives_back_what_it_read(source: ModelSource) -> None:
    tokenizer = load_tokenizer(source)
    assert tokenizer.decode(tokenizer("Grüße, world")["input_ids"]) == "Grüße, world"


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_the_tokenizer_is_that_of_the_file_not_that_of_the_model_type(tmp_path: Path, kind: str) -> None:
    folder = write_model(tmp_path / "tiny", kind, vocab_size=300)
    text = "x = 1234 if don't else [y\n\n   for z]  " * 30
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator(
        [text],
        trainers.BpeTrainer(vocab_size=300, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    trained.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(resolve(str(folder), None))
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == trained.encode(text).ids
    assert tokenizer.eos_token == END_OF_TEXT


def test_a_twin_is_drawn_from_its_seed_and_nothing_else(source: ModelSource) -> None:
    model = load_model(source, "cpu", torch.float32)
    torch.manual_seed(1)
    first = untrained_twin(model.config, 7, torch.float32, "cpu")
    torch.manual_seed(2)
    again = untrained_twin(model.config, 7, torch.float32, "cpu")
    other = untrained_twin(model.config, 8, torch.float32, "cpu")
    name = "model.layers.0.mlp.up_proj.weight"
    drawn, repeated, different = (dict(twin.named_parameters())[name] for twin in (first, again, other))
    assert torch.equal(drawn, repeated)
    assert not torch.equal(drawn, different)
    assert drawn.shape == stored(source)[name].shape
    assert not first.training


def test_a_twin_has_its_class_s_own_initialisation(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "wide", hidden_size=64, intermediate_size=128, initializer_range=0.05)
    source = resolve(str(folder), None)
    twin = untrained_twin(load_model(source, "cpu", torch.float32).config, 0, torch.float32, "cpu")
    parameters = dict(twin.named_parameters())
    assert parameters["model.layers.0.mlp.up_proj.weight"].std().item() == pytest.approx(0.05, rel=0.05)
    assert torch.equal(parameters["model.norm.weight"], torch.ones(64))
    assert torch.equal(parameters["model.layers.0.self_attn.q_proj.bias"], torch.zeros(64))


def test_drawing_a_twin_leaves_the_random_state_as_it_was(source: ModelSource) -> None:
    config = load_model(source, "cpu", torch.float32).config
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    untrained_twin(config, 0, torch.float32, "cpu")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_twin_takes_dtype_and_device(source: ModelSource, device: str) -> None:
    twin = untrained_twin(load_model(source, "cpu", torch.float32).config, 0, torch.bfloat16, device)
    assert {parameter.dtype for parameter in twin.parameters()} == {torch.bfloat16}
    with torch.inference_mode():
        assert torch.isfinite(twin(torch.arange(8).view(1, 8)).logits).all()


def test_quiet_puts_everything_back_and_lets_errors_pass() -> None:
    def state() -> tuple[bool, int]:
        return transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()

    def fail_quietly() -> None:
        with quiet():
            within.append(state())
            raise RuntimeError("a real error")

    before, within = state(), list[tuple[bool, int]]()
    with pytest.raises(RuntimeError, match="a real error"):
        fail_quietly()
    assert within == [(False, logging.ERROR)]
    assert state() == before != within[0]


def test_quiet_hides_the_libraries_warnings_and_no_others() -> None:
    with quiet():
        warnings.warn_explicit("chatter", FutureWarning, "x.py", 1, module="transformers.modeling_utils")
        with pytest.warns(UserWarning, match="ours"):
            warnings.warn("ours", UserWarning, stacklevel=1)
    with pytest.warns(FutureWarning, match="chatter"):
        warnings.warn_explicit("chatter", FutureWarning, "x.py", 1, module="transformers.modeling_utils")


# device and number format


@pytest.fixture(params=[False, True], ids=["no-gpu", "two-gpus"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 if request.param else 0)
    return bool(request.param)


def test_a_gpu_is_used_where_there_is_one(gpu: bool) -> None:
    assert choose_device(None) == ("cuda" if gpu else "cpu")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("option", ["cpu", "auto"])
def test_cpu_and_auto_are_always_possible(option: str) -> None:
    assert choose_device(option) == option


@pytest.mark.parametrize("option", ["cuda", "cuda:1"])
def test_a_gpu_asked_for_must_be_there(gpu: bool, option: str) -> None:
    if gpu:
        assert choose_device(option) == option
    else:
        words = f"--device {option!r}: this machine has no GPU that PyTorch can use; give --device cpu"
        assert refusal(choose_device, option) == words


def test_a_gpu_s_number_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    words = "--device 'cuda:2': this machine has 2 GPUs, numbered from 0; give one of them"
    assert refusal(choose_device, "cuda:2") == words


@pytest.mark.parametrize("option", ["gpu", "cuda:x", "", "CPU", "mps"])
def test_an_unknown_device_is_refused(option: str) -> None:
    words = f"--device {option!r} is unknown; give cpu, cuda, cuda:0 (a number) or auto"
    assert refusal(choose_device, option) == words


def test_the_number_format_follows_the_device(gpu: bool) -> None:
    assert choose_dtype(None, "cpu") is torch.float32
    assert choose_dtype(None, "cuda:1") is torch.bfloat16
    assert choose_dtype(None, "auto") is (torch.bfloat16 if gpu else torch.float32)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_number_format_asked_for_is_given(name: str) -> None:
    assert dtype_name(choose_dtype(name, "cpu")) == name


@pytest.mark.parametrize("option", ["half", "float64", "int8", "", "Tensor"])
def test_an_unknown_number_format_is_refused(option: str) -> None:
    words = f"--dtype {option!r} is unknown; give one of float32, bfloat16, float16"
    assert refusal(choose_dtype, option, "cpu") == words
