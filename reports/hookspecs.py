"""The questions that the reports ask of the fixtures and of the claims."""

from __future__ import annotations

from typing import Any

import pytest

from awq_core.measured import Measured


@pytest.hookspec(firstresult=True)
def pytest_claims_measured(config: pytest.Config) -> list[Measured] | None:
    """The models measured so far, the untrained twins with them. Asked once, when the session ends."""


@pytest.hookspec(firstresult=True)
def pytest_claims_models(config: pytest.Config) -> list[str] | None:
    """The names of the models that the session was asked to judge, in that order."""


@pytest.hookspec(firstresult=True)
def pytest_claims_published(measured: Measured) -> list[dict[str, Any]] | None:
    """The published numbers of a measured model, each with ours beside it, as plain values."""
