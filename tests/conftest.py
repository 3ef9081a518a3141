"""What several test files share: the tiny model that whole sessions of the suite are run on."""

import pytest

from tests.suite_sessions import Material, Suite, write_material


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, material: Material) -> Suite:
    for variable in ("AWQ_CLAIMS_MODELS", "AWQ_CLAIMS_TEXTS", "CI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWQ_CLAIMS_CACHE", str(material.cache))
    monkeypatch.setattr("reports.output.draw_all", lambda measured, all_measured: {})
    return Suite(pytester, material)
