"""The table of aliases, and how names of groups are written out."""

import subprocess
import sys

from fixtures.models.registry import ALIASES, DEFAULT_MODEL, EMBEDDED, GROUPS, expand


def test_every_alias_stands_under_its_own_name() -> None:
    assert all(alias.name == name for name, alias in ALIASES.items())


def test_exactly_the_hub_models_have_a_hub_id() -> None:
    assert all((alias.hub_id is not None) == (alias.kind == "hub") for alias in ALIASES.values())


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


def test_no_model_means_the_packaged_one() -> None:
    assert expand([]) == [DEFAULT_MODEL] == ["smollm2-135m-q4"]


def test_the_embedded_pair_has_a_name() -> None:
    assert expand([EMBEDDED]) == ["embedded-tiny", "embedded-small"]
    assert EMBEDDED not in ALIASES


def test_exactly_the_packaged_models_have_a_package() -> None:
    assert all((alias.package is not None) == (alias.kind == "packaged") for alias in ALIASES.values())


def test_a_control_is_written_out_to_both_sizes_once_and_in_order() -> None:
    assert expand(["planted-control", "qwen3b", "planted-control-tiny"]) == [
        "planted-control-tiny",
        "planted-control",
        "qwen3b",
    ]


def test_every_group_is_one_family_of_known_models() -> None:
    for members in GROUPS.values():
        assert len({ALIASES[member].family for member in members}) == 1


def test_finding_a_model_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, fixtures.models.registry, fixtures.models.resolve, fixtures.errors;"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
