"""Choosing the device and the number format, and what a run costs."""

import pytest
import torch

from fixtures.errors import UserError
from fixtures.models.device import choose_device, choose_dtype, dtype_name


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
        with pytest.raises(UserError) as caught:
            choose_device(option)
        assert str(caught.value) == (
            f"--device {option!r}: this machine has no GPU that PyTorch can use; give --device cpu"
        )


def test_a_gpu_s_number_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError) as caught:
        choose_device("cuda:2")
    assert str(caught.value) == "--device 'cuda:2': this machine has 2 GPUs, numbered from 0; give one of them"


@pytest.mark.parametrize("option", ["gpu", "cuda:x", "", "CPU", "mps"])
def test_an_unknown_device_is_refused(option: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_device(option)
    assert str(caught.value) == f"--device {option!r} is unknown; give cpu, cuda, cuda:0 (a number) or auto"


def test_the_number_format_follows_the_device(gpu: bool) -> None:
    assert choose_dtype(None, "cpu") is torch.float32
    assert choose_dtype(None, "cuda:1") is torch.bfloat16
    assert choose_dtype(None, "auto") is (torch.bfloat16 if gpu else torch.float32)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_number_format_asked_for_is_given(name: str) -> None:
    assert dtype_name(choose_dtype(name, "cpu")) == name


@pytest.mark.parametrize("option", ["half", "float64", "int8", "", "Tensor"])
def test_an_unknown_number_format_is_refused(option: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_dtype(option, "cpu")
    assert str(caught.value) == f"--dtype {option!r} is unknown; give one of float32, bfloat16, float16"
