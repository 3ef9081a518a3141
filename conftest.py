"""Settings of every test in this project. Its plugins are named in pyproject.toml, for claims elsewhere too."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples on every machine in CI; new ones every time at a desk.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("desk", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Before anything of the suite is imported: see that pytest reads its settings from this project.

    Before it knows the suite's options it takes a path among them for a test's, and may find another project there.
    """
    config: Any = pluginmanager.get_plugin("pytestconfig")
    own, found = Path(__file__).with_name("pyproject.toml"), config.inipath
    if found != own and config.known_args_namespace.inifilename is None:
        raise pytest.UsageError(
            f"pytest reads its settings from {found or 'nowhere'}, not from {own}, because of a path among the "
            "options; join options and paths with an equals sign, as in --calibration-text=FILE, or give "
            "-c pyproject.toml"
        )
