"""From the value of `--model` to where the model is: the table of aliases, names of groups, folders, the hub."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.errors import UserError
from fixtures.models.registry import ALIASES, DEFAULT_MODEL, EMBEDDED, GROUPS, expand
from fixtures.models.resolve import EMBEDDED_FOLDER, ModelSource, resolve, resolve_all, safe_name
from tests.refusals import refusal


def model_folder(folder: Path, model_type: str = "llama") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def message_of(name: str, models_folder: Path | None = None) -> str:
    return refusal(resolve, name, models_folder)


def test_a_hub_alias_is_its_repository_at_the_pin() -> None:
    assert resolve("qwen0.5b", None) == ModelSource(
        "qwen0.5b", None, "Qwen/Qwen2.5-0.5B", ALIASES["qwen0.5b"].revision, "qwen2.5", "hub"
    )


def test_the_models_folder_comes_before_the_hub(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "qwen0.5b", "qwen2")
    source = resolve("qwen0.5b", tmp_path)
    assert source == ModelSource("qwen0.5b", folder, None, None, "qwen2.5", "folder")


def test_the_models_folder_never_replaces_an_embedded_model_or_a_control(tmp_path: Path) -> None:
    model_folder(tmp_path / "embedded-tiny")
    model_folder(tmp_path / "null-control")
    assert resolve("embedded-tiny", tmp_path).location == EMBEDDED_FOLDER / "embedded-tiny"
    assert resolve("null-control", tmp_path) == ModelSource("null-control", None, None, None, "null-control", "control")


def test_two_models_of_one_type_in_the_models_folder_are_a_family(tmp_path: Path) -> None:
    models = tmp_path / "models"
    model_folder(models / "small")
    model_folder(models / "large")
    model_folder(models / "other", "gpt2")
    families = [resolve(name, models).family for name in ("small", "large", "other")]
    assert families == ["folder:models:llama", "folder:models:llama", "folder:models:gpt2"]


def test_a_folder_elsewhere_stands_alone(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "my model")
    assert resolve(str(folder), None) == ModelSource("my-model", folder, None, None, None, "folder")


def test_a_folder_without_a_readable_configuration_is_found_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text("{")
    assert resolve("broken", tmp_path).family is None


def test_an_existing_path_of_two_parts_is_a_folder_not_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    assert resolve("org/name", None).location == folder
    assert resolve("org/other", None).hub_id == "org/other"


def test_a_hub_id_takes_a_revision() -> None:
    source = resolve("org/na.me-2@refs/pr/1", None)
    assert source == ModelSource("org--na.me-2--refs--pr--1", None, "org/na.me-2", "refs/pr/1", None, "hub")


def test_the_hub_id_of_an_alias_is_the_alias() -> None:
    assert resolve("Qwen/Qwen2.5-0.5B", None) == resolve("qwen0.5b", None)
    other = resolve("Qwen/Qwen2.5-0.5B@main", None)
    assert (other.name, other.revision, other.family) == ("Qwen--Qwen2.5-0.5B--main", "main", "qwen2.5")


def test_a_misspelt_name_is_answered_with_close_ones(tmp_path: Path) -> None:
    model_folder(tmp_path / "llama-mine")
    assert message_of("lama-mine", tmp_path) == (
        "--model 'lama-mine' is no known model: did you mean llama-mine? "
        "A folder's path and a hub id such as org/name work too"
    )
    assert "did you mean embedded-tiny or embedded" in message_of("embeded-tiny")
    assert "did you mean embedded or" in message_of("embeded")


def test_a_name_like_nothing_known_is_answered_with_the_list() -> None:
    message = message_of("???")
    assert message.startswith("--model '???' is no known model: known names: embedded, null-control")
    assert message.endswith("gpt2-medium. A folder's path and a hub id such as org/name work too")


@pytest.mark.parametrize("name", ["", "a/b/c", "org/"])
def test_what_is_neither_folder_nor_hub_id_is_refused(name: str) -> None:
    assert message_of(name).startswith(f"--model {name!r} is no known model")


@pytest.mark.parametrize(
    "name",
    [
        "/no/such/folder",
        "./nothere",
        "~/nothere",
        "~nobody-here/model",
        "model.gguf",
        "weights/model.gguf",
        "/no/such/model.gguf",
    ],
)
def test_a_path_that_leads_nowhere_is_said_to(name: str) -> None:
    assert message_of(name) == f"--model {name!r}: no such file or folder; check the path"


def test_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    assert message_of(str(path)) == (
        f"--model {str(path)!r} is a file; give the folder that holds config.json and the safetensors weights, "
        "or a file that ends in .gguf"
    )


def test_but_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    path = tmp_path / "a model.Q4_K.gguf"
    path.write_bytes(b"GGUF")
    found = resolve(str(path), None)
    assert (found.name, found.gguf, found.location) == ("a-model.Q4_K", path, None)
    assert (found.kind, found.family, found.label) == ("folder", None, str(path))


def test_a_models_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert message_of("qwen0.5b", tmp_path / "gone") == (
        f"AWQ_CLAIMS_MODELS names no folder: {str(tmp_path / 'gone')!r}; correct it or unset it"
    )


def test_each_model_is_found_once(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "mine")
    names = ["mine", str(folder), "qwen0.5b", "Qwen/Qwen2.5-0.5B", "null-control"]
    found = resolve_all(names, tmp_path)
    assert [source.name for source in found] == ["mine", "qwen0.5b", "null-control-tiny", "null-control"]


def test_two_models_that_would_share_an_output_folder_are_refused(tmp_path: Path) -> None:
    first, second = model_folder(tmp_path / "a" / "mine"), model_folder(tmp_path / "b" / "mine")
    assert refusal(resolve_all, [str(first), str(second)], None) == (
        f"--model {str(first)!r} and --model {str(second)!r} would both be written to 'mine': "
        "rename one folder, or measure them in two runs with different --output"
    )


@pytest.mark.parametrize(
    ("name", "safe"),
    [("Qwen/Qwen3-8B", "Qwen--Qwen3-8B"), ("a b\\c", "a-b-c"), ("..", "model"), ("ü", "-"), (".hidden", "hidden")],
)
def test_a_name_is_made_safe_for_a_folder(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_a_source_says_where_it_is() -> None:
    assert resolve("qwen3b", None).label == "Qwen/Qwen2.5-3B"
    assert resolve("null-control", None).label == "null-control"
    assert resolve("embedded-tiny", None).label.endswith("embedded-tiny")


def test_a_user_error_is_one_line() -> None:
    with pytest.raises(ValueError, match="one line"):
        UserError("two\nlines")


def test_the_table_of_aliases_says_of_each_what_its_kind_needs() -> None:
    for name, alias in ALIASES.items():
        assert alias.name == name
        assert (alias.hub_id is not None) == (alias.kind == "hub")
        assert (alias.package is not None) == (alias.kind == "packaged")
    for members in GROUPS.values():
        assert len({ALIASES[member].family for member in members}) == 1


def test_a_pin_is_a_full_commit_and_no_two_models_share_one() -> None:
    pins = [alias.revision for alias in ALIASES.values() if alias.revision is not None]
    assert pins
    assert all(len(pin) == 40 and set(pin) <= set("0123456789abcdef") for pin in pins)
    assert len(set(pins)) == len(pins)


def test_a_size_s_two_models_are_the_base_and_the_instruct_repository() -> None:
    assert ALIASES["qwen0.5b"].hub_id == "Qwen/Qwen2.5-0.5B"
    assert ALIASES["qwen7b-instruct"].hub_id == "Qwen/Qwen2.5-7B-Instruct"
    assert ALIASES["qwen0.5b"].family == ALIASES["qwen7b"].family == "qwen2.5"
    assert ALIASES["qwen0.5b-instruct"].family == "qwen2.5-instruct"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ([], ["smollm2-135m-q4"]),
        ([EMBEDDED], ["embedded-tiny", "embedded-small"]),
        (["planted-control", "qwen3b", "planted-control-tiny"], ["planted-control-tiny", "planted-control", "qwen3b"]),
    ],
)
def test_a_group_is_written_out_once_and_in_order_and_no_name_means_the_packaged_model(
    given: list[str], names: list[str]
) -> None:
    assert expand(given) == names
    assert EMBEDDED not in ALIASES
    assert DEFAULT_MODEL == "smollm2-135m-q4"


def test_finding_a_model_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, fixtures.models.registry, fixtures.models.resolve, fixtures.errors;"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
