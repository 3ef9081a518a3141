"""What several test files share: where tests measure into, and sessions on a tiny model or on invented claims."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.cache.store import CACHE_VARIABLE, cache_folder
from tests.reporting_sessions import Session
from tests.suite_sessions import Material, Suite, write_material


@pytest.fixture(scope="session", autouse=True)
def measurements(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that tests measure into: what `AWQ_CLAIMS_CACHE` names or pytest's own cache, never the user's."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get(CACHE_VARIABLE):
            kept = getattr(request.config, "cache", None)  # none under `-p no:cacheprovider`
            folder = kept.mkdir("measurements") if kept else tmp_path_factory.mktemp("measurements")
            patch.setenv(CACHE_VARIABLE, str(folder))
        yield cache_folder()


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, material: Material) -> Suite:
    for variable in ("AWQ_CLAIMS_MODELS", "AWQ_CLAIMS_TEXTS", "CI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(CACHE_VARIABLE, str(material.cache))
    monkeypatch.setattr("reports.output.draw_all", lambda measured, all_measured: {})
    return Suite(pytester, material)


@pytest.fixture
def session(pytester: pytest.Pytester) -> Session:
    """Runs a session of claims given as test source, and returns its result."""
    return Session(pytester)


@pytest.fixture
def lines() -> list[str]:
    """What a cache reports, where a test hands it `lines.append`."""
    return []
