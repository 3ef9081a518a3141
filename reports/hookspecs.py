"""The questions that the reports ask of the fixtures."""

from __future__ import annotations

import pytest

from awq_core.measured import Measured


@pytest.hookspec(firstresult=True)
def pytest_claims_measured(config: pytest.Config) -> list[Measured] | None:
    """The models measured so far, the untrained twins with them. Asked once, when the session ends."""


@pytest.hookspec(firstresult=True)
def pytest_claims_models(config: pytest.Config) -> list[str] | None:
    """The names of the models that the session was asked to judge, in that order."""
