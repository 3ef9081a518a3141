"""`awq_core` as a library: a model's rounded weights in one call, and the wheel that brings it."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

import awq_core
import awq_core.quantized_model
from awq_core import METHODS, QuantizedModel, quantize, separate_experts
from tests import reference_block_search, reference_diagnostic
from tests.reference_diagnostic import linears_of
from tests.reference_methods import ReferenceMethods, log_probabilities, put
from tests.structured_model import structured_model, texts, tokens
from tests.suite_sessions import ROOT
from tests.tiny_architectures import CASES, Case, case, logits, relative_change, tiny, token_ids
from tests.tiny_models import write_model

IDS = texts()[""]
UNSEEN = torch.from_numpy(tokens(2, seed=5))
COLUMNS = tuple(name for name in METHODS if name.startswith("keep-"))
"""Methods that leave some columns as they were."""
IN_PLACE = ("awq-linear", "awq-site", "awq-constant-everywhere", "awq-half")
"""Methods that divide their scales out again after rounding."""


@pytest.fixture(scope="module")
def model() -> Any:
    """Two query heads read each key-value head, the MLP's top 1% are two channels, and biases are not zero."""
    return structured_model(2, "qwen2", intermediate_size=256)


@pytest.fixture(scope="module")
def reference(model: Any) -> ReferenceMethods:
    return ReferenceMethods(model, {"": IDS}, seed=3)


def applied(found: QuantizedModel, model: Any) -> Any:
    changed = copy.deepcopy(model)
    found.apply(changed)
    return changed


