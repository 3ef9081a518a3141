"""Models on the hub: described before anything is downloaded, fetched once, and every refusal in one line."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors

from fixtures.models import hub
from fixtures.models.checking import ModelDescription, describe
from fixtures.models.loading import load_model, load_tokenizer, revision_of, weights_hash
from fixtures.models.registry import ALIASES
from fixtures.models.resolve import resolve
from fixtures.models.weights import SINGLE
from tests.local_hub import COMMIT, REPOSITORY, LocalHub, local_hub
from tests.refusals import refusal
from tests.tiny_models import write_model


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and nothing remembered from the test before."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    hub.look_up.cache_clear()
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Folder of a tiny model as it is published."""
    return write_model(tmp_path / "published")


@pytest.fixture
def server(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with local_hub(published) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        template = running.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield running


def described(name: str = REPOSITORY) -> ModelDescription:
    return describe(resolve(name, None))


def message_of(name: str = REPOSITORY) -> str:
    return refusal(described, name)


def is_cached(name: str) -> bool:
    return isinstance(huggingface_hub.try_to_load_from_cache(REPOSITORY, name, revision=COMMIT), str)


def test_a_model_is_described_before_its_weights_are_downloaded(server: LocalHub, published: Path) -> None:
    found = described()
    there = describe(resolve(str(published), None))
    assert (found.parameters, found.linears, found.blocks) == (there.parameters, there.linears, there.blocks)
    in_all = sum(path.stat().st_size for path in published.iterdir())
    assert found.download_bytes == in_all - (published / "config.json").stat().st_size
    assert is_cached("config.json")
    assert is_cached("tokenizer.json")
    assert not is_cached(SINGLE)


def test_a_model_is_fetched_and_loaded(server: LocalHub, published: Path) -> None:
    source = resolve(REPOSITORY, None)
    model = load_model(source, "cpu", torch.float32)
    here = load_model(resolve(str(published), None), "cpu", torch.float32)
    for (name, weights), (_, expected) in zip(model.named_parameters(), here.named_parameters(), strict=True):
        assert torch.equal(weights, expected), name
    assert len(load_tokenizer(source)) == 257
    assert revision_of(source) == COMMIT
    assert weights_hash(source) == weights_hash(resolve(str(published), None))


def test_a_fetched_commit_needs_no_network(server: LocalHub) -> None:
    load_model(resolve(REPOSITORY, None), "cpu", torch.float32)
    server.requests.clear()
    hub.look_up.cache_clear()
    source = resolve(f"{REPOSITORY}@{COMMIT}", None)
    assert describe(source).download_bytes == 0
    load_model(source, "cpu", torch.float32)
    assert server.requests == []


def test_the_newest_revision_is_asked_for_once_in_a_run(server: LocalHub) -> None:
    for _ in range(2):
        described()
        revision_of(resolve(REPOSITORY, None))
    assert server.requests.count(f"GET /api/models/{REPOSITORY}") == 1


@pytest.mark.parametrize("status", [0, 503], ids=["no-network", "hub-down"])
def test_what_was_fetched_serves_where_the_hub_does_not(
    server: LocalHub, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    load_model(resolve(REPOSITORY, None), "cpu", torch.float32)
    hub.look_up.cache_clear()
    if status:
        server.refusal = (status, "")
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert described().download_bytes == 0
    assert revision_of(resolve(REPOSITORY, None)) == COMMIT


def test_a_half_fetched_model_is_not_taken_for_a_whole_one(server: LocalHub, published: Path) -> None:
    described()
    hub.look_up.cache_clear()
    assert hub.cached(REPOSITORY, COMMIT) is None
    assert described().download_bytes == (published / SINGLE).stat().st_size


def test_a_cached_model_without_tokenizer_is_not_complete(server: LocalHub) -> None:
    for name in ("config.json", SINGLE):
        huggingface_hub.hf_hub_download(REPOSITORY, name, revision=COMMIT)
    assert hub.cached(REPOSITORY, COMMIT) is None


GATED = (
    "the hub keeps this model gated; accept its terms on https://huggingface.co/org/tiny, "
    "then log in with `hf auth login` or set HF_TOKEN"
)
NO_SUCH = (
    "no such model on the hub, or a private one, and no folder of that name here; "
    "check the spelling, or log in with `hf auth login`"
)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", GATED),
        (404, "RepoNotFound", NO_SUCH),
        (401, "RepoNotFound", NO_SUCH),
        (401, "", "the hub refused access (status 401); log in with `hf auth login` or correct HF_TOKEN"),
        (403, "", "the hub refused access (status 403); log in with `hf auth login` or correct HF_TOKEN"),
        (418, "", "the hub answered with status 418; try again later"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(server: LocalHub, status: int, code: str, message: str) -> None:
    server.refusal = (status, code)
    assert message_of() == f"{REPOSITORY}: {message}"


def test_a_revision_that_is_not_there(server: LocalHub) -> None:
    assert message_of(f"{REPOSITORY}@v9") == (
        "org/tiny: the hub has no revision 'v9' of it; give another after the @, or none for the newest"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model-q4.gguf", "its weights are in GGUF files, and no safetensors file is there"),
        ("pytorch_model.bin", "the weights are pickled (.bin, .pt), which runs code when opened"),
        ("weights.h5", "no model: neither model.safetensors nor model.safetensors.index.json is there"),
    ],
)
def test_a_repository_without_safetensors(server: LocalHub, published: Path, name: str, message: str) -> None:
    (published / SINGLE).rename(published / name)
    assert message_of().startswith(f"{REPOSITORY}: {message}; ")


def test_a_quantized_repository_is_refused_before_its_weights_are_downloaded(server: LocalHub, published: Path) -> None:
    path = published / "config.json"
    path.write_text(path.read_text().replace("{", '{"quantization_config": {"quant_method": "awq"},', 1))
    assert message_of() == (
        "org/tiny: the model is already quantized (method awq); give the full-precision model it came from"
    )
    assert not is_cached(SINGLE)


NO_NETWORK = (
    "not in the hub's cache, and the hub cannot be reached ({}); "
    "connect to the network, unset HF_HUB_OFFLINE, or give a local folder"
)


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ConnectError("Name or service not known\nand more"),
        httpx2.ReadTimeout("Name or service not known"),
        errors.OfflineModeIsEnabled("Name or service not known"),
        ConnectionResetError("Name or service not known"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("name", ["org/tiny", "qwen0.5b"])
def test_no_network_and_nothing_in_the_cache(monkeypatch: pytest.MonkeyPatch, error: Exception, name: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    hub_id = ALIASES[name].hub_id if name in ALIASES else name
    assert message_of(name) == f"{hub_id}: {NO_NETWORK.format('Name or service not known')}"


def test_a_network_that_fails_during_the_download(server: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise errors.LocalEntryNotFoundError("An error happened.\nPlease check your connection.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    assert message_of() == f"{REPOSITORY}: {NO_NETWORK.format('An error happened.')}"