def assert_same_function(found: QuantizedModel, model: Any, expected: dict[str, np.ndarray]) -> None:
    """The model with the found parameters, and with the reference's weights, which are not folded."""
    theirs = copy.deepcopy(model)
    put(theirs, expected)
    mine = log_probabilities(applied(found, model), UNSEEN)
    # The model's norms round to single precision inside; where scales are folded, another last bit.
    torch.testing.assert_close(mine, log_probabilities(theirs, UNSEEN), rtol=0, atol=2e-5)
    assert (mine - log_probabilities(model, UNSEEN)).abs().max() > 1e-2


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_weights_of_its_slow_reference(
    method: str, model: Any, reference: ReferenceMethods, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not METHODS[method].reads_layers:  # what no method reads is not measured
        monkeypatch.setattr(awq_core.quantized_model, "measure_layers", None)
    found = quantize(model, IDS, method, bits=3, seed=3, exhaustive=True)
    expected = reference.quantized(method, 3)
    assert_same_function(found, model, expected)
    linears = {f"{name}.weight" for name in linears_of(model)}
    assert linears <= found.parameters.keys()
    if found.parameters.keys() == linears and not (found.scales and method not in IN_PLACE):
        for name, weight in expected.items():
            np.testing.assert_allclose(found.parameters[f"{name}.weight"], weight, rtol=1e-9, atol=1e-12, err_msg=name)
    if method not in (*COLUMNS, *IN_PLACE):  # on a grid as they are stored
        for name in linears:
            for group in found.parameters[name].unflatten(1, (-1, 64)).flatten(0, 1):  # 64 divides every group
                assert len(group.unique()) <= 2**3


@pytest.mark.parametrize("method", ["rtn", "awq-block-clip", "awq-duo", "gptq", "awq-linear"])
def test_groups_have_the_size_that_was_asked_for(method: str, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reference_diagnostic, reference_block_search):
        monkeypatch.setattr(module, "group_size", lambda width: 32)
    expected = ReferenceMethods(model, {"": IDS}, seed=0).quantized(method, 4)
    assert_same_function(quantize(model, IDS, method, 4, 32, exhaustive=True), model, expected)


def test_what_was_found_is_told(model: Any) -> None:
    found = quantize(model, IDS)
    assert (found.method, found.bits, found.group_size) == ("awq-block-clip", 4, 128)
    name = "model.layers.1.self_attn.q_proj"
    # q and k are left unclipped; o has a scale of its own only where nothing shares a value head.
    assert found.limits.keys() == {n for n in linears_of(model) if not n.endswith(("q_proj", "k_proj"))}
    assert found.scales.keys() == found.exponents.keys() == {n for n in linears_of(model) if not n.endswith("o_proj")}
    assert found.scales[name].shape == (64,)
    assert found.limits["model.layers.1.mlp.down_proj"].shape == (64, 2)
    assert 0 <= found.exponents[name] < 1
    norm = found.parameters["model.layers.1.input_layernorm.weight"] * found.scales[name]
    torch.testing.assert_close(norm, model.model.layers[1].input_layernorm.weight.detach())
    everywhere = quantize(model, IDS, "awq-constant-everywhere", 3)
    assert len(set(everywhere.exponents.values())) == 1
    assert everywhere.scales.keys() == linears_of(model).keys()
    assert quantize(model, IDS, "gptq").scales == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parameters_are_the_models_own_in_kind(dtype: torch.dtype) -> None:
    """And apart from it: nothing of the model changes, its mode of training included."""
    model = structured_model(intermediate_size=256).to(dtype).train()
    model.model.layers[0].eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    steps: list[tuple[int, int]] = []
    for method in ("awq-block-clip", "awq-linear", "gptq"):
        found = quantize(model, torch.from_numpy(IDS), method, progress=lambda *step: steps.append(step))
        for name, value in found.parameters.items():
            there = model.get_parameter(name)
            assert (value.dtype, value.shape, value.requires_grad) == (dtype, there.shape, False)
            assert value.untyped_storage().data_ptr() != there.untyped_storage().data_ptr()
            value.zero_()
    assert steps[-1] == (2, 2)
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("shape", CASES, ids=lambda shape: shape.name)
def test_every_architecture_can_be_quantized(shape: Case) -> None:
    """In the layout that it stores; at 12 bits next to nothing changes."""
    model, _ = tiny(shape)
    found = quantize(model, token_ids(), bits=12)
    assert 0 < relative_change(logits(model, found.parameters), logits(model)) < 0.01


def test_fused_experts_are_to_be_separated_first() -> None:
    model, _ = tiny(case("mixtral-mha"), separated=False)
    model = model.float()
    with pytest.raises(ValueError, match=r"is not there.*; call awq_core\.separate_experts\(model\) first$"):
        quantize(model, token_ids())
    separate_experts(model)
    assert quantize(model, token_ids(), "rtn").parameters


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "awq"}, "no method is called 'awq'; known: rtn, rtn-clip, awq-linear, .*keep-random8"),
        ({"bits": 1}, "bits must be a whole number from 2 to 16, got 1"),
        ({"bits": 3.5}, "bits must be a whole number from 2 to 16, got 3.5"),
        ({"group_size": 0}, "group_size must be a whole number from 2 on, got 0"),
        ({"token_ids": IDS[0]}, r"token_ids must be whole numbers \(sequences, length\), got int64 of shape \(32,\)"),
        ({"token_ids": IDS * 0.5}, "token_ids must be whole numbers"),
        ({"token_ids": IDS[:0]}, "token_ids must be whole numbers"),
        ({"token_ids": IDS + 100}, "token_ids must be from 0 to 99, got 1"),
        ({"token_ids": IDS - 100}, "token_ids must be from 0 to 99, got -100"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        quantize(model, **({"token_ids": IDS} | options))
    assert "\n" not in str(refused.value)


def test_another_model_is_not_overwritten(model: Any) -> None:
    other = structured_model(2, "qwen2", intermediate_size=128)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=r"not the model that was quantized: model\..* is of shape \("):
        quantize(model, IDS, "rtn").apply(other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


# the package


def test_every_public_name_is_there() -> None:
    assert sorted(awq_core.__all__) == sorted(set(awq_core.__all__))
    assert all(getattr(awq_core, name) is not None for name in awq_core.__all__)
    assert set(awq_core.__all__) <= set(dir(awq_core))
    assert awq_core.__version__ == version("awq-claims")
    with pytest.raises(AttributeError, match="module 'awq_core' has no attribute 'quantise'"):
        _ = awq_core.quantise


def test_importing_the_package_is_light() -> None:
    code = "import sys, awq_core; awq_core.__version__; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def wheel(folder: Path) -> Path:
    """The wheel, built from a copy of what belongs to it, without the network."""
    source = folder / "source"
    shutil.copytree(ROOT / "awq_core", source / "awq_core", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source)
    (found,) = folder.glob("*.whl")
    return found


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


def needed(requirements: list[str] | None, known: set[str]) -> Iterator[str]:
    """The names of distributions that requirements ask for, and theirs, where they are installed."""
    for requirement in map(Requirement, requirements or []):
        if requirement.name in known or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        known.add(requirement.name)
        try:
            further = distribution(requirement.name).requires
        except PackageNotFoundError:  # a build of torch for another machine
            continue
        yield requirement.name
        yield from needed(further, known)


USE = """
import sys
from transformers import AutoModelForCausalLM
import awq_core
from awq_core import quantize

model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = [[(7 * i + j * j) % 250 for j in range(32)] for i in range(8)]
for method in ("awq-block-clip", "awq-linear", "gptq"):
    rounded = quantize(model, ids, method=method, bits=4, group_size=32)
rounded.apply(model)
print(awq_core.__file__, awq_core.__version__, len(rounded.parameters))
for room in ("fixtures", "claims", "reports", "pytest", "hypothesis", "gguf", "matplotlib"):
    try:
        __import__(room)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{room} can be imported")
"""


def test_the_wheel_is_whole_and_needs_what_it_declares(tmp_path: Path) -> None:
    """Slow: about 40 s on a free core. Installed where there is nothing but links to the declared dependencies."""
    environment = tmp_path / "environment"
    built = wheel(tmp_path)
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", environment, built)
    assert (environment / "awq_core" / "py.typed").is_file()
    assert {path.name for path in environment.iterdir()} == {"awq_core", f"{built.name.split('-py3')[0]}.dist-info"}
    (metadata,) = environment.glob("*.dist-info/METADATA")
    lines = metadata.read_text(encoding="utf-8").splitlines()
    declared = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    for name in needed(declared, set()):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (environment / top).exists():
                (environment / top).symlink_to(Path(str(found.locate_file(top))))
    write_model(tmp_path / "model", hidden_size=64, intermediate_size=96, with_tokenizer=False)
    # Without site-packages, the user's folder, the environment's variables and the working folder.
    code = f"import sys; sys.path.append({str(environment)!r})\n{USE}"
    command = [sys.executable, "-I", "-S", "-B", "-c", code, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=tmp_path, env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [str(environment / "awq_core" / "__init__.py"), version("awq-claims"), "14"]
